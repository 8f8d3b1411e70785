"""Start a project from a trained model: it predicts from the first minute, and training continues from it.

  ml-backend import-model dogs.safetensors --model-type resnet50 --classes beagle,boxer,collie
  ml-backend import-model v12                      a folder that `export model` wrote

The file is a state dict of a torchvision or timm classifier, including the final layer, as safetensors or as a torch
file without code. Class names are matched to the project's labels; what does not match is listed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ml_backend.commands.options import ENVIRONMENT, add_common, find_project, open_services, positive
from ml_backend.commands.output import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    parser.add_argument("path", type=Path, help="a state dict, or a folder written by `export model`")
    parser.add_argument(
        "--model-type", metavar="NAME", help=("the network the state dict belongs to: resnet18, timm:...")
    )
    parser.add_argument(
        "--classes", metavar="A,B,C", help=("class names in the file's order, if the file does not contain them")
    )
    parser.add_argument("--n-classes", type=int, metavar="N", help="expected number of classes, as a check")
    parser.add_argument(
        "--input-size",
        type=positive,
        metavar="N",
        help="side in pixels of the images it was trained on, if the file does not say",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    from ml_backend.imports.trained_model import ModelSource  # noqa: PLC0415 - torch takes seconds: `--help` does not wait
    from ml_backend.worker.foreground import alone  # noqa: PLC0415

    services = open_services(dry_run=args.dry_run)
    answer = Answer(as_json=args.json)
    project = find_project(services, args)
    class_names = [name.strip() for name in args.classes.split(",")] if args.classes else None
    source = ModelSource(args.path, args.model_type, class_names, args.n_classes, args.input_size)
    if args.dry_run:
        match = services.model_importer.match(project, source)
        name = f"v{services.versions.next_number(project)}"
        document = {"version": name, "dry_run": True, **vars(match)}
        answer.result(document, f"{name} would be served. {match}. Nothing was changed (--dry-run).")
        return 0
    with alone(project, services, "import-model"):
        version, match = services.model_importer.start_from(project, source)
    size = services.predictor.encoder(project, version.number).input_size
    document = {
        "version": version.name,
        "matched": match.matched,
        "labels_without_class": match.labels_without_class,
        "input_size": size,
    }
    text = f"{version.name} is now served. {match}."
    if size:
        text += f" Images are scaled to {size} pixels. If it was trained at another size, pass --input-size, or it will predict badly."
    answer.result(document, text)
    return 0

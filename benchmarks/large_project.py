"""One turn of the loop on 50,000 images, and `/predict` under way: a real Label Studio, the service beside it.

    python -m benchmarks.large_project --data ../shared/data                  CIFAR-10's 50,000 training images
    python -m benchmarks.large_project --data ../shared/data --images 2000    a quick look
    python -m benchmarks.large_project --only predict                         sixteen new JPEG files alone

The turn counts from the answer to the label that sets it off to the moment Label Studio serves the new batch's first
task. Aims: 5 s a turn; `/predict` of 100 tasks whose vectors are stored 100 ms; 16 new JPEG files at 0.7 of the bare
forward pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from safetensors.torch import save_file

from benchmarks.commands import CLASSES, unpack
from benchmarks.encode import bare_forward, bare_lanes, jpegs
from benchmarks.live import label_studio, machine
from ml_backend.demo.label_studio import EmbeddedLabelStudio, free_port
from ml_backend.encoders.networks import build_network
from ml_backend.encoders.vision import torchvision
from ml_backend.hosts import host_slug
from ml_backend.images.decoding import decode
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.labelstudio.results import annotation_result
from ml_backend.labelstudio.storage import add_local_storage
from ml_backend.services import Services
from ml_backend.settings import Settings
from tests.e2e import stack as stacks
from tests.e2e.stack import Stack, service, wait_until

NEW = 16
FIRST = 5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10.tar.gz")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--labelled", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--requests", type=int, default=50, help="of /predict")
    parser.add_argument("--only", choices=["turn", "predict"])
    args = parser.parse_args(argv)
    stacks.PATIENCE = 600.0  # the first turn encodes every image
    report: dict[str, Any] = {"machine": machine()}
    with (
        tempfile.TemporaryDirectory() as name,
        label_studio(Path(name)) as server,
        LabelStudio(server.url, server.token) as client,
    ):
        if args.only != "predict":
            if args.data is None:
                parser.error("--data is needed: the folder with cifar10.tar.gz")
            report |= large(server, client, Path(name) / "large", args)
        if args.only != "turn":
            report |= new_files(server, client, Path(name) / "new", args.turns)
    print(json.dumps(report, indent=2))
    return 0


def large(server: EmbeddedLabelStudio, client: LabelStudio, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Turns of the loop on many images, and /predict of tasks whose vectors are stored."""
    images = root(server) / "cifar"
    unpack(args.data / "cifar10.tar.gz", images, 50_000)
    files = sorted(images.rglob("*.jpg"), key=lambda file: file.name)[: args.images]  # ten classes in turn
    truth = {file: file.parent.name for file in files}
    with (
        project(server, client, folder, truth, args.labelled, ML_BACKEND_ENCODER="patches") as (stack, environment),
        service(environment, stack.settings),
    ):
        report: dict[str, Any] = {"images": len(files), **connected(stack)}
        turns = [turn(stack) for _ in range(args.turns)]
        report["turns, s"] = [round(seconds, 2) for seconds, _ in turns]
        report["turn, median, s"] = statistics.median(report["turns, s"])
        report["turn, worst, s"] = max(report["turns, s"])
        report["its steps, median, s"] = {
            step: round(statistics.median(steps.get(step, 0.0) for _, steps in turns), 3) for step in turns[0][1]
        }
        report["the first turns' steps, s"] = [steps for _, steps in turns[:FIRST]]
        tasks = [{"id": t.id, "data": dict(t.data)} for t in client.tasks(stack.project_id)]
        rng = np.random.default_rng(0)
        picks = [[tasks[i] for i in rng.choice(len(tasks), 100, replace=False)] for _ in range(args.requests)]
        taken = [predict(stack, pick) for pick in picks]
        report["predict, 100 stored, median, ms"] = round(1e3 * statistics.median(taken), 1)
        report["predict, 100 stored, worst, ms"] = round(1e3 * max(taken), 1)
    return report


def turn(stack: Stack) -> tuple[float, dict[str, float]]:
    """Label as many as set off a turn; seconds until the new batch is served, and those of the job's own steps."""
    before = stack.services.ledger.last_round(stack.project)
    assert before is not None
    for _ in range(stack.settings.train_after_labels):
        stack.label_next()
    began = time.perf_counter()

    def served() -> bool:
        last = stack.services.ledger.last_round(stack.project)
        return last is not None and last.number > before.number and last.state == "verified"

    wait_until(served, "new queue")
    seconds = time.perf_counter() - began
    last = stack.services.ledger.last_round(stack.project)
    task = next_task(stack.client, stack.project_id)
    if last is None or task is None or task["id"] not in stack.ranking(last)[:2]:  # the first may still be locked
        raise SystemExit(f"Label Studio does not serve the new batch: {task and task['id']}")
    wait_until(lambda: not stack.services.jobs.status(stack.project).running, "end of the job")
    history = stack.services.jobs.history(stack.project)
    return seconds, next(job.summary["seconds"] for job in history if job.summary)


def new_files(server: EmbeddedLabelStudio, client: LabelStudio, folder: Path, turns: int) -> dict[str, Any]:
    """/predict of sixteen JPEG files never seen, with ResNet-18, beside the bare forward pass."""
    folder.mkdir()
    images = root(server) / "photos"
    images.mkdir()
    for number, data in enumerate(jpegs(60 + NEW * (turns + 2), (500, 375))):
        (images / f"{number:04d}.jpg").write_bytes(data)
    weights = folder / "resnet18.safetensors"
    torch.manual_seed(0)
    save_file(torchvision().models.resnet18(num_classes=10).state_dict(), weights)
    files = sorted(images.iterdir())
    truth = {file: CLASSES[number % 2] for number, file in enumerate(files[:60])}
    network = {"ML_BACKEND_ENCODER": "resnet18", "ML_BACKEND_ENCODER_WEIGHTS": str(weights)}
    with project(server, client, folder / "service", truth, 40, **network) as (stack, environment):
        with service(environment, stack.settings):
            connected(stack)
        # The worker would encode what is new at once: without it, that stays new.
        client.import_tasks(stack.project_id, [data_of(server, file) for file in files[60:]])
        tasks = [{"id": t.id, "data": dict(t.data)} for t in client.tasks(stack.project_id)][60:]
        body, batch = bare_network(weights, files[:NEW])
        ours, bare = [], []
        with service(environment, stack.settings, "--only", "web"):
            for place in range(turns + 2):
                ours.append(predict(stack, tasks[place * NEW : (place + 1) * NEW]))
                ways = (bare_forward, body, 1), (bare_lanes, body, 1, torch.get_num_threads())
                bare.append(min(timed(way, batch, *given) for way, *given in ways))
    ours, bare = ours[2:], bare[2:]
    return {
        "predict, 16 new, median, ms": round(1e3 * statistics.median(ours), 1),
        "bare forward pass of 16, median, ms": round(1e3 * statistics.median(bare), 1),
        "predict's rate / bare rate": round(statistics.median(b / o for o, b in zip(ours, bare, strict=True)), 3),
    }


def bare_network(weights: Path, files: list[Path]) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network, and these files as a batch in memory, ready for it."""
    encoder = build_network("resnet18", weights=weights)
    pixels = np.stack([encoder.prepare(decode(file.read_bytes(), encoder.input_size)) for file in files])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)
    return encoder.module().get_submodule("body"), batch


@contextmanager
def project(
    server: EmbeddedLabelStudio,
    client: LabelStudio,
    folder: Path,
    truth: dict[Path, str],
    labelled: int,
    classes: Sequence[str] = CLASSES,
    **more: str,
) -> Iterator[tuple[Stack, dict[str, str]]]:
    """A project of these images, `labelled` of them already; no service yet, but the environment to start it in."""
    number = int(client.create_project("benchmark", label_config(classes))["id"])
    first = next(iter(truth)).relative_to(root(server))
    add_local_storage(client, number, root(server) / first.parts[0])
    schema = client.schema(number)
    client.import_tasks(
        number,
        [
            {
                "data": data_of(server, file),
                "annotations": [{"result": annotation_result(schema, [label])}] if place < labelled else [],
            }
            for place, (file, label) in enumerate(truth.items())
        ],
    )
    port = free_port()
    own = {
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": server.token,
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root(server)),
        "ML_BACKEND_DATA_DIR": str(folder),
        "ML_BACKEND_PORT": str(port),
        "ML_BACKEND_URL": f"http://127.0.0.1:{port}",
        "ML_BACKEND_LOG_LEVEL": "WARNING",
        **more,
    }
    settings = Settings.from_environ(own)
    services = Services.open(settings)
    named = {data_of(server, file)["filename"]: label for file, label in truth.items()}
    yield Stack(client, services, settings, number, schema, named), own
    services.database.close()


def connected(stack: Stack) -> dict[str, float]:
    """Connect the project; seconds until there is something to label, and until the model's own queue is there."""
    began = time.perf_counter()
    connect(stack.client, stack.project_id, f"{stack.settings.url}/hosts/{host_slug(stack.client.url)}")

    def served() -> bool:
        last = stack.services.ledger.last_round(stack.project)
        return last is not None and last.state == "verified"

    wait_until(served, "first order")
    first = time.perf_counter() - began
    stack.round_after(0)
    return {"first order, s": round(first, 1), "first queue, s": round(time.perf_counter() - began, 1)}


def predict(stack: Stack, tasks: list[dict[str, Any]]) -> float:
    """Seconds of one /predict, asked as Label Studio does; every task must be given a label."""
    url = f"{stack.settings.url}/hosts/{host_slug(stack.client.url)}/predict"
    began = time.perf_counter()
    answer = requests.post(url, json={"tasks": tasks, "project": str(stack.project_id)}, timeout=120)
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    if wrong := [result for result in answer.json()["results"] if "error" in result]:
        raise SystemExit(f"/predict could not read an image: {wrong[0]}")
    return seconds


def data_of(server: EmbeddedLabelStudio, file: Path) -> dict[str, Any]:
    return {
        "image": f"/data/local-files/?d={file.relative_to(root(server))}",
        "filename": f"{file.parent.name}/{file.name}",
    }


def root(server: EmbeddedLabelStudio) -> Path:
    assert server.document_root is not None
    return server.document_root


def timed(run: Callable[..., object], *given: Any) -> float:
    began = time.perf_counter()
    run(*given)
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())

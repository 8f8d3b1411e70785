"""Replay query strategies on labelled data before you trust one.

  ml-backend simulate digits --strategies random,margin,auto
  ml-backend simulate path/to/folder-by-class --labels 400 --batch 20 --seeds 10
  ml-backend simulate labels.csv --images path/to/images --strategies random,random+margin,auto
  ml-backend simulate project --project 3
  ml-backend simulate project --project 3 --protocol live --skips 0.1

`--protocol live` asks as the service does: half of the first images are those held out to measure the accuracy, the model is
trained after ten answers and served a little later, and junk is skipped. All that is asked counts as an answer.

A strategy that needs a model chooses its first batch by coverage; `random+margin` starts with a random batch instead.
Finished runs are kept in the output folder and not repeated, so a stopped simulation continues where it was. A run is known
by the images' content, the settings and the version of the code: other images or another release are replayed anew.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ml_backend import settings
from ml_backend.commands.options import add_common, add_sampling, find_project, open_services
from ml_backend.errors import InvalidInputError
from ml_backend.simulation.data import STRESS, Data, Source, digits
from ml_backend.simulation.labelled_images import Example, encoded, from_csv, from_folder
from ml_backend.simulation.picture import draw
from ml_backend.simulation.replay import Live, Settings, parts
from ml_backend.simulation.runs import read, simulate
from ml_backend.simulation.simulated_head import LiveHead
from ml_backend.simulation.summary import gathered
from ml_backend.simulation.table import table
from ml_backend.strategies import STRATEGIES
from ml_backend.wording import amount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        help=(
            "digits (built in), a folder with one subfolder per class, a CSV with filename,label, or `project`: "
            "the labels of a Label Studio project"
        ),
    )
    parser.add_argument(
        "--images", type=Path, help=("folder that holds the CSV's images (default: the CSV's own folder)")
    )
    parser.add_argument(
        "--strategies",
        default="random,margin,auto",
        help=(
            f"comma-separated: {', '.join(STRATEGIES)}; first+rest uses another strategy for the first batch; "
            "`all` runs all of them"
        ),
    )
    parser.add_argument("--seeds", type=int, default=5, help="paired runs per strategy (default: 5)")
    parser.add_argument("--batch", type=int, default=20, help="labels per batch (default: 20)")
    parser.add_argument("--labels", type=int, default=400, help="labels in total (default: 400)")
    add_sampling(parser)
    parser.add_argument("--stress", choices=sorted(STRESS), default="none", help="make the data harder (default: none)")
    parser.add_argument(
        "--protocol",
        choices=["pool", "live"],
        default="pool",
        help="pool: the strategy picks every label; live: as the service asks, held-out images and skips included "
        "(default: pool)",
    )
    parser.add_argument(
        "--skips",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="with --protocol live: share of junk, which is skipped",
    )
    parser.add_argument(
        "--late",
        type=int,
        metavar="N",
        help=f"with --protocol live: answers given while a model is trained (default: {Live.late})",
    )
    parser.add_argument("--encoder", default="auto", help="auto, patches or a torchvision model (default: auto)")
    parser.add_argument("--weights", type=Path, help="file with weights for the encoder")
    parser.add_argument(
        "--target",
        type=float,
        action="append",
        default=[],
        help=("also count the labels needed to reach this accuracy"),
    )
    parser.add_argument("--out", type=Path, default=Path("simulation"), help="output folder (default: simulation)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_common(parser, as_json=False)


def run(args: argparse.Namespace) -> int:
    names = (
        list(STRATEGIES)
        if args.strategies == "all"
        else list(dict.fromkeys(n.strip() for n in args.strategies.split(",") if n.strip()))
    )
    if args.seeds < 1 or args.batch < 1 or args.labels < args.batch or not names:
        raise InvalidInputError("Needs at least one strategy, --seeds 1, --batch 1 and --labels for one batch.")
    if args.power is not None and not (math.isfinite(args.power) and args.power > 0):
        raise InvalidInputError(f"--power must be a number above 0, not {args.power}.")
    settings = Settings(args.batch, args.labels, args.pool_size, args.power, live_of(args))
    if args.dry_run:
        return planned(args, names)
    source = stressed(source_of(args), args.stress)
    rounds = simulate(
        source, names, range(args.seeds), settings, LiveHead(), args.out / "runs.csv", progress=not args.quiet
    )
    name = source(0).name
    runs = gathered(rounds)
    text = table(runs, args.target)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    for path in (args.out / "runs.csv", args.out / "table.md", *draw(runs, name, args.out / "accuracy")):
        print(f"wrote {path}")
    return 0


def live_of(args: argparse.Namespace) -> Live | None:
    """What the live protocol is to be like, None for the other one. Raises InvalidInputError."""
    if args.protocol != "live":
        if args.skips or args.late is not None:
            raise InvalidInputError("--skips and --late belong to --protocol live.")
        return None
    after = min(Live.train_after, args.batch)
    late = min(Live.late, after) if args.late is None else args.late
    if not 0 <= args.skips < 1 or not 0 <= late <= after:
        raise InvalidInputError(f"--skips must be 0 or more and below 1, and --late from 0 to {after}.")
    if args.labels <= after:
        raise InvalidInputError(
            f"--labels must be more than {after}: the first model is served after as many answers, and none is judged "
            "before."
        )
    return Live(train_after=after, late=late, skips=args.skips)


def planned(args: argparse.Namespace, names: Sequence[str]) -> int:
    """Say what would be replayed and written; raises what the replay would, as far as that is known before it."""
    for name in names:
        parts(name)
    title, images = "digits", 1797
    if args.data != "digits":
        title, examples = examples_of(args)
        images = len(examples)
    rounds = f"{amount(args.labels // args.batch, 'round')} of {amount(args.batch, 'label')}"
    length = f"{amount(args.labels, 'answer')}, asked for as the service does" if args.protocol == "live" else rounds
    print(f"Would replay {', '.join(names)} on {title} ({amount(images, 'labelled image')}): {args.seeds} runs each of "
          f"{length}.")  # fmt: skip
    done = len({(r.key, r.strategy, r.seed) for r in read(args.out / "runs.csv") if r.key})
    if done:
        print(f"{args.out / 'runs.csv'} holds {amount(done, 'run')}: those of these images and settings, made by this "
              "version, would not be repeated.")  # fmt: skip
    print(f"Would write runs.csv, table.md and the accuracy plot to {args.out}. Nothing was changed (--dry-run).")
    return 0


def source_of(args: argparse.Namespace) -> Source:
    if args.data == "digits":
        return digits
    name, examples = examples_of(args)
    allowed = settings.Settings.from_environ(os.environ).downloads == "yes"
    return encoded(
        name, examples, args.encoder, args.out, weights=args.weights, progress=not args.quiet, downloads=allowed
    )


def examples_of(args: argparse.Namespace) -> tuple[str, list[Example]]:
    """The name of the data and its labelled images."""
    if args.data == "project":
        return from_project(args)
    path = Path(args.data)
    if not path.exists():
        raise InvalidInputError(
            f"{path} does not exist: name digits, a folder with one subfolder per class, a CSV, or project."
        )
    return path.name, from_folder(path) if path.is_dir() else from_csv(path, args.images)


def from_project(args: argparse.Namespace) -> tuple[str, list[Example]]:
    """Title and labelled images of a project, by the same consensus as everything else."""
    services = open_services(dry_run=args.dry_run)
    project, _ = services.label_sync.sync(find_project(services, args), full=True)
    if project.schema.multiple:
        raise InvalidInputError(f"{project.title} allows several labels per image; `simulate` needs exactly one.")
    labels = {label.task_id: label.labels[0] for label in services.ledger.labels(project)}
    if len(set(labels.values())) < 2:
        raise InvalidInputError(
            f"{project.title} has labels of fewer than two classes: label images of two classes or more."
        )
    tasks, rows = services.ledger.tasks(project, sorted(labels)), services.ledger.pool(project)
    contents = dict(zip(rows.ids.tolist(), rows.hashes.tolist(), strict=True))
    return project.title, [
        Example(
            str(task.data.get("filename", task.id)),
            labels[task.id],
            partial(services.encoding.read, project, task),
            contents.get(task.id, b"").decode(),
        )
        for task in tasks
    ]


def stressed(source: Source, stress: str) -> Source:
    def harder(seed: int) -> Data:
        return STRESS[stress](source(seed), seed)

    return harder

"""What the commands cost on a large project, beside the same work through label-studio-sdk, in one run.

  python benchmarks/commands.py --data ../shared/data                  50,000 images of CIFAR-10
  python benchmarks/commands.py --data ../shared/data --images 2000    a quick look

Starts a Label Studio of its own. Prints one line a figure, and a JSON document at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from ml_backend.demo.label_studio import EmbeddedLabelStudio, find_binary
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config, parse_label_config
from ml_backend.labelstudio.results import annotation_result
from ml_backend.labelstudio.storage import sdk
from tests.e2e.template import make_template

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
QUEUE = 1_000
# A process counts the memory of the one that forked it as its own, so a small one stands in between.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


class Run:
    """One Label Studio, the figures so far, and commands run as a person would."""

    def __init__(self, studio: EmbeddedLabelStudio, folder: Path) -> None:
        self.studio, self.folder = studio, folder
        self.client = LabelStudio(studio.url, studio.token)
        self.figures: dict[str, float] = {}
        self.environment = os.environ | {
            "LABEL_STUDIO_URL": studio.url,
            "LABEL_STUDIO_API_KEY": studio.token,
            "ML_BACKEND_DATA_DIR": str(folder / "backend"),
        }

    def environment_of_ours(self) -> dict[str, str]:
        names = ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "ML_BACKEND_DATA_DIR")
        return {name: self.environment[name] for name in names}

    def command(self, *arguments: str) -> tuple[float, float]:
        """Seconds and peak memory (MB) of `ml-backend ...`."""
        before = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-c", MEASURED, sys.executable, "-m", "ml_backend.cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise SystemExit(f"ml-backend {' '.join(arguments)} failed with {ran.returncode}")
        return time.perf_counter() - before, int(ran.stdout) / 1024

    def note(self, name: str, value: float) -> None:
        self.figures[name] = round(value, 3)
        print(f"{name:<60} {value:>12,.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10.tar.gz")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--sdk-seconds", type=float, default=90.0, help="how long the SDK's listing is measured for")
    parser.add_argument("--template", type=Path, help="folder to keep an empty Label Studio in, for a faster start")
    args = parser.parse_args()
    binary = find_binary(Path.cwd(), os.environ)
    if binary is None:
        raise SystemExit("Label Studio is not installed: make setup")
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        folder = Path(name)
        template = make_template(binary, args.template or folder / "template")
        root = folder / "root"
        unpack(args.data / "cifar10.tar.gz", root / "large", args.images)
        with EmbeddedLabelStudio(binary, folder / "studio", document_root=root, template=template) as studio:
            run = Run(studio, folder)
            pool = importing(run, root / "large", args.images, labelled=False)
            listing(run, pool, args.sdk_seconds, "mostly unlabelled")
            large = importing(run, root / "large", args.images, labelled=True)
            listing(run, large, args.sdk_seconds, "all labelled", fields="all")
            small = small_project(run, root)
            exporting(run, large, small)
            prioritizing(run, small)
    print(json.dumps(run.figures, indent=2))
    return 0


def unpack(archive: Path, target: Path, count: int) -> None:
    """Write the first `count` training images as <target>/<class>/<number>.jpg."""
    with tarfile.open(archive) as tar:
        members = (member for member in tar if member.isfile() and member.name.startswith("cifar10/train/"))
        for member in islice(members, count):
            _, _, label, name = member.name.split("/")
            (target / label).mkdir(parents=True, exist_ok=True)
            data = tar.extractfile(member)
            if data is not None:
                (target / label / name).write_bytes(data.read())


def importing(run: Run, folder: Path, count: int, *, labelled: bool) -> int:
    """All images into a project of their own; unlabelled ones twice, the second time with nothing new."""
    title = "Labelled" if labelled else "Pool"
    project = int(run.client.create_project(title, label_config(CLASSES))["id"])
    options = ["--by-class"] if labelled else []
    seconds, memory = run.command("import-images", str(folder), "--project", str(project), *options)
    if run.client.get_project(project)["task_number"] != len(list(folder.rglob("*.jpg"))):
        raise SystemExit("the project does not have every image once")
    run.note(f"import-images, {count:,} images{', labelled' if labelled else ''}, s", seconds)
    run.note(f"import-images{', labelled' if labelled else ''}, peak memory, MB", memory)
    if not labelled:
        seconds, _ = run.command("import-images", str(folder), "--project", str(project))
        run.note("import-images again, nothing new, s", seconds)
        schema = parse_label_config(label_config(CLASSES))
        for task in islice(run.client.tasks(project), 100):
            run.client.create_annotation(task.id, annotation_result(schema, [str(task.data["path"]).split("/")[0]]))
    return project


def listing(run: Run, project: int, most_seconds: float, what: str, fields: str | None = None) -> None:
    """The first sync, ledger and all, against the SDK's listing: its default, or with `fields` such as ours needs."""
    from ml_backend.services import Services
    from ml_backend.settings import Settings

    services = Services.open(Settings.from_environ(run.environment_of_ours()))
    config = run.client.get_project(project)["label_config"]
    known = services.registry.register(run.studio.url, project, config, created=None)
    total = run.client.get_project(project)["task_number"]
    ours = total / timed(lambda: services.label_sync.sync(known, full=True))
    services.database.close()
    run.note(f"first sync, {what}, tasks/s", ours)
    with sdk(run.client) as api:
        began = time.perf_counter()
        seen = 0
        for _ in api.tasks.list(project=project, **({"fields": fields} if fields else {})):
            seen += 1
            if time.perf_counter() - began > most_seconds:
                break
        theirs = seen / (time.perf_counter() - began)
    run.note(f"SDK's listing, {fields or 'default'}, tasks/s (over {seen:,})", theirs)
    run.note(f"first sync, {what}, against the SDK, times", ours / theirs)


def small_project(run: Run, root: Path) -> int:
    """4,000 labelled and 1,000 unlabelled tasks of the same images, by a CSV."""
    project = int(run.client.create_project("Small", label_config(CLASSES))["id"])
    files = sorted((root / "large").rglob("*.jpg"))[:5_000]
    rows = [(str(file), file.parent.name if place % 5 else "") for place, file in enumerate(files)]
    with (root / "small.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    run.command("import-images", str(root / "small.csv"), "--project", str(project))
    return project


def exporting(run: Run, large: int, small: int) -> None:
    for name, project in (("large", large), ("small", small)):
        out = str(run.folder / f"{name}.csv")
        run.command("export", "labels", "--project", str(project), "--out", out)
        seconds, memory = run.command("export", "labels", "--project", str(project), "--out", out)
        with Path(out).open(encoding="utf-8", newline="") as file:
            rows = sum(1 for _ in csv.DictReader(file))
        run.note(f"export labels, {rows:,} rows, s", seconds)
        run.note(f"export labels, {rows:,} rows, peak memory, MB", memory)


def prioritizing(run: Run, project: int) -> None:
    """The whole of `prioritize` (pushed, read back and checked), against one SDK call a task."""
    from ml_backend.services import Services
    from ml_backend.settings import Settings
    from ml_backend.worker.foreground import alone

    services = Services.open(Settings.from_environ(run.environment_of_ours()))
    known = next(p for p in services.ledger.projects() if p.key.project_id == project)
    rows = services.ledger.pool(known)
    tasks = [int(i) for i in rows.ids[~rows.answered][:QUEUE]]
    batch = services.manual_queue.batch(known, {task: float(len(tasks) - place) for place, task in enumerate(tasks)})
    with alone(known, services, "benchmark"):
        ours = len(tasks) / timed(lambda: services.manual_queue.push(known, batch))
    services.database.close()
    run.note(f"prioritize, {len(tasks):,} tasks, tasks/s", ours)
    schema = parse_label_config(label_config(CLASSES))
    with sdk(run.client) as api:
        few = tasks[:100]

        def one_by_one() -> None:
            for place, task in enumerate(few):
                result = annotation_result(schema, ["cat"])
                api.predictions.create(task=task, result=result, score=place / 100, model_version="sdk")

        theirs = len(few) / timed(one_by_one)
    run.note("one SDK call a task, tasks/s", theirs)
    run.note("prioritize against one SDK call a task, times", ours / theirs)


def timed(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

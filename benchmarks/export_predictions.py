"""Seconds and peak memory of `export predictions`: does it grow with the project?

    python -m benchmarks.export_predictions --tasks 20000 200000

Makes a store of so many tasks with random vectors, one in fifty labelled, and a version; then runs the command on it as a person
would, with --offline: a table with the probabilities of ten classes. Printed: one JSON line for each size and format. `anonymous` is the process's own
memory at its highest; `resident` has the parts of mapped files as well, which are given back when somebody needs the room.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from ml_backend.chunks import chunks
from ml_backend.encoders.patches import fit_patches
from ml_backend.labelstudio.config import label_config
from ml_backend.learning.head import Head
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.version_meta import VersionMeta

HOST = "http://127.0.0.1:9"
CLASSES = tuple(f"class {number}" for number in range(10))
LABELLED = 50
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WATCHED_EVERY = 0.02


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--formats", nargs="+", default=["csv", "parquet"], choices=["csv", "jsonl", "parquet"])
    args = parser.parse_args(argv)
    for tasks in args.tasks:
        with tempfile.TemporaryDirectory() as name:
            made(Path(name) / "data", tasks)
            for form in args.formats:
                figures = exported(Path(name) / "data", Path(name) / f"predictions.{form}")
                print(json.dumps({"tasks": tasks, "format": form, **figures}), flush=True)
    return 0


def made(folder: Path, tasks: int) -> None:
    """A store of so many tasks, all of which were read and encoded, and the version v1."""
    services = Services.open(Settings(data_dir=folder, label_studio_url=HOST, label_studio_api_key="k" * 40))
    project = services.registry.register(HOST, 1, label_config(CLASSES), created=1)
    services.ledger.reconcile(project, ((task(i), answers(i)) for i in range(1, tasks + 1)), full=True)
    rng = np.random.default_rng(0)
    encoder = fit_patches([Image.fromarray(rng.integers(0, 255, (24, 24), np.uint8)) for _ in range(20)], seed=0)
    for part in chunks(range(1, tasks + 1), 20_000):
        hashes = {i: hashlib.sha256(str(i).encode()).hexdigest() for i in part}
        services.features.append(encoder.id, list(hashes.values()), rng.normal(size=(len(part), encoder.dim)))
        services.ledger.set_content_hash(project, hashes)
    weight = rng.normal(size=(len(CLASSES), encoder.dim)).astype(np.float32)

    def write(version: Path) -> None:
        encoder.save(version)
        Head(CLASSES, weight, np.zeros(len(CLASSES), np.float32)).save(version)

    services.versions.publish(project, 1, write, VersionMeta(classes=CLASSES, labels=tasks // LABELLED))
    services.versions.promote(project, 1)
    services.database.close()


def task(number: int) -> Task:
    path = f"birds/{number // 1000:04d}/{number:07d}.jpg"
    image = f"/data/local-files/?d={path}"
    return Task(number, image, {"image": image, "path": path, "filename": Path(path).name}, NOW)


def answers(number: int) -> list[Annotation]:
    label = CLASSES[number // LABELLED % len(CLASSES)]
    return [Annotation(number, number, (label,), False, False, 1, NOW, NOW)] if number % LABELLED == 0 else []


def exported(folder: Path, out: Path) -> dict[str, float]:
    """Run the command; seconds, and MiB at their highest, read from /proc while it runs."""
    own = {"LABEL_STUDIO_URL": HOST, "LABEL_STUDIO_API_KEY": "k" * 40, "ML_BACKEND_DATA_DIR": str(folder)}
    command = [sys.executable, "-m", "ml_backend.cli", "export", "predictions", "--offline", "--probabilities"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out)], env=os.environ | own, stdout=subprocess.DEVNULL)
    highest = {"RssAnon": 0, "VmHWM": 0}
    while process.poll() is None:
        for line in _status(process.pid):
            name, _, value = line.partition(":")
            if name in highest and value:
                highest[name] = max(highest[name], int(value.split()[0]))
        time.sleep(WATCHED_EVERY)
    if process.returncode:
        raise SystemExit(f"the export failed with {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "anonymous, MiB": round(highest["RssAnon"] / 1024),
        "resident, MiB": round(highest["VmHWM"] / 1024),
        "file, MiB": round(out.stat().st_size / 2**20, 1),
    }


def _status(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


if __name__ == "__main__":
    raise SystemExit(main())

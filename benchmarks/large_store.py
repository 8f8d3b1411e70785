"""A store of a project as large as wanted, written straight into its tables: no Label Studio, no image, in a minute or two.

    python -m benchmarks.large_store /tmp/large --tasks 1000000 --labels 20000 --rounds 500

What is in it is as a project of that size has it: vectors, answers of several people, rounds with their queries, versions with
what was measured of them, one of them served.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL import Image

from ml_backend.demo.label_studio import free_port
from ml_backend.encoders.encoder import build_encoder
from ml_backend.labelstudio.config import label_config
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.metrics import measured
from ml_backend.learning.record import fold_of, image_keys
from ml_backend.learning.training import TrainedHead, train_head
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.split import place
from ml_backend.store.projects import Project
from ml_backend.store.schema import answers, labels, queries, rounds, tasks, versions
from ml_backend.store.version import Verdict
from ml_backend.store.version_meta import EncoderMeta, Metrics, VersionMeta

HOST = "http://127.0.0.1:1"
"""No Label Studio is there."""
USER, PASSWORD = "operator", "of the benchmark"
ENCODER = "benchmarks.large_store:Nothing"
DIM = 384
PIECE = 50_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
PER_ROUND = 20
RESERVED = 0.1
WRONG = 0.05
"""Share of answers that are not what the others say."""


class Nothing:
    """An encoder that no image is given to: the vectors are there already."""

    dim = DIM
    version = "1"

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return np.zeros((len(images), DIM), np.float32)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    tasks: int = 1_000_000
    labels: int = 20_000
    rounds: int = 500
    classes: int = 10
    annotators: int = 8
    folders: int = 20


def settings_of(folder: Path, **more: Any) -> Settings:
    return Settings(
        data_dir=folder,
        encoder=ENCODER,
        label_studio_url=HOST,
        label_studio_api_key="k",
        **more,
    )


def environment_of(folder: Path) -> dict[str, str]:
    """Of a service on a free port with this store, which its operator may look at."""
    port = free_port()
    return {
        "LABEL_STUDIO_URL": HOST,
        "LABEL_STUDIO_API_KEY": "k",
        "ML_BACKEND_ENCODER": ENCODER,
        "ML_BACKEND_DATA_DIR": str(folder),
        "ML_BACKEND_PORT": str(port),
        "ML_BACKEND_URL": f"http://127.0.0.1:{port}",
        "ML_BACKEND_USER": USER,
        "ML_BACKEND_PASSWORD": PASSWORD,
        "ML_BACKEND_LOG_LEVEL": "WARNING",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def build(folder: Path, size: Size) -> Project:
    """Write the store."""
    services = Services.open(settings_of(folder))
    names = [f"class {number}" for number in range(size.classes)]
    project = services.registry.register(HOST, 1, label_config(names), created=1)
    project = services.ledger.configure(project, reserved_share=RESERVED)
    truth, hashes, vectors = _images(size)
    encoder = build_encoder(services.settings.encoder, weights=None, sample=lambda _: [], seed=0)
    kept = services.settings.data_dir / "encoders" / str(project.id)
    slug = hashlib.sha256(f"{services.settings.encoder}  0".encode()).hexdigest()[:12]
    encoder.save(kept / slug)
    rng = np.random.default_rng(1)
    answered = rng.choice(size.tasks, size.labels, replace=False)
    _write_tasks(services, project, hashes, answered)
    _write_answers(services, project, answered, truth[answered], names, size)
    for start in range(0, size.tasks, PIECE):
        services.features.append(
            encoder.id, hashes[start : start + PIECE], vectors(start, min(start + PIECE, size.tasks))
        )
    _write_rounds(services, project, size, answered, truth, names)
    _write_versions(services, project, size, encoder.id, hashes, answered, truth, names)
    with services.database.write() as connection:
        now = datetime.now(UTC)
        connection.execute(
            sa.text("UPDATE projects SET reconciled_at = :now, full_at = :now"), {"now": now.replace(tzinfo=None)}
        )
        connection.execute(
            sa.text("UPDATE jobs SET state = 'done', finished_at = :now, progress = 1"),
            {"now": now.replace(tzinfo=None)},
        )
    services.database.close()
    return project


def _images(size: Size) -> tuple[NDArray[np.int64], list[str], Any]:
    """Class and content hash of each image, and what gives the vectors of a run of them: clusters that overlap a little."""
    truth = np.random.default_rng(0).integers(0, size.classes, size.tasks)
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(size.tasks)]
    centres = np.random.default_rng(2).normal(size=(size.classes, DIM)).astype(np.float32)

    def vectors(start: int, end: int) -> NDArray[np.float16]:
        noise = np.random.default_rng([3, start]).normal(size=(end - start, DIM)).astype(np.float32)
        found = centres[truth[start:end]] + 2.5 * noise
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float16)

    return truth, hashes, vectors


def _write_tasks(services: Services, project: Project, hashes: Sequence[str], answered: NDArray[np.int64]) -> None:
    labelled = np.zeros(len(hashes), np.int64)
    labelled[answered] = 1
    for start in range(0, len(hashes), PIECE):
        rows = [
            {
                "project_id": project.id,
                "task_id": i + 1,
                "answers": int(labelled[i]),
                "content_hash": hashes[i],
                "image": f"/data/upload/1/{i % 97:02x}-image-{i:07d}.jpg",
                "data": f'{{"image": "/data/upload/1/{i % 97:02x}-image-{i:07d}.jpg", "filename": "image-{i:07d}.jpg"}}',
                "place": place(hashes[i], 0),
                "reached": 1 if labelled[i] and place(hashes[i], 0) < RESERVED else None,
                "found": False,
            }
            for i in range(start, min(start + PIECE, len(hashes)))
        ]
        with services.database.write() as connection:
            connection.execute(tasks.insert(), rows)


def _write_answers(
    services: Services,
    project: Project,
    answered: NDArray[np.int64],
    truth: NDArray[np.int64],
    names: Sequence[str],
    size: Size,
) -> None:
    """One answer of most tasks, two of every tenth, some of which differ."""
    rng = np.random.default_rng(4)
    given: list[dict[str, Any]] = []
    decided: list[dict[str, Any]] = []
    conflicts: list[int] = []
    for number, (task, label) in enumerate(zip(answered.tolist(), truth.tolist(), strict=True)):
        at = BEGAN + timedelta(seconds=5 * number)
        voters = rng.choice(size.annotators, 2 if number % 10 == 0 else 1, replace=False) + 1
        said = [names[label if rng.random() > WRONG else (label + 1) % size.classes] for _ in voters]
        for voter, name in zip(voters.tolist(), said, strict=True):
            given.append({
                "project_id": project.id, "annotation_id": len(given) + 1, "task_id": task + 1, "labels": (name,), "was_cancelled": False,
                "ground_truth": False, "annotator": voter, "answered_by": voter, "created_at": at, "updated_at": at,
                "seconds": float(rng.gamma(2, 2)),
            })  # fmt: skip
        decided.append({
            "project_id": project.id, "task_id": task + 1, "labels": (said[-1],), "annotation_id": len(given),
            "annotators": tuple(voters.tolist()), "agreement": said.count(said[-1]) / len(said), "ground_truth": False, "labelled_at": at,
        })  # fmt: skip
        if len(set(said)) > 1:
            conflicts.append(task + 1)
    with services.database.write() as connection:
        connection.execute(answers.insert(), given)
        connection.execute(labels.insert(), decided)
        connection.execute(
            tasks.update()
            .where(tasks.c.project_id == project.id, tasks.c.task_id == sa.bindparam("of"))
            .values(conflict=True),
            [{"of": task} for task in conflicts],
        )


def _write_rounds(
    services: Services,
    project: Project,
    size: Size,
    answered: NDArray[np.int64],
    truth: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    asked = np.concatenate([answered, np.setdiff1d(np.arange(min(size.tasks, 10 * PER_ROUND) + size.rounds), answered)])
    made, picked = [], []
    for number in range(1, size.rounds + 1):
        at = BEGAN + timedelta(minutes=number)
        made.append({
            "project_id": project.id, "number": number, "version": number, "strategy": "auto", "seed": 0, "params": {}, "state": "verified",
            "created_at": at, "pushed_at": at, "verified_at": at,
        })  # fmt: skip
        start = (number - 1) * PER_ROUND if number < size.rounds else size.labels
        for rank, task in enumerate(asked[start : start + PER_ROUND].tolist()):
            held_out = rank % 10 == 9
            picked.append({
                "project_id": project.id, "round": number, "task_id": task + 1, "rank": rank, "arm": "holdout" if held_out else "strategy",
                "acquisition": 1.0 / (rank + 1), "confidence": None if held_out else 0.5, "prediction": () if held_out else (names[truth[task]],),
                "reason": "held out at random to measure the accuracy" if held_out else "the model hesitates between two classes",
            })  # fmt: skip
    with services.database.write() as connection:
        connection.execute(rounds.insert(), made)
        connection.execute(queries.insert(), picked)


def _write_versions(
    services: Services,
    project: Project,
    size: Size,
    encoder_id: str,
    hashes: Sequence[str],
    answered: NDArray[np.int64],
    truth: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """All trained on growing shares of the labels, as far as is measured; the files of the last ones, one head for all."""
    matrix = services.features.matrix(encoder_id)
    held = np.array([place(hashes[i], 0) < RESERVED for i in answered])
    known = answered[:: max(1, len(answered) // 5_000)]
    at = services.features.rows(encoder_id, [hashes[i] for i in known])
    apart = np.where(
        [place(hashes[i], 0) < RESERVED for i in known],
        fold_of(image_keys(np.array([hashes[i].encode() for i in known]))),
        -1,
    )
    trained = train_head(np.asarray(matrix[at]), truth[known], names, seed=0, apart=apart)
    targets = truth[answered[held]]
    probabilities = np.full((len(targets), len(names)), 0.01, np.float32)
    for number in _progress(size.rounds):
        share = number / size.rounds
        few = max(1, int(share * len(targets)))
        sure = np.random.default_rng(5).random(few) < 0.6 + 0.38 * (1 - np.exp(-4 * share))
        probabilities[:few] = 0.01
        probabilities[np.arange(few), np.where(sure, targets[:few], (targets[:few] + 1) % len(names))] = 0.9
        meta = VersionMeta(
            classes=list(names),
            multiple=False,
            encoder=EncoderMeta(name="Nothing", id=encoder_id, dim=DIM),
            metrics=Metrics(holdout=measured(probabilities[:few], targets[:few], names)),
            labels=max(2, int(share * size.labels)),
            mode="head",
            reserved_share=RESERVED,
        )
        if number > size.rounds - size.folders:
            services.versions.publish(
                project, number, lambda folder: _save(folder, trained, services), meta, verdict=Verdict()
            )
        else:
            _enter(services, project, number, meta)


def _enter(services: Services, project: Project, number: int, meta: VersionMeta) -> None:
    """A version whose files were pruned."""
    at = BEGAN + timedelta(minutes=number)
    row = {
        "number": number,
        "state": "pruned",
        "reason": "",
        "meta": meta.as_json(),
        "created_at": at,
        "promoted_at": at,
        "turn": number,
    }
    with services.database.write() as connection:
        connection.execute(versions.insert().values(project_id=project.id, **row))


def _save(folder: Path, trained: TrainedHead, services: Services) -> None:
    trained.head.save(folder)
    FoldHeads(trained.fold_heads or (trained.head,), trained.blind).save(folder)
    build_encoder(services.settings.encoder, weights=None, sample=lambda _: [], seed=0).save(folder)


def _progress(rounds_: int) -> Iterator[int]:
    for number in range(1, rounds_ + 1):
        if number % 100 == 0:
            print(f"version {number} of {rounds_}", flush=True)
        yield number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    project = build(args.folder, Size(**{name: getattr(args, name) for name in vars(Size())}))
    print(f"{project.key}: {args.tasks:,} tasks in {args.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

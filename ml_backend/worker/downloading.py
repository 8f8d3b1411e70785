"""One file of a project to take away, as the page hands it out: the same as `ml-backend export` writes."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.exports.dataset import write_dataset
from ml_backend.services import Services
from ml_backend.store.faults import disk_full, scarce
from ml_backend.store.projects import Project
from ml_backend.tabular import Write, atomic_file, open_table
from ml_backend.wording import amount
from ml_backend.worker import exporting
from ml_backend.worker.accepting import Advance

File = Literal["labels.csv", "predictions.csv", "rounds.csv", "model.zip", "model.onnx", "model.pt2", "dataset.zip"]
GUESSES: File = "predictions.csv"
"""Has a guess of every image, held-out ones too."""
MODELS = {"model.zip", "model.onnx", "model.pt2"}
REASON = "download"
TOLD_S = 0.5
"""Between two sentences about how far it is, and between two looks at what is left of the disk."""
LEFT = 512 * 2**20
"""Bytes of the disk, which is the store's, that no file to take away may use."""


def has_guesses(project: Project, name: File) -> bool:
    """Whether the file has, or makes, guesses of images that somebody is yet to answer: where several label each image, the labels of the first, too."""
    return name == GUESSES or name in MODELS or (name == "labels.csv" and project.state.overlap > 1)


def refuse_guesses(project: Project, services: Services, name: File) -> None:
    """Raise ConflictError where the file would show guesses of what an audit may ask for."""
    if name == GUESSES and services.acceptances.is_blind(project):
        raise ConflictError(
            f"An audit of {project.title!r} is on: nobody is to see a guess before it ends. `ml-backend accept status` says how "
            "far it is."
        )


@dataclass
class Download:
    """Makes the files of one project in `folder`. say: told how far it is. warnings: what is wrong with what was made."""

    project: Project
    services: Services
    folder: Path
    say: Callable[[str], None] = lambda _: None
    warnings: list[str] = field(default_factory=list)
    _told: float = 0.0

    def make(self, name: File) -> Path:
        """Return where the file is, under the name that it is to have. Raises BackendError."""
        refuse_guesses(self.project, self.services, name)
        if name in MODELS:
            return self._model(name)
        self.project = exporting.up_to_date(
            self.project, self.services, REASON, self.warnings.append, waiting=self._waiting
        )
        if name == "dataset.zip":
            return self._dataset()
        path = self.folder / name
        opened, count = partial(open_table, path), self._counted
        if name == "labels.csv":
            self.warnings += exporting.write_labels(self.project, self.services, opened, count=count).warnings
        elif name == "rounds.csv":
            exporting.write_rounds(self.project, self.services, opened, count=count)
        else:
            self._predictions(opened)
        return path

    def _predictions(self, opened: Callable[[Mapping[str, type]], AbstractContextManager[Write]]) -> None:
        done = exporting.write_predictions(
            self.project,
            self.services,
            opened,
            REASON,
            self.warnings.append,
            count=self._counted,
            reading=self._reading,
            waiting=self._waiting,
        )
        self.warnings += done.tally.warnings(spreadsheet=False, version=done.version)

    def _model(self, name: File) -> Path:
        version = exporting.version_named(self.project, self.services, None)
        exporter = self.services.model_exporter
        self._tell("tracing the model, and comparing it on images", now=True)
        if name == "model.zip":
            exporter.save(self.project, version, "bundle", self.folder / version.name)
            return self._zipped(self.folder / version.name, self.folder / f"{version.name}.zip")
        kind: Literal["onnx", "pt2"] = "onnx" if name == "model.onnx" else "pt2"
        kept = self.services.settings.data_dir / "exports" / str(self.project.id) / f"{version.name}.{kind}"
        if not kept.exists():
            exporter.save(self.project, version, kind, kept)
        path = self.folder / kept.name
        try:
            path.hardlink_to(kept)
        except OSError:  # not every file system can
            shutil.copyfile(kept, path)
        return path

    def _dataset(self) -> Path:
        folder = self.folder / "dataset"
        total = self.services.ledger.counts(self.project).labelled
        with self._reading("images", total) as advance:
            write = partial(
                write_dataset, self.project, folder, self.services.ledger, self.services.hosts, on_progress=advance
            )
            try:
                report = write(manifest=self.project.schema.multiple)
            except InvalidInputError:  # two labels that would share a folder
                report = write(manifest=True)
        self.warnings += report.warnings()
        return self._zipped(folder, self.folder / "dataset.zip")

    def _zipped(self, folder: Path, path: Path) -> Path:
        """Pack it, each file gone from the folder once it is in: the disk holds all of it but once."""
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        with (
            atomic_file(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as packed,
            self._reading("files packed", len(files)) as advance,
        ):
            for each in files:
                packed.write(each, each.relative_to(folder.parent))
                each.unlink()
                advance(1)
        shutil.rmtree(folder)
        return path

    def _counted(self, rows: Iterable[Any], what: str, total: int) -> Iterator[Any]:
        for number, row in enumerate(rows):
            if number % 1_000 == 0:
                self._tell(f"{number:,} of {amount(total, what.removesuffix('s'))}" if total else f"{number:,} {what}")
            yield row

    @contextmanager
    def _reading(self, what: str, total: int | None) -> Iterator[Advance]:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self._tell(f"{done:,} of {total:,} {what}")

        yield advance

    def _waiting(self, _share: float, doing: str) -> None:
        self._tell(doing)

    def _tell(self, text: str, *, now: bool = False) -> None:
        if now or time.monotonic() - self._told >= TOLD_S:
            self._told = time.monotonic()
            if scarce(self.services.settings.data_dir, LEFT):
                raise disk_full(str(self.folder))
            self.say(text)

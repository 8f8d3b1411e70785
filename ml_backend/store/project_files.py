"""One file a project, which nothing but time depends on: how far a long training is, the graph of the images."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path


class ProjectFiles:
    """The files of all projects of one store, below `root`. To delete one costs time, and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, project_id: int) -> Path:
        """Where the project's is, or would be."""
        return self.root / f"{project_id}.safetensors"

    def discard(self, project_id: int) -> None:
        """Delete the project's, and what a killed writer left of one. One that cannot be deleted stays, and fits nothing."""
        for path in self.root.glob(f"{project_id}.*"):
            with suppress(OSError):
                path.unlink()

    def sweep(self, kept: Collection[int]) -> None:
        """Delete those of all projects but these."""
        for name in {path.stem for path in self.root.glob("*.*")}:
            if name.isdigit() and int(name) not in kept:
                self.discard(int(name))

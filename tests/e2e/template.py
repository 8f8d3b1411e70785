"""An empty Label Studio, set up once and copied for each server of the tests and benchmarks."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ml_backend.demo.label_studio import EmbeddedLabelStudio


def make_template(binary: Path, folder: Path) -> Path:
    """A migrated data folder with the default user in it, made once below `folder` for each Label Studio version.

    Copied to an empty data folder, it brings a start from half a minute down to a few seconds.
    """
    target = folder / f"label-studio-{_installed_version(binary)}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder, prefix="building-"))
    try:
        with EmbeddedLabelStudio(binary, building) as server:
            server.log.unlink()
        try:
            building.rename(target)  # atomic: another process may have made it meanwhile
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _installed_version(binary: Path) -> str:
    found = sorted(binary.resolve().parent.parent.glob("lib/python*/site-packages/label_studio-*.dist-info"))
    return found[-1].name.removesuffix(".dist-info").split("-")[1] if found else f"mtime-{binary.stat().st_mtime_ns}"

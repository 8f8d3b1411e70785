"""Where the encoder of a project is kept, and in which file it says what it is and why it was taken."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ml_backend.records import EncoderOrigin
from ml_backend.settings import Settings
from ml_backend.store.projects import Project


def slug_of(settings: Settings) -> str:
    """Of all that decides what is built."""
    choice = f"{settings.encoder} {settings.encoder_weights} {settings.seed}"
    if settings.fit != "auto":
        choice += f" {settings.fit}"
    return hashlib.sha256(choice.encode()).hexdigest()[:12]


def folder_of(settings: Settings, project: Project, slug: str) -> Path:
    """Of the encoder that was built for this project with the settings of that slug, or will be."""
    return settings.data_dir / "encoders" / str(project.id) / slug


def note_origin(folder: Path, origin: EncoderOrigin) -> None:
    """Add it to the `encoder.json` of a saved encoder."""
    path = folder / "encoder.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**told, "origin": asdict(origin)}, indent=2) + "\n", encoding="utf-8")


def origin_of(settings: Settings, project: Project) -> EncoderOrigin | None:
    """What is known of the encoder in service; None while there is none, or none that can be read."""
    if project.state.imported:
        return EncoderOrigin("imported", f"that of the model imported as v{project.state.imported}")
    slug = project.state.encoder.choice if project.state.encoder else slug_of(settings)
    try:
        told = json.loads((folder_of(settings, project, slug) / "encoder.json").read_text(encoding="utf-8"))
        if "origin" in told:
            return EncoderOrigin(**told["origin"])
        return EncoderOrigin(str(told["name"]), f"{told['name']}, as it was built by an earlier release")
    except (OSError, ValueError, TypeError, KeyError):
        return None

"""Files of a project to take away."""

from __future__ import annotations

from typing import Any

from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.worker.downloading import GUESSES, MODELS, File, has_guesses

ABOUT: dict[File, tuple[str, str]] = {
    "labels.csv": ("Labels", "a row for each labelled image: filename, label and all that is known of it"),
    "predictions.csv": (
        "Predictions",
        "a row for each image: its label, or else the model's guess, of held-out ones, too: not for who still labels them",
    ),
    "rounds.csv": ("Rounds", "a row for each queue, with the accuracy of its model"),
    "model.zip": ("Model, to import again", "the encoder and the head, as safetensors"),
    "model.onnx": ("Model as ONNX", "one file that other programs run"),
    "model.pt2": ("Model for PyTorch", "one file for torch.export"),
    "dataset.zip": ("Data set", "the labelled images, in folders by label"),
}


def look(project: Project, services: Services) -> dict[str, Any]:
    has_model = services.versions.current(project) is not None
    blind = services.acceptances.is_blind(project)

    def why_not(name: str) -> str:
        if name in MODELS and not has_model:
            return "There is no model yet: label two images of different classes."
        if name == GUESSES and blind:
            return "Not while an audit is on: nobody is to see a guess before it ends."
        return ""

    return {
        "files": [
            {
                "name": name,
                "title": title,
                "about": about,
                "why_not": why_not(name),
                "guesses": has_guesses(project, name),
            }
            for name, (title, about) in ABOUT.items()
        ]
    }

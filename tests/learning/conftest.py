"""Pictures to learn from, and fine-tunings to stop half-way."""

from pathlib import Path

import pytest

from ml_backend.learning import checkpoint
from ml_backend.learning.finetuning import FineTuned
from tests.learning.checkpoints import run
from tests.pictures import Digits, handwritten_digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    return handwritten_digits()


@pytest.fixture
def after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is kept as often as can be."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "OVERHEAD", 0.0)


@pytest.fixture(scope="session")
def whole() -> FineTuned:
    """Never interrupted, and never kept."""
    return run()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the checkpoint is kept."""
    return tmp_path / "checkpoints" / "1.safetensors"

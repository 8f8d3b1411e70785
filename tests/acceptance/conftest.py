"""A model that is good enough for an audit, and an audit that asks for the same tasks in each run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.bench import Bench  # torch takes seconds


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """As `trained` makes it."""
    from tests.acceptance.audited import trained

    made = trained(tmp_path_factory.mktemp("audited") / "data")
    yield made
    made.services.database.close()


@pytest.fixture
def same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an audit asks for is drawn in the same order each time."""
    from ml_backend.acceptance import auditing

    monkeypatch.setattr(auditing, "drawn_seed", lambda: 1)

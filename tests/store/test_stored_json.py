"""What a project and a version keep as JSON is read whatever wrote it, and stays on disk what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml_backend.store.database import Database
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_state import Advice, ProjectState
from ml_backend.store.projects import Project
from ml_backend.store.version_meta import EncoderMeta, Metrics, VersionMeta

STATES: tuple[dict[str, Any], ...] = (
    {},
    {"gone": True, "strategy": "margin"},
    {"split_seed": 0, "overlap": 1, "all_tasks_tab": False, "superseded": {"by": "v1-r1", "since": {"v0-r0": "2026"}}},
    {"webhook": {"checked_at": "2026-01-01T00:00:00+00:00", "problem": None}, "replaced": {"number": 3, "at": "2026"}},
    {"advice": {"version": 2, "kappa": [], "stop": False, "stopping": "early", "saved": "unknown", "former": 1}},
)
METAS: tuple[dict[str, Any], ...] = (
    {},
    {"encoder": {"name": "patches"}, "metrics": {}, "trained_on": "4f2a", "head": "ridge"},
    {"classes": ["b", "a"], "multiple": False, "mode": "import", "knows_labels": False, "origin": None},
    {"confident_from": None, "metrics": {"holdout": {"n": 0, "accuracy": None}}, "trained_on": {"seed": 0}, "seed": 0},
    {"confident_from": 0.9, "encoder": {"name": "patches", "id": "p-1", "dim": 3, "config": {"size": 8}}},
)


@pytest.mark.parametrize("stored", STATES)
def test_state_is_written_back_as_it_was_read(stored: dict[str, Any]) -> None:
    assert ProjectState.model_validate(stored).as_json() == stored


@pytest.mark.parametrize("stored", METAS)
def test_meta_is_written_back_as_it_was_read(stored: dict[str, Any]) -> None:
    assert VersionMeta.model_validate(stored).as_json() == stored


def test_what_older_versions_lack_has_its_default() -> None:
    meta = VersionMeta.model_validate({})
    assert (meta.classes, meta.encoder.id, meta.metrics.holdout, meta.confident_from) == (None, "", None, 0.9)
    assert VersionMeta.model_validate({"confident_from": None}).confident_from is None, "none of its guesses is ticked"
    state = ProjectState.model_validate({"advice": {"version": 1}})
    assert (state.overlap, state.split_seed, state.reserved_share) == (1, 0, None)
    assert state.advice == Advice(version=1)


def test_a_new_version_has_the_keys_that_are_set_on_disk_and_in_the_database(
    tmp_path: Path, database: Database, project: Project
) -> None:
    meta = VersionMeta(
        classes=("cat", "dog"),
        encoder=EncoderMeta(name="patches", id="p-1", dim=3),
        metrics=Metrics(holdout={"n": 0, "accuracy": None}),
        confident_from=None,
    )
    version = Versions(tmp_path, database).publish(project, 1, lambda _folder: None, meta)
    assert json.loads(Path(version.folder / "meta.json").read_text()) == version.meta.as_json()
    assert version.meta.as_json() == {
        "classes": ["cat", "dog"],
        "encoder": {"name": "patches", "id": "p-1", "dim": 3},
        "metrics": {"holdout": {"n": 0, "accuracy": None}},
        "confident_from": None,
        "version": 1,
        "project": str(project.key),
        "store": database.store_id,
    }


def test_a_successor_takes_over_what_was_selected_and_the_seed_alone() -> None:
    former = ProjectState.model_validate({"choices": "kind", "split_seed": 7, "gone": "2026", "imported": 2})
    assert former.successor(5).as_json() == {"choices": "kind", "split_seed": 7, "created": 5}

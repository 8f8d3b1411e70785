"""What the map reads of each task: its label, its annotator, and what it is."""

from __future__ import annotations

from ml_backend.store.ledger import Ledger
from ml_backend.store.map_rows import (
    ACCEPTED,
    LEARNED,
    MEASURES,
    NOBODY,
    NONE,
    SEVERAL,
    SKIPPED,
    TO_MEASURE,
    WAITS,
    MapRows,
    map_rows,
)  # fmt: skip
from ml_backend.store.projects import Project
from tests.conftest import full
from tests.fakes import FakeLabelStudio


def read(ledger: Ledger, project: Project, tasks: list[int] | None = None) -> dict[int, tuple[int, int, int]]:
    """By task: its kind, label and annotator."""
    found = {}
    for part in map_rows(ledger.database, project, tasks):
        assert isinstance(part, MapRows)
        columns = (part.ids, part.kind, part.label, part.annotator)
        for task, kind, label, annotator in zip(*(column.tolist() for column in columns), strict=True):
            found[task] = kind, label, annotator
    return found


def test_each_task_is_what_it_is_held_out_or_not(ledger: Ledger, project: Project, studio: FakeLabelStudio) -> None:
    waits, mine, both, skipped, accepted, measures, to_measure, gone = (studio.create_task(1).id for _ in range(8))
    studio.annotate(mine, "cat", annotator=7)
    studio.annotate(both, "dog", annotator=7)
    studio.annotate(both, "dog", annotator=8)
    studio.annotate(skipped, "cat", skip=True)
    studio.annotate(accepted, "cat", annotator=9, accepted="c1")
    studio.annotate(measures, "dog", annotator=7)
    full(ledger, project, studio)
    studio.delete_task(gone)
    full(ledger, project, studio)
    held = {measures: "0" * 64, to_measure: "1" * 64}
    ledger.set_content_hash(project, held)
    project = ledger.configure(project, reserved_share=1.0)
    labels = project.schema.labels
    cat, dog = labels.index("cat"), labels.index("dog")
    expected = {
        waits: (WAITS, NONE, NOBODY),
        mine: (LEARNED, cat, 7),
        both: (LEARNED, dog, SEVERAL),
        skipped: (SKIPPED, NONE, NOBODY),
        accepted: (ACCEPTED, NONE, NOBODY),
        measures: (MEASURES, dog, 7),
        to_measure: (TO_MEASURE, NONE, NOBODY),
    }
    assert read(ledger, project) == expected
    some = [mine, to_measure, gone]
    assert read(ledger, project, some) == {task: expected[task] for task in (mine, to_measure)}
    assert read(ledger, project, []) == {}

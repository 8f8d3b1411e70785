from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ml_backend.errors import NotFoundError
from ml_backend.records import Annotation, LabelSchema, ProjectKey, Task
from ml_backend.store.consensus import ConsensusRule
from ml_backend.store.database import Database
from ml_backend.store.ledger import Ledger
from tests.conftest import HOST, SCHEMA, full, known, names
from tests.fakes import FakeClock, FakeLabelStudio
from tests.readings import answers_to, quarantined


def test_a_project_is_found_again_by_host_and_number(ledger: Ledger) -> None:
    project = known(ledger, state={"choices": "kind"})
    assert ledger.project(ProjectKey(HOST, 1)) == project
    assert known(ledger) == project
    assert ledger.projects() == [project]


def test_an_unknown_project_says_how_to_set_it_up(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError, match="setup-project"):
        ledger.project(ProjectKey(HOST, 9))


def test_state_is_merged_and_none_takes_a_field_away(ledger: Ledger) -> None:
    project = known(ledger, state={"choices": "kind", "image": "photo"})
    merged = known(ledger, state={"image": None, "created": 3}).state
    assert merged.as_json() == {"choices": "kind", "created": 3, "split_seed": 0}
    assert ledger.configure(project, choices=None).state.as_json() == {"created": 3, "split_seed": 0}


@pytest.mark.parametrize(("changes", "error"), [({"overlapp": 2}, TypeError), ({"overlap": "two"}, ValueError)])
def test_a_field_that_state_has_not_and_a_value_of_another_type_are_refused(
    ledger: Ledger, changes: dict[str, Any], error: type[Exception]
) -> None:
    project = known(ledger)
    with pytest.raises(error, match="overlap"):
        ledger.configure(project, **changes)
    assert known(ledger) == project


def test_two_hosts_with_the_same_project_number_do_not_mix(ledger: Ledger, clock: FakeClock) -> None:
    one, two = FakeLabelStudio(clock), FakeLabelStudio(clock)
    here, there = known(ledger), known(ledger, host="http://other")
    one.annotate(one.create_task(1).id, "cat")
    two.annotate(two.create_task(1).id, "dog")
    full(ledger, here, one)
    full(ledger, there, two)
    assert names(ledger, here) == {1: ("cat",)}
    assert names(ledger, there) == {1: ("dog",)}
    assert [p.key for p in ledger.projects()] == [here.key, there.key]


def test_created_updated_skipped_and_deleted_annotations_are_learned_and_unlearned(
    ledger: Ledger, studio: FakeLabelStudio
) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    assert full(ledger, project, studio).added == 1
    annotation = studio.annotate(task.id, "cat")
    assert full(ledger, project, studio).labels_added == 1
    studio.update(annotation.id, "dog")
    assert full(ledger, project, studio).labels_changed == 1
    assert names(ledger, project) == {task.id: ("dog",)}
    studio.update(annotation.id, skip=True)
    report = full(ledger, project, studio)
    assert (report.labels_removed, ledger.counts(project).skips) == (1, 1)
    studio.update(annotation.id, "cat")
    full(ledger, project, studio)
    studio.delete_annotation(annotation.id)
    assert full(ledger, project, studio).labels_removed == 1
    assert names(ledger, project) == {}


def test_a_second_full_reconcile_of_the_same_writes_nothing(
    ledger: Ledger, studio: FakeLabelStudio, database: Database
) -> None:
    project = known(ledger)
    for _ in range(5):
        studio.annotate(studio.create_task(1).id, "cat")
    full(ledger, project, studio)
    report = full(ledger, project, studio)
    assert (report.added, report.changed, report.deleted, report.labels_touched) == (0, 0, 0, 0)


def test_an_incremental_reconcile_leaves_alone_what_it_was_not_told_of(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    first, second = studio.create_task(1), studio.create_task(1)
    studio.annotate(first.id, "cat")
    full(ledger, project, studio)
    studio.annotate(second.id, "dog")
    told = studio.task(1, second.id)
    assert told is not None
    report = ledger.reconcile(project, [told], full=False)
    assert (report.labels_added, report.deleted) == (1, 0)
    assert names(ledger, project) == {first.id: ("cat",), second.id: ("dog",)}


def test_annotations_not_given_are_as_they_were(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    studio.annotate(task.id, "cat")
    full(ledger, project, studio)
    ledger.reconcile(project, [(task, None)], full=True)
    assert names(ledger, project) == {task.id: ("cat",)}


def test_tasks_named_as_gone_are_unlearned_without_a_full_listing(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    studio.annotate(task.id, "cat")
    full(ledger, project, studio)
    report = ledger.reconcile(project, [], full=False, gone=[task.id, 999])
    assert (report.deleted, report.labels_removed) == (1, 1)
    assert ledger.counts(project).tasks == 0


def test_a_listing_that_breaks_off_takes_nothing_for_gone(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    tasks = [studio.create_task(1) for _ in range(3)]
    full(ledger, project, studio)
    before = ledger.project(project.key).reconciled_at
    studio.clock.advance(60)

    def breaks_off() -> Iterator[tuple[Task, list[Annotation]]]:
        yield tasks[0], []
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        ledger.reconcile(project, breaks_off(), full=True)
    assert ledger.counts(project).tasks == 3
    assert ledger.project(project.key).reconciled_at == before


def test_the_start_of_the_listing_is_remembered(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    began = studio.clock.now
    ledger.reconcile(project, [], full=True, now=began)
    later = studio.clock.advance(10)
    ledger.reconcile(project, [], full=False, now=later)
    found = ledger.project(project.key)
    assert (found.full_at, found.reconciled_at) == (began, later)


def test_a_moved_task_leaves_one_project_and_enters_the_other(ledger: Ledger, studio: FakeLabelStudio) -> None:
    one, two = known(ledger, 1), known(ledger, 2)
    task = studio.create_task(1)
    studio.annotate(task.id, "cat")
    full(ledger, one, studio)
    studio.move_task(task.id, 2)
    full(ledger, one, studio)
    full(ledger, two, studio)
    assert names(ledger, one) == {}
    assert names(ledger, two) == {task.id: ("cat",)}


def test_a_label_that_left_the_config_is_quarantined_told_and_comes_back_with_it(
    ledger: Ledger, studio: FakeLabelStudio
) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    annotation = studio.annotate(task.id, "cat")
    full(ledger, project, studio)
    smaller = known(ledger, schema=LabelSchema("choice", "image", "image", ("dog", "owl")))
    assert smaller.full_at is None
    full(ledger, smaller, studio)
    assert names(ledger, smaller) == {}
    (found,) = quarantined(ledger, smaller)
    assert (found.task_id, found.annotation_id, found.labels) == (task.id, annotation.id, ("cat",))
    assert "cat" in found.reason
    assert ledger.counts(smaller).quarantined == 1
    back = known(ledger, schema=SCHEMA)
    full(ledger, back, studio)
    assert names(ledger, back) == {task.id: ("cat",)}
    assert quarantined(ledger, back) == []


def test_a_project_read_before_the_config_changed_is_still_judged_by_the_new_one(
    ledger: Ledger, studio: FakeLabelStudio
) -> None:
    stale = known(ledger)
    task = studio.create_task(1)
    studio.annotate(task.id, "cat")
    full(ledger, stale, studio)
    known(ledger, schema=LabelSchema("choice", "image", "image", ("dog", "owl")))
    full(ledger, stale, studio)
    assert names(ledger, stale) == {}
    assert ledger.pool(stale).labels.tolist() == [-1]


def test_who_changed_an_answer_is_named_and_not_who_only_marked_it(ledger: Ledger, studio: FakeLabelStudio) -> None:
    def named() -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        full(ledger, project, studio)
        return [(label.labels, label.annotators) for label in ledger.labels(project)]

    project = known(ledger)
    given = studio.annotate(studio.create_task(1).id, "cat", annotator=1)
    assert named() == [(("cat",), (1,))]
    studio.update(given.id, "cat", ground_truth=True, by=3)
    assert named() == [(("cat",), (1,))]
    studio.update(given.id, "cat", by=3)
    assert named() == [(("cat",), (1,))]
    studio.update(given.id, "dog", by=2)
    assert named() == [(("dog",), (2,))]
    studio.update(given.id, "dog", ground_truth=True, by=3)
    assert named() == [(("dog",), (2,))]


def test_votes_stay_with_whom_they_were_given_by_whoever_changes_them(ledger: Ledger, studio: FakeLabelStudio) -> None:
    """Else one person who corrects two answers would have one vote, and two corrected answers would count as one."""
    project = known(ledger)
    task = studio.create_task(1)
    given = [studio.annotate(task.id, name, annotator=number) for number, name in enumerate(["cat", "cat", "dog"])]
    full(ledger, project, studio)
    for annotation in given[:2]:
        studio.update(annotation.id, "dog", by=9)
        studio.update(annotation.id, "cat", by=9)
        full(ledger, project, studio)
    assert names(ledger, project) == {task.id: ("cat",)}


def test_an_answer_first_seen_after_it_was_changed_names_its_editor(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    given = studio.annotate(studio.create_task(1).id, "cat", annotator=1)
    studio.update(given.id, "dog", by=2)
    full(ledger, project, studio)
    (label,) = ledger.labels(project)
    assert (label.annotators, answers_to(ledger, project, label.task_id)[0].annotator) == ((2,), 1)


def test_another_rule_decides_anew(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    for number, name in enumerate(["cat", "cat", "dog"]):
        studio.annotate(task.id, name, annotator=number)
    full(ledger, project, studio)
    assert ledger.counts(project).conflicts == 1
    assert names(ledger, project) == {task.id: ("cat",)}
    changed = known(ledger, rule=ConsensusRule(vote="most_recent"))
    ledger.reconcile(changed, [], full=False)
    assert names(ledger, changed) == {task.id: ("dog",)}


def test_the_digest_is_that_of_the_labels_and_nothing_else(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    one, two = studio.create_task(1), studio.create_task(1)
    annotation = studio.annotate(one.id, "cat")
    full(ledger, project, studio)
    before = ledger.label_digest(project)
    studio.annotate(two.id, skip=True)
    full(ledger, project, studio)
    assert ledger.label_digest(project) == before
    studio.update(annotation.id, "dog")
    full(ledger, project, studio)
    assert ledger.label_digest(project) != before


def test_a_changed_image_needs_another_hash_and_keeps_its_labels(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task, broken = studio.create_task(1), studio.create_task(1, "/broken.png")
    studio.annotate(task.id, "cat")
    full(ledger, project, studio)
    ledger.set_content_hash(project, {task.id: "ab" * 32})
    ledger.set_image_errors(project, {broken.id: "truncated"})
    assert list(ledger.tasks_without_hash(project)) == []
    assert ledger.image_errors(project) == {broken.id: "truncated"}
    studio.change_image(task.id, "/other.png")
    studio.change_image(broken.id, "/mended.png")
    assert full(ledger, project, studio).changed == 2
    assert [t.image for t in ledger.tasks_without_hash(project)] == ["/other.png", "/mended.png"]
    assert ledger.image_errors(project) == {}
    assert names(ledger, project) == {task.id: ("cat",)}


def test_failed_images_are_offered_again_when_asked(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    full(ledger, project, studio)
    ledger.set_image_errors(project, {task.id: "timeout"})
    assert ledger.retry_images(project) == 1
    assert [t.id for t in ledger.tasks_without_hash(project)] == [task.id]


def test_any_name_survives_the_store(ledger: Ledger, studio: FakeLabelStudio) -> None:
    odd = ('=cmd|"x"', "猫, мышь", "a\nb\x00", "\ud800")
    project = known(ledger, schema=LabelSchema("choice", "image", "image", odd))
    for name in odd:
        studio.annotate(studio.create_task(1).id, name)
    full(ledger, project, studio)
    assert [label.labels[0] for label in ledger.labels(project)] == list(odd)
    assert ledger.pool(project).labels.tolist() == [0, 1, 2, 3]


def test_some_tasks_are_read_as_all_of_them_are(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    for label in ("cat", "dog", "cat"):
        studio.annotate(studio.create_task(1).id, label)
    full(ledger, project, studio)
    ledger.set_content_hash(project, {task.id: f"{task.id:064x}" for task in ledger.tasks(project)})
    everything = ledger.pool(project)
    wanted = everything.ids[1:]
    some, bare = ledger.pool(project, [*wanted.tolist(), 10**12]), ledger.pool(project, hashes=False)
    assert len(wanted)
    for name, values in vars(everything).items():
        if name == "pairs":
            continue
        np.testing.assert_array_equal(getattr(some, name), values[1:])
        if name != "hashes":
            np.testing.assert_array_equal(getattr(bare, name), values)
    assert not bare.hashes.any()


def test_more_tasks_than_a_chunk_are_all_taken(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    for number in range(250):
        task = studio.create_task(1, f"/{number}.png")
        if number % 2:
            studio.annotate(task.id, "cat")
    assert full(ledger, project, studio).labels_added == 125
    for task_id in list(studio.tasks)[20:170]:
        studio.delete_task(task_id)
    assert full(ledger, project, studio).deleted == 150
    assert ledger.counts(project).tasks == len(studio.tasks)
    assert len(list(ledger.tasks(project))) == len(studio.tasks)
    assert {t.id for t in ledger.tasks(project, [99999, next(iter(studio.tasks))])} == {next(iter(studio.tasks))}


def test_the_same_task_twice_in_a_listing_is_one_task(ledger: Ledger, studio: FakeLabelStudio) -> None:
    project = known(ledger)
    task = studio.create_task(1)
    annotation = studio.annotate(task.id, "cat")
    report = ledger.reconcile(project, [(task, []), (task, [annotation])] * 2, full=True)
    assert report.added == 1
    assert names(ledger, project) == {task.id: ("cat",)}
    assert answers_to(ledger, project, task.id) == [annotation]


def test_naive_times_are_refused(ledger: Ledger) -> None:
    from datetime import datetime

    project = known(ledger)
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - on purpose
    annotation = Annotation(1, 1, ("cat",), False, False, 1, naive, naive)
    with pytest.raises(Exception, match="no time zone"):
        ledger.reconcile(project, [(Task(1, "/a.png"), [annotation])], full=True)

"""Images that cannot be read: tried again with growing pauses where that may help, and by a person's word in any case."""

from __future__ import annotations

from datetime import timedelta

from ml_backend.store.ledger import Ledger
from ml_backend.store.pictures import FIRST_PAUSE, LONGEST_PAUSE
from ml_backend.store.projects import Project
from tests.conftest import full
from tests.fakes import FakeClock, FakeLabelStudio


def offered(ledger: Ledger, project: Project) -> list[int]:
    """By both ways in which images to be read are found."""
    rows = ledger.pool(project)
    by_pool: list[int] = rows.ids[(rows.hashes == b"") & ~rows.resting].tolist()
    assert by_pool == [task.id for task in ledger.tasks_without_hash(project)]
    return by_pool


def test_a_passing_fault_is_tried_again_with_growing_pauses_and_a_lasting_one_is_not(
    ledger: Ledger, project: Project, studio: FakeLabelStudio, clock: FakeClock
) -> None:
    passing, lasting = studio.create_task(1).id, studio.create_task(1).id
    full(ledger, project, studio)
    pauses = []
    for _ in range(12):
        ledger.set_image_errors(project, {passing: "status 503", lasting: "truncated"}, passing={passing})
        assert ledger.image_errors(project) == {passing: "status 503", lasting: "truncated"}
        away = ledger.away(project)
        assert (away.images, away.reason) == (1, "status 503")
        assert away.next_at is not None
        pauses.append(away.next_at - clock.now)
        clock.advance(pauses[-1].total_seconds() - 1)
        assert offered(ledger, project) == []
        clock.advance(1)
        assert offered(ledger, project) == [passing]
    assert pauses == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(12)]
    assert pauses[-1] == timedelta(hours=1)


def test_an_image_that_was_read_starts_anew_with_its_pauses(
    ledger: Ledger, project: Project, studio: FakeLabelStudio, clock: FakeClock
) -> None:
    task = studio.create_task(1)
    full(ledger, project, studio)
    for _ in range(5):
        ledger.set_image_errors(project, {task.id: "status 503"}, passing={task.id})
    ledger.set_content_hash(project, {task.id: "0" * 64})
    assert ledger.away(project).images == 0
    studio.change_image(task.id, "/other.png")
    full(ledger, project, studio)
    assert offered(ledger, project) == [task.id]
    ledger.set_image_errors(project, {task.id: "status 503"}, passing={task.id})
    assert ledger.away(project).next_at == clock.now + FIRST_PAUSE


def test_what_is_known_of_an_image_outlives_a_passing_fault(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    task = studio.create_task(1)
    full(ledger, project, studio)
    ledger.set_content_hash(project, {task.id: "0" * 64})
    ledger.set_image_errors(project, {task.id: "status 503"}, passing={task.id})
    assert ledger.content_hashes(project, [task]) == {task.id: "0" * 64}
    assert ledger.image_errors(project) == {}
    ledger.set_image_errors(project, {task.id: "truncated"})
    assert ledger.content_hashes(project, [task]) == {}


def test_a_person_has_lasting_faults_and_resting_images_tried_again_at_once(
    ledger: Ledger, project: Project, studio: FakeLabelStudio
) -> None:
    passing, lasting, read = (studio.create_task(1).id for _ in range(3))
    full(ledger, project, studio)
    ledger.set_image_errors(project, {passing: "status 503", lasting: "truncated"}, passing={passing})
    ledger.set_content_hash(project, {read: "0" * 64})
    assert ledger.retry_images(project) == 2
    assert offered(ledger, project) == [passing, lasting]
    assert ledger.image_errors(project) == {}

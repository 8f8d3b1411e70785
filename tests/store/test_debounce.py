"""When a job may start: labels come in bursts, and one training serves them all."""

from __future__ import annotations

from datetime import timedelta

from ml_backend.store.database import Database
from ml_backend.store.job import Debounce
from ml_backend.store.jobs import Jobs
from ml_backend.store.projects import Project
from tests.fakes import FakeClock


def test_a_single_label_waits_for_thirty_seconds_of_quiet(jobs: Jobs, project: Project, clock: FakeClock) -> None:
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    clock.advance(29.9)
    assert jobs.claim("worker") is None
    clock.advance(0.1)
    assert jobs.claim("worker") is not None


def test_a_clock_that_is_set_back_delays_no_job(jobs: Jobs, project: Project, clock: FakeClock) -> None:
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    clock.advance(-600)
    job = jobs.claim("worker")
    assert job is not None
    jobs.fail(job, "an error")
    clock.advance(-600)
    assert jobs.claim("worker") is not None


def test_every_further_label_prolongs_the_quiet(jobs: Jobs, project: Project, clock: FakeClock) -> None:
    for _ in range(5):
        jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
        clock.advance(20)
        assert jobs.claim("worker") is None
    clock.advance(10)
    job = jobs.claim("worker")
    assert job is not None
    assert job.labels == 5


def test_the_tenth_label_ends_the_waiting(jobs: Jobs, project: Project) -> None:
    for _ in range(9):
        jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.claim("worker") is None
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.claim("worker") is not None


def test_debounce_is_configurable(database: Database, clock: FakeClock, project: Project) -> None:
    jobs = Jobs(database, clock=clock, debounce=Debounce(labels=2, quiet=timedelta(seconds=1)))
    jobs.mark_due(project, labels=2, reason="ANNOTATIONS_CREATED")
    assert jobs.claim("worker") is not None


def test_start_training_does_not_wait_and_a_later_label_does_not_delay_it(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    jobs.mark_due(project, immediately=True, reason="START_TRAINING")
    clock.advance(1)
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.claim("worker") is not None


def test_a_job_whose_quiet_is_over_is_not_put_off_by_a_late_label(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    clock.advance(31)
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.claim("worker") is not None

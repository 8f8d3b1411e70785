from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from ml_backend.errors import ConflictError, NotFoundError
from ml_backend.records import ProjectKey
from ml_backend.store.database import Database
from ml_backend.store.job import Job, RetryPolicy
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.schema import projects
from tests.conftest import KEY, SCHEMA
from tests.fakes import FakeClock


def known(database: Database, number: int) -> Project:
    return Ledger(database).upsert_project(
        ProjectKey(KEY.host, number), title="Pets", label_config="<View/>", schema=SCHEMA
    )


def claimed(jobs: Jobs, worker: str = "worker") -> Job:
    job = jobs.claim(worker)
    assert job is not None
    return job


def running(jobs: Jobs, project: Project) -> Job:
    jobs.mark_due(project, immediately=True, reason="test")
    return claimed(jobs)


def test_second_webhook_joins_the_pending_job(jobs: Jobs, project: Project) -> None:
    first = jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    second = jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert (second.id, second.labels) == (first.id, 2)
    assert len(jobs.history(project)) == 1


def test_labels_arriving_while_running_queue_exactly_one_successor(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    job = running(jobs, project)
    for _ in range(25):
        jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.claim("other worker") is None
    assert len(jobs.history(project)) == 2
    jobs.finish(job, {"accuracy": 0.9})
    successor = jobs.claim("worker")
    assert successor is not None
    assert successor.labels == 25
    jobs.finish(successor)
    clock.advance(3600)
    assert jobs.claim("worker") is None


def test_a_finished_job_keeps_its_summary_and_a_heartbeat_its_progress(jobs: Jobs, project: Project) -> None:
    job = running(jobs, project)
    beat = jobs.heartbeat(job, 0.5, "training")
    assert (beat.progress, beat.message) == (0.5, "training")
    assert jobs.status(project).running == beat
    done = jobs.finish(job, {"version": 3})
    assert (done.state, done.summary, done.progress) == ("done", {"version": 3}, 1.0)
    assert jobs.status(project).last == done
    assert jobs.status(project).stopped is None


def test_a_failing_job_is_tried_three_times_with_growing_pauses_then_stops_with_its_reason(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    job = running(jobs, project)
    failed = jobs.fail(job, "disk full")
    assert (failed.state, failed.error) == ("due", "disk full")
    for pause in (5, 10):
        clock.advance(pause - 0.1)
        assert jobs.claim("worker") is None
        clock.advance(0.1)
        again = jobs.claim("worker")
        assert again is not None
        assert again.id == job.id
        failed = jobs.fail(again, "disk full")
    assert (failed.state, failed.failures) == ("failed", 3)
    assert jobs.status(project).stopped == "disk full"
    clock.advance(86400)
    assert jobs.claim("worker") is None


def test_new_labels_start_a_failed_project_again_with_a_clean_slate(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    job = running(jobs, project)
    for _ in range(3):
        jobs.fail(job, "boom")
        clock.advance(100)
        job = jobs.claim("worker") or job
    assert jobs.status(project).stopped == "boom"
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.status(project).stopped is None
    clock.advance(30)
    fresh = jobs.claim("worker")
    assert fresh is not None
    assert fresh.failures == 0


def test_labels_that_came_while_the_third_attempt_ran_start_again_by_themselves(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    job = running(jobs, project)
    for _ in range(2):
        jobs.fail(job, "boom")
        clock.advance(100)
        job = claimed(jobs)
    jobs.mark_due(project, labels=10, reason="ANNOTATIONS_CREATED")
    assert jobs.fail(job, "boom").state == "failed"
    fresh = jobs.claim("worker")
    assert fresh is not None
    assert (fresh.failures, fresh.labels) == (0, 10)


def test_a_failed_attempt_takes_its_successor_in_and_new_labels_do_not_hurry_it(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    job = running(jobs, project)
    jobs.mark_due(project, labels=4, reason="ANNOTATION_CREATED")
    retry = jobs.fail(job, "boom")
    assert (retry.state, retry.labels) == ("due", 4)
    assert len(jobs.history(project)) == 1
    jobs.mark_due(project, labels=20, reason="ANNOTATIONS_CREATED")
    assert jobs.claim("worker") is None
    clock.advance(5)
    assert jobs.claim("worker") is not None


def test_a_person_does_not_have_to_wait_for_the_next_attempt(jobs: Jobs, project: Project) -> None:
    jobs.fail(running(jobs, project), "boom")
    jobs.mark_due(project, immediately=True, reason="START_TRAINING")
    assert jobs.claim("worker") is not None


def test_label_studio_away_is_no_failure_however_long_it_takes(jobs: Jobs, project: Project, clock: FakeClock) -> None:
    job = running(jobs, project)
    for _ in range(20):
        assert jobs.postpone(job, "Label Studio is away").state == "due"
        clock.advance(300)
        job = claimed(jobs)
    assert job.failures == 0
    assert jobs.finish(job).error is None


def test_label_studio_back_after_a_long_time_is_noticed_within_a_quarter_minute(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    job = running(jobs, project)
    for _ in range(20):
        jobs.postpone(job, "Label Studio is away")
        clock.advance(15)
        job = claimed(jobs)


def test_the_job_of_a_silent_worker_is_taken_up_again(jobs: Jobs, project: Project, clock: FakeClock) -> None:
    job = running(jobs, project)
    clock.advance(50)
    jobs.heartbeat(job, 0.3, "training")
    clock.advance(59)
    assert jobs.claim("other") is None
    clock.advance(2)
    taken = jobs.claim("other")
    assert taken is not None
    assert (taken.id, taken.crashes, taken.worker) == (job.id, 1, "other")
    assert "training" in (taken.error or "")


def test_a_worker_taken_for_dead_can_neither_finish_nor_fail_what_is_anothers(
    jobs: Jobs, project: Project, clock: FakeClock
) -> None:
    zombie = running(jobs, project)
    clock.advance(61)
    taken = jobs.claim("other")
    assert taken is not None
    attempts: tuple[Callable[[], Job], ...] = (
        lambda: jobs.finish(zombie),
        lambda: jobs.fail(zombie, "boom"),
        lambda: jobs.postpone(zombie, "away"),
        lambda: jobs.heartbeat(zombie, 0.5),
        lambda: jobs.stop(zombie),
    )
    for late in attempts:
        with pytest.raises(ConflictError, match="another worker"):
            late()
    assert jobs.finish(taken).state == "done"


def test_a_worker_known_to_be_dead_gives_its_job_back_at_once(jobs: Jobs, project: Project) -> None:
    job = running(jobs, project)
    assert jobs.abandon("somebody else") == 0
    assert jobs.abandon("worker") == 1
    taken = jobs.claim("worker")
    assert taken is not None
    assert (taken.id, taken.crashes) == (job.id, 1)


def test_a_job_that_kills_every_worker_stops_in_the_end(database: Database, clock: FakeClock, project: Project) -> None:
    jobs = Jobs(database, clock=clock, retry_policy=RetryPolicy(crashes=4))
    running(jobs, project)
    for _ in range(3):
        jobs.abandon("worker")
        assert jobs.claim("worker") is not None
    jobs.abandon("worker")
    assert jobs.claim("worker") is None
    assert "4 times" in (jobs.status(project).stopped or "")


def test_cancel_stops_what_runs_and_leaves_what_is_queued_behind_it(jobs: Jobs, project: Project) -> None:
    job = running(jobs, project)
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert not jobs.cancelled(job)
    assert jobs.cancel(project)
    assert jobs.cancelled(job)
    assert jobs.stop(job).state == "cancelled"
    assert jobs.status(project).due is not None


def test_cancel_drops_what_is_due_where_nothing_runs(jobs: Jobs, project: Project) -> None:
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert jobs.cancel(project)
    assert jobs.status(project).due is None
    assert not jobs.cancel(project)


def test_a_job_handed_back_is_due_at_once_and_no_failure(jobs: Jobs, project: Project) -> None:
    job = running(jobs, project)
    jobs.hand_back(job)
    again = jobs.claim("other")
    assert again is not None
    assert (again.id, again.failures, again.crashes, again.delays) == (job.id, 0, 0, 0)
    jobs.cancel(project)
    assert jobs.hand_back(again).state == "cancelled"


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_worker_that_lives_keeps_its_job_whatever_another_ones_clock_says(
    database: Database, project: Project, clock: FakeClock, minutes: int
) -> None:
    mine = Jobs(database, clock=clock)
    job = running(mine, project)
    skewed = FakeClock(clock.now + timedelta(minutes=minutes))
    other = Jobs(database, clock=skewed, retry_policy=RetryPolicy(observation=timedelta(seconds=0.2)))
    for _ in range(3):
        assert other.claim("other") is None
        clock.advance(10)
        mine.heartbeat(job, 0.5)


def test_a_dead_workers_job_is_taken_up_whatever_its_clock_said(
    database: Database, project: Project, clock: FakeClock
) -> None:
    ahead = Jobs(database, clock=FakeClock(clock.now + timedelta(minutes=10)))
    job = running(ahead, project)
    other = Jobs(database, clock=clock, retry_policy=RetryPolicy(lease=timedelta(seconds=0.2)))
    assert other.claim("other") is None
    time.sleep(0.25)
    taken = other.claim("other")
    assert taken is not None
    assert taken.id == job.id


def test_a_cancelled_job_of_a_dead_worker_is_not_taken_up_again(jobs: Jobs, project: Project, clock: FakeClock) -> None:
    running(jobs, project)
    jobs.cancel(project)
    clock.advance(61)
    assert jobs.claim("other") is None
    last = jobs.status(project).last
    assert last is not None
    assert last.state == "cancelled"


def test_the_oldest_due_job_comes_first(jobs: Jobs, database: Database, clock: FakeClock) -> None:
    one, two = known(database, 1), known(database, 2)
    jobs.mark_due(two, immediately=True, reason="START_TRAINING")
    clock.advance(1)
    jobs.mark_due(one, immediately=True, reason="START_TRAINING")
    assert claimed(jobs).project_id == two.id


def test_two_busy_projects_train_in_turn(jobs: Jobs, database: Database, clock: FakeClock) -> None:
    one, two = known(database, 1), known(database, 2)
    order = []
    for _ in range(6):
        jobs.mark_due(one, labels=10, reason="ANNOTATIONS_CREATED")  # one is always due earlier
        clock.advance(1)
        jobs.mark_due(two, labels=10, reason="ANNOTATIONS_CREATED")
        job = jobs.claim("worker")
        assert job is not None
        order.append(job.project_id)
        clock.advance(5)
        jobs.finish(job)
    assert order == [one.id, two.id] * 3


def test_a_project_with_a_successor_waiting_lets_the_other_one_go_first(
    jobs: Jobs, database: Database, clock: FakeClock
) -> None:
    one, two = known(database, 1), known(database, 2)
    job = running(jobs, one)
    jobs.mark_due(one, labels=10, reason="ANNOTATIONS_CREATED")
    clock.advance(1)
    jobs.mark_due(two, labels=10, reason="ANNOTATIONS_CREATED")
    jobs.finish(job)
    assert [claimed(jobs).project_id, claimed(jobs).project_id] == [two.id, one.id]


def test_two_projects_run_at_the_same_time_where_there_are_two_workers(jobs: Jobs, database: Database) -> None:
    for number in (1, 2):
        jobs.mark_due(known(database, number), immediately=True, reason="START_TRAINING")
    taken = [jobs.claim("one"), jobs.claim("two"), jobs.claim("three")]
    assert [job.project_id if job else None for job in taken] == [1, 2, None]


def test_a_job_is_claimed_by_one_of_many_workers_asking_at_once(jobs: Jobs, database: Database) -> None:
    for number in range(1, 4):
        jobs.mark_due(known(database, number), immediately=True, reason="START_TRAINING")
    start = threading.Barrier(8)
    taken: list[Job | None] = []

    def ask(name: str) -> None:
        start.wait()
        taken.append(jobs.claim(name))

    threads = [threading.Thread(target=ask, args=(f"worker-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.project_id for job in taken if job) == [1, 2, 3]


def test_a_project_whose_row_was_deleted_has_no_jobs_and_gets_none(
    jobs: Jobs, database: Database, project: Project
) -> None:
    job = running(jobs, project)
    with database.write() as connection:
        connection.execute(projects.delete())
    with pytest.raises(NotFoundError):
        jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    with pytest.raises(NotFoundError):
        jobs.finish(job)
    assert jobs.claim("worker") is None


def test_the_history_is_newest_first_and_can_be_shortened(jobs: Jobs, project: Project) -> None:
    for _ in range(5):
        jobs.finish(running(jobs, project))
    jobs.mark_due(project, labels=1, reason="ANNOTATION_CREATED")
    assert [job.id for job in jobs.history(project, limit=2)] == [6, 5]
    assert jobs.prune(project, keep=2) == 3
    assert [job.state for job in jobs.history(project)] == ["due", "done", "done"]

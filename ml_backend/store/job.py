"""What a job is, when a waiting one may start, and how often one is tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from ml_backend.store.project_state import ChosenSettings

MOST_QUIET = timedelta(days=1)
"""The longest that a project may be set to wait for a further label."""
JobState = Literal["due", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Debounce:
    """When a waiting job may start: at once with `labels` new labels, else after `quiet` without another.

    fresh: in place of `quiet` while the project has no queue yet. An import comes in pieces, and all of it is to be in
        the first one; but people wait, so the first piece waits no longer than `quiet`.
    """

    labels: int = 10
    quiet: timedelta = timedelta(seconds=30)
    fresh: timedelta = timedelta(seconds=2)

    def of(self, chosen: ChosenSettings) -> Debounce:
        """That of a project for which these settings were chosen."""
        labels, seconds = chosen.train_after_labels, chosen.train_after_seconds
        if labels is None and seconds is None:
            return self
        quiet = self.quiet if seconds is None else timedelta(seconds=seconds)
        return replace(self, labels=self.labels if labels is None else labels, quiet=quiet)


@dataclass(frozen=True)
class RetryPolicy:
    """How long a silent worker is believed in, and how often a job is tried.

    lease: a worker without a heartbeat for this long is taken for dead, and its job is taken up by another.
    observation: how long another worker has to have looked on before it does so, by its own watch: several heartbeats.
    failures: so many errors in a row and the job stops, with its reason. crashes: the same for dead workers; more are
        borne, because a machine that restarts is nothing against the job.
    backoff, longest: pause before the first retry, doubled each time up to the longest. away: the longest pause where
        nothing is wrong but that Label Studio does not answer; one small request each time, and prompt when it is back.
    """

    lease: timedelta = timedelta(seconds=60)
    observation: timedelta = timedelta(0)
    failures: int = 3
    crashes: int = 10
    backoff: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(minutes=5)
    away: timedelta = timedelta(seconds=15)

    def pause(self, times: int) -> timedelta:
        factor = 2 ** min(times - 1, 20)  # bounded, so that a long outage does not overflow
        return min(self.backoff * int(factor), self.longest)


@dataclass(frozen=True)
class Job:
    """One job, as it was when read. `labels` counts the label events that asked for it, `claims` its claims so far."""

    id: int
    project_id: int
    state: JobState
    reason: str
    labels: int
    immediate: bool
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    claims: int
    failures: int
    crashes: int
    delays: int
    progress: float
    message: str
    cancel_requested: bool
    summary: dict[str, Any] | None
    error: str | None


@dataclass(frozen=True)
class JobStatus:
    """What a person wants to know: what waits, what runs, how the last one ended, and what runs for another project."""

    due: Job | None
    running: Job | None
    last: Job | None
    elsewhere: Job | None = None

    @property
    def stopped(self) -> str | None:
        """Why nothing happens any more: the last job failed for good and nothing new has come in."""
        failed = self.last is not None and self.last.state == "failed"
        return self.last.error if self.last and failed and not self.due and not self.running else None

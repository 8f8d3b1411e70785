"""The turn of a project: what runs, what waits, and what the last one came to."""

from __future__ import annotations

from typing import Any

from ml_backend.services import Services
from ml_backend.status import turn_sentence
from ml_backend.store.job import Job, JobStatus
from ml_backend.store.projects import Project
from ml_backend.wording import amount, job_reason, shortened


def look(project: Project, services: Services) -> dict[str, Any]:
    jobs = services.jobs.status(project)
    return {
        "running": _running(jobs.running),
        "due": _due(jobs, services),
        "last": _last(jobs.last),
        "stopped": jobs.stopped,
        "paused": bool(project.state.paused),
    }


def _running(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "why": shortened(job_reason(job.reason)),
        "doing": shortened(job.message) or "just started",
        "percent": round(100 * min(max(job.progress, 0.0), 1.0)),
        "cancelled": job.cancel_requested,
    }


def _due(jobs: JobStatus, services: Services) -> dict[str, Any] | None:
    job, now = jobs.due, services.jobs.clock()
    if job is None:
        return None
    seconds = max((job.due_at - now).total_seconds(), 0.0)
    return {
        "why": shortened(job_reason(job.reason)),
        "labels": amount(job.labels, "new label") if job.labels else "",
        "seconds": round(seconds),
        "behind": jobs.running is not None,
        "elsewhere": jobs.running is None and jobs.elsewhere is not None and not seconds,
        "error": job.error,
    }


def _last(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    if job.state == "done":
        said = turn_sentence(job.summary) if job.summary and "refused" not in job.summary else _other(job)
    else:
        said = job.error or job.state
    return {"state": job.state, "said": said, "at": job.finished_at and f"{job.finished_at:%Y-%m-%d %H:%M} UTC"}


def _other(job: Job) -> str:
    refused = (job.summary or {}).get("refused")
    return str(refused) if refused else f"{shortened(job_reason(job.reason))}: done."

"""What a process that was killed leaves behind is taken up at once, instead of when its lease has run out."""

from __future__ import annotations

import os
import socket

from ml_backend.services import Services
from ml_backend.store.projects import Project


def worker_name() -> str:
    """Name of this process, by which another one on the same machine can tell whether it still lives."""
    return f"{socket.gethostname()}:{os.getpid()}"


def requeue_job_of_dead_process(project: Project, services: Services) -> None:
    """Take the running job from a process of this machine that was killed, rather than wait for its lease to end.

    Should the name mislead (another container of the same host name), a worker that lives loses its job, and is told so
    at its next heartbeat: the work is done twice, nothing is lost.
    """
    running = services.jobs.status(project).running
    host, _, pid = (running.worker or "").rpartition(":") if running else ("", "", "")
    if running and running.worker and host == socket.gethostname() and pid.isdigit() and not _alive(int(pid)):
        services.jobs.abandon(running.worker)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

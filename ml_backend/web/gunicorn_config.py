"""How gunicorn runs the web service. Loaded by its master, which thereby imports everything once.

A worker is forked with all of it in memory, and only opens the store. One whose master was killed ends too, or it would
sit on the port that the next master needs.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import ml_backend.web.app  # noqa: F401 - imported for the forks
from ml_backend.worker.supervisor import die_with_parent

control_socket_disable = True  # newer releases open a socket in the home folder, which need not be writable


def on_starting(_arbiter: Any) -> None:
    """Called once, in the master. What was imported lives for ever: let no garbage collection look through it.

    That would stop every request for up to half a second, each minute or so.
    """
    gc.collect()
    gc.freeze()


def post_fork(arbiter: Any, _worker: Any) -> None:
    """Called in each new worker."""
    die_with_parent()
    if os.getppid() != arbiter.pid:  # it died between the fork and the line above
        raise SystemExit(1)

"""Run the web service and the worker as one: start both, restart what dies, stop both."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from ml_backend.errors import ConfigError

logger = logging.getLogger(__name__)

STOP_SECONDS = 15.0
CANNOT_HEAL = 78
"""Exit status of a process that only a person can help, as in sysexits.h."""
YOUNG_SECONDS = 10.0
LONGEST_PAUSE = 5.0
"""Starting a process costs some three seconds of one core: a pause of this length keeps a broken one from being a load."""


PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
"""Looked up here: between a fork and an exec that may wait for ever for what another thread was just doing."""


def die_with_parent() -> None:
    """In a child, before exec: ask Linux for SIGTERM should the parent be killed. Elsewhere a no-op."""
    if PRCTL is not None:
        pr_set_pdeathsig = 1
        PRCTL(pr_set_pdeathsig, signal.SIGTERM)


def on_termination(do: Callable[[], object]) -> None:
    """Have it done on SIGTERM and on Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: do())


@dataclass
class Child:
    """One process that should always be there. Restarts pause longer each time it dies young.

    listen: makes the socket that the process is to accept connections on, and that it is given by number in place of
    `{socket}` in its command. Made before each start, so that nobody else can have the port, and then the child's alone.
    environment: variables that it has where this process does not have them.
    """

    name: str
    command: Sequence[str]
    listen: Callable[[], socket.socket] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    restarts: int = 0
    due: float = field(default=0.0)
    given_up: bool = False  # it has said why, and that starting it again changes nothing

    def start(self) -> None:
        """Start the process. Raises ConfigError where it cannot have its socket."""
        logger.info("starting the %s", self.name)
        with self.listen() if self.listen else nullcontext() as given:
            number = given.fileno() if given else None
            command = [part.replace("{socket}", str(number)) for part in self.command]
            self.process = subprocess.Popen(
                command,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads yet run code of ours
                pass_fds=[] if number is None else [number],
                env={**self.environment, **os.environ},
            )
        self.started = time.monotonic()

    def watch(self) -> None:
        """Start the process again when it is gone and its pause is over."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                self._start_again()
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        self.given_up = code == CANNOT_HEAL
        self.restarts += 1
        if self.given_up:
            return
        self._rest(young=now - self.started < YOUNG_SECONDS)
        logger.error("the %s exited with %s; restarting it in %.1f s", self.name, code, self.pause)

    def _start_again(self) -> None:
        try:
            self.start()
        except ConfigError as error:
            self._rest(young=True)
            logger.error("%s Restarting the %s in %.1f s.", error, self.name, self.pause)  # noqa: TRY400

    def _rest(self, *, young: bool) -> None:
        self.pause = min(LONGEST_PAUSE, max(0.2, self.pause * 2)) if young else 0.2
        self.due = time.monotonic() + self.pause

    def stop(self, deadline: float) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run(children: Sequence[Child]) -> int:
    """Keep `children` running until SIGTERM or SIGINT, then stop them all; returns the exit status.

    Where one exits with CANNOT_HEAL, the others are stopped, too.

    Raises ConfigError where one cannot be started at all; those before it in the list are stopped then.
    """
    stopping = threading.Event()
    on_termination(stopping.set)
    try:
        for child in children:
            child.start()
        while not stopping.is_set():
            for child in children:
                child.watch()
            if any(child.given_up for child in children):
                return CANNOT_HEAL
            stopping.wait(0.2)
    finally:
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            if child.process is not None:
                child.process.terminate()
        for child in children:
            child.stop(deadline)
    return 0

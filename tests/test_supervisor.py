"""The supervisor with real processes."""

from __future__ import annotations

import sys
import time

from ml_backend.supervisor import LONGEST_PAUSE, Child


def watch_until_running(child: Child) -> int:
    """Watch as the supervisor does; returns the process id once there is one again."""
    while True:
        child.watch()
        if child.process is not None and child.process.poll() is None:
            return child.process.pid
        time.sleep(0.01)


def test_a_killed_child_is_started_again() -> None:
    child = Child("sleeper", [sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    first = watch_until_running(child)
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    assert watch_until_running(child) != first
    assert child.restarts == 1
    child.stop(time.monotonic() + 5)


def test_a_child_that_dies_young_again_and_again_is_given_longer_and_longer_pauses_up_to_a_limit() -> None:
    child = Child("broken", [sys.executable, "-S", "-c", "raise SystemExit(3)"])
    pauses = []
    for _ in range(8):
        child.due = 0.0
        child.watch()
        assert child.process is not None
        child.process.wait()
        child.watch()
        pauses.append(child.pause)
    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert pauses[-1] == LONGEST_PAUSE

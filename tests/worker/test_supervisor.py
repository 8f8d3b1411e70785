"""The supervisor with real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_backend import cli
from ml_backend.commands.serve import worker_environment
from ml_backend.demo.label_studio import free_port, is_free
from ml_backend.errors import ConfigError
from ml_backend.worker import supervisor
from ml_backend.worker.supervisor import LONGEST_PAUSE, Child


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


@pytest.mark.parametrize("given", [None, "5"])
def test_the_worker_leaves_a_core_to_others_unless_it_is_told_how_many_to_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    for name in worker_environment():
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr("ml_backend.encoders.compute.cores", lambda: 4)
    code = "import os, sys; open(sys.argv[1], 'w').write(' '.join(os.environ[name] for name in sys.argv[2:]))"
    asked = [str(tmp_path / "said"), "OMP_NUM_THREADS", "OMP_WAIT_POLICY"]
    child = Child("worker", [sys.executable, "-S", "-c", code, *asked], environment=worker_environment())
    child.start()
    assert child.process is not None
    assert child.process.wait() == 0
    assert (tmp_path / "said").read_text() == f"{given or 3} PASSIVE"


@pytest.mark.parametrize("only", [[], ["--only", "web"]])
def test_on_a_taken_port_nothing_is_started_or_kept_and_one_sentence_says_why(
    only: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(supervisor, "run", started.append)
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("ML_BACKEND_PORT", str(other.getsockname()[1]))
        monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(tmp_path / "data"))
        assert cli.main(["serve", *only]) == 1
    said = capfd.readouterr().err
    assert "ML_BACKEND_PORT" in said
    assert said.count("\n") == 1
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_where_the_port_is_lost_in_the_last_moment_no_other_child_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def taken() -> socket.socket:
        raise ConfigError("Port 9090 is taken")

    worker = Child("worker", [sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    with pytest.raises(ConfigError, match="9090"):
        supervisor.run([Child("web", [sys.executable, "-S", "-c", ""], taken), worker])
    assert worker.process is None


def test_a_child_has_its_socket_for_itself_and_gets_a_new_one_when_it_is_started_again() -> None:
    port = free_port()
    code = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.accept()[0].sendall(b'hello'); sys.exit(3)"
    )
    listen = lambda: socket.create_server(("127.0.0.1", port))  # noqa: E731
    child = Child("web", [sys.executable, "-S", "-c", code, "{socket}"], listen)
    for _ in range(2):
        watch_until_running(child)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
            assert caller.recv(5) == b"hello"
        assert child.process is not None
        assert child.process.wait(10) == 3
        assert is_free(port)

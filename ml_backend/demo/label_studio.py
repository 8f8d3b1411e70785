"""A real Label Studio of one's own, for the demo and the tests: a child process on SQLite, on a free loopback port."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import requests

from ml_backend.errors import ConfigError, LabelStudioUnavailableError

START_TIMEOUT_S = 240.0  # a first start applies some 300 migrations: half a minute on an idle machine
STOP_TIMEOUT_S = 5.0

CONNECTED = {
    # Let this Label Studio call a backend on the same machine: the backend itself, then its webhook.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    # Without it, every import of predictions recounts all tasks of the project: 10 s at 50,000 tasks.
    "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short": "true",
}
"""What Label Studio needs beside its defaults to work with a backend in the same private network."""

_QUIET = {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"}

# The child asks the kernel for SIGTERM when its parent dies, so that not even kill -9 leaves a server behind.
_LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedLabelStudio:
    """Starts on `start` (or `with`), answers when that returns, and is gone, with its children, after `stop`.

    `stop` also runs when Python ends in any orderly way, and on Linux the server dies with the process (the thread, to
    the letter) that started it. A SIGTERM is orderly only where the program turns it into SystemExit.

    data_dir: made where missing, kept; `template` (a data folder that was set up before) is copied there first if empty.
    document_root: the folder behind /data/local-files/, if any. environment: added to and overriding the defaults.
    """

    def __init__(
        self,
        binary: Path,
        data_dir: Path,
        *,
        port: int | None = None,
        username: str = "demo@example.com",
        password: str = "active-learning",  # noqa: S107 - on loopback, printed to whoever starts it
        token: str = "0123456789abcdef0123456789abcdef01234567",  # noqa: S107
        document_root: Path | None = None,
        template: Path | None = None,
        environment: Mapping[str, str] = CONNECTED,
    ) -> None:
        self.binary, self.data_dir, self.template = binary, data_dir.resolve(), template
        self.username, self.password, self.token = username, password, token
        self.document_root, self.environment = document_root, environment
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.data_dir / "label-studio.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait for /health. Raises ConfigError without a binary, LabelStudioUnavailableError if it fails."""
        if not self.binary.is_file():
            raise ConfigError(f"There is no Label Studio at {self.binary}: run `make setup`, or set LABEL_STUDIO_BIN.")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self.template and not any(self.data_dir.iterdir()):
            shutil.copytree(self.template, self.data_dir, dirs_exist_ok=True)
        atexit.register(self.stop)
        launch = [sys.executable, "-c", _LAUNCH, str(os.getpid()), str(self.binary), *self._arguments()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                launch, cwd=self.data_dir, env=self._environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and everything it started: SIGTERM, then SIGKILL after 5 s. Safe to repeat."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def _arguments(self) -> list[str]:
        return [
            "start", "--no-browser", "--port", str(self.port), "--internal-host", "127.0.0.1",
            "--username", self.username, "--password", self.password, "--user-token", self.token,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """Built from little, for Label Studio reads bare names such as HOST, PORT, USERNAME and PASSWORD too."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TMPDIR") if key in os.environ}
        files = {}
        if self.document_root:
            files = {
                "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
                "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.document_root.resolve()),
            }
        own = {
            "HOME": str(self.data_dir),
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data_dir),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "AZURE_MOUNT_FIX": "1",  # turns SQLite's write-ahead log on: a submit takes 0.15 s instead of 0.25 s
        }
        return kept | own | _QUIET | files | dict(self.environment)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        if answers(self.url, process, START_TIMEOUT_S):
            return
        if process.poll() is not None:
            raise LabelStudioUnavailableError(f"Label Studio exited while starting: {self._last_lines()}")
        raise LabelStudioUnavailableError(f"Label Studio did not start in {START_TIMEOUT_S:.0f} s; see {self.log}.")

    def _last_lines(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-5:])


def find_binary(root: Path, environment: Mapping[str, str]) -> Path | None:
    """LABEL_STUDIO_BIN, else the environment `make setup` builds under `root`, else the PATH; None where there is none."""
    named = environment.get("LABEL_STUDIO_BIN")
    candidates = [Path(named)] if named else [root / ".venv-label-studio" / "bin" / "label-studio"]
    on_path = shutil.which("label-studio")
    if on_path and not named:
        candidates.append(Path(on_path))
    return next((path for path in candidates if path.is_file()), None)


def answers(url: str, process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the server at this address answers /health within so many seconds, and while its process lives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/health", timeout=2).ok:
                return True
        time.sleep(0.1)
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)

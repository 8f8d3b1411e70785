"""A server of one's own must never outlive its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import requests

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import ConfigError, LabelStudioUnavailableError


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 120
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; only Linux tells a child of its parent's death")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=lambda end: end.name)
def test_the_server_dies_with_whoever_started_it(
    label_studio_binary: Path, label_studio_template: Path, tmp_path: Path, end: signal.Signals
) -> None:
    program = textwrap.dedent(
        f"""
        import signal
        import time
        from pathlib import Path
        from ml_backend.demo.label_studio import EmbeddedLabelStudio

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored

        with EmbeddedLabelStudio(
            Path({str(label_studio_binary)!r}), Path({str(tmp_path / "data")!r}), template=Path({str(label_studio_template)!r})
        ) as server:
            print(server.pid, server.url, flush=True)
            time.sleep(600)
        """
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    try:
        pid, url = owner.stdout.readline().split()
        assert requests.get(f"{url}/health", timeout=60).json() == {"status": "UP"}
        os.kill(owner.pid, end)
        owner.wait(120)
    finally:
        owner.kill()
        owner.communicate()
    assert gone(int(pid))


def test_stop_ends_the_server_and_its_data_outlive_it(
    label_studio_binary: Path, label_studio_template: Path, tmp_path: Path
) -> None:
    server = EmbeddedLabelStudio(label_studio_binary, tmp_path / "data", template=label_studio_template)
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert not is_alive(pid)
    assert (tmp_path / "data" / "label_studio.sqlite3").is_file()


def test_a_server_that_cannot_start_says_why(label_studio_binary: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LABEL_STUDIO_BIN"):
        EmbeddedLabelStudio(tmp_path / "no-such-file", tmp_path / "data").start()
    broken = {"DJANGO_DB": "no-such-database"}
    with pytest.raises(LabelStudioUnavailableError, match="no-such-database"):
        EmbeddedLabelStudio(label_studio_binary, tmp_path / "data", environment=broken).start()

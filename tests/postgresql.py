"""A real PostgreSQL of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_backend.demo.label_studio import free_port


@dataclass(frozen=True)
class Cluster:
    """A private cluster on 127.0.0.1. PostgreSQL refuses to run as root, so root runs it as nobody."""

    folder: str
    port: int
    user: str | None

    @property
    def url(self) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories={self.folder}"
        self.control("-o", options, "-l", f"{self.folder}/log", "start")

    def stop(self) -> None:
        """As if its processes were killed: every connection breaks, and the next start recovers from the log."""
        self.control("-m", "immediate", "stop")

    def control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-t", "240", *arguments)

    def run(self, name: str, *arguments: str) -> None:
        command = [str(binary(name)), *arguments]
        subprocess.run(command, user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=300)


@contextmanager
def restartable() -> Iterator[Cluster]:
    """A cluster that a test may stop and start."""
    if binary("initdb") is None or binary("pg_ctl") is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed")
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, user)
        made = Cluster(folder, free_port(), user)
        options = ("-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8", "--locale=C")
        made.run("initdb", "-D", f"{folder}/data", *options)
        made.start()
        try:
            yield made
        finally:
            with suppress(subprocess.CalledProcessError):  # the test has stopped it itself
                made.stop()


@contextmanager
def cluster() -> Iterator[str]:
    """URL of a cluster of the caller's own."""
    with restartable() as made:
        yield made.url


def binary(name: str) -> str | None:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, places)))

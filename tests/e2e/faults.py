"""What goes wrong besides kills: another label config, pins, an imported model, a restarted database, a clock that is off."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ml_backend.demo.digits import CLASSES
from ml_backend.labelstudio.config import label_config
from tests.e2e.stack import Stack
from tests.postgresql import Cluster

SKEW = 600.0

SITE = '''"""Loaded by every Python process of the service: its clock is off by what the file beside this says, in seconds."""

import ml_backend.store.database as database
from datetime import timedelta
from pathlib import Path

database.skew = lambda: timedelta(seconds=float(Path({file!r}).read_text()))


def skewed():
    return datetime.now(UTC) + skew()


database.utc_now.__code__ = skewed.__code__  # in place: it is the default of many a parameter
'''


class Clock:
    """The clock of the service's processes, which can be set while they run; Label Studio's own stays right."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "skew"
        self.set(0.0)
        (folder / "sitecustomize.py").write_text(SITE.format(file=str(self.file)))
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
        self.environment = {"PYTHONPATH": path}

    def set(self, seconds: float) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.file)


class Faults:
    """One fault at a time, all kinds in turn; each is survived by the service, or refused by it in one sentence."""

    def __init__(self, stack: Stack, clock: Clock, database: Cluster | None, folder: Path, rng: random.Random) -> None:
        self.stack, self.clock, self.database, self.folder, self.rng = stack, clock, database, folder, rng
        self.labels = list(CLASSES)
        self.did: Counter[str] = Counter()
        self.left = ["import_model"]
        self.bundle = folder / "bundle"

    @property
    def kinds(self) -> list[str]:
        """Names of the faults that are possible."""
        names = ["change_config", "pin", "unpin", "import_model", "skew"]
        return [*names, "restart_database"] if self.database else names

    def strike(self) -> None:
        self.left = self.left or self.rng.sample(self.kinds, len(self.kinds))
        name = self.left.pop()
        self.did[name] += 1
        getattr(self, name)()

    def calm(self) -> None:
        """Take back what would keep the newest version from being served. The clock stays as it is."""
        self._command("versions", "unpin", tries=5)

    def change_config(self) -> None:
        """Another order of the choices, and now and then one choice more, which no model taken out before can have."""
        if self.did["import-model: exit 0"] and self.rng.random() < 0.5:
            self.labels.append(f"choice {len(self.labels)}")
        self.rng.shuffle(self.labels)
        self.stack.client.update_project(self.stack.project_id, label_config=label_config(self.labels))

    def pin(self) -> None:
        there = [v.name for v in self.stack.services.versions.list(self.stack.project) if v.state != "pruned"]
        self._command("versions", "pin", self.rng.choice(there) if there else "v1")

    def unpin(self) -> None:
        self._command("versions", "unpin")

    def import_model(self) -> None:
        """A version of the project's own, taken out earlier; another one where it lacks a choice made since."""
        if not self.bundle.exists():
            self.bundle = self.folder / f"bundle-{self.did['import_model']}"
            self._command("export", "model", "--format", "bundle", "--out", str(self.bundle))
        if self.bundle.exists() and not self._command("import-model", str(self.bundle)):
            shutil.rmtree(self.bundle)

    def restart_database(self) -> None:
        assert self.database is not None
        self.database.stop()
        time.sleep(self.rng.uniform(0.0, 2.0))
        self.database.start()

    def skew(self) -> None:
        self.clock.set(self.rng.choice([-SKEW, 0.0, SKEW]))

    def _command(self, *arguments: str, tries: int = 1) -> bool:
        """Run a command beside the service. It may be refused, in a sentence; it must not end in a traceback."""
        number = str(self.stack.project_id)
        for _ in range(tries):
            ended = subprocess.run(
                [sys.executable, "-m", "ml_backend.cli", *arguments, "--project", number],
                env={**os.environ, **self.stack.environment},
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert "Traceback" not in ended.stderr, ended.stderr
            self.did[f"{arguments[0]}: exit {ended.returncode}"] += 1
            if ended.returncode == 0:
                return True
            print(f"{' '.join(arguments)}: {ended.stderr.strip()[-300:]}")
            time.sleep(1)
        return False

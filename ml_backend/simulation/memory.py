"""Peak memory of a block of code, as the kernel counts it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Megabytes (2^20 bytes) above what was resident before; NaN where the system does not tell."""

    megabytes: float = float("nan")


@contextmanager
def peak_megabytes() -> Iterator[Peak]:
    """Linux: the high-water mark is set back first, so an earlier peak does not hide this one."""
    peak = Peak()
    try:
        CLEAR.write_text("5")
        before = _resident("VmRSS")
    except OSError:
        yield peak
        return
    yield peak
    peak.megabytes = max(_resident("VmHWM") - before, 0.0)


def _resident(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    return int(found.group(1)) / 1024 if found else float("nan")

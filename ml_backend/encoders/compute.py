"""Where networks compute, and with how many threads: what was set, or what there is. Decided once a process.

It knows torch only once something is to be computed: what merely tells how far a project is does not wait for it.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

QUOTAS = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


@dataclass
class _Wanted:
    device: str = "auto"
    threads: int | None = None
    told: str | None = None


_wanted = _Wanted()


def choose(device: str, threads: int | None) -> None:
    """What the settings say, for all that this process computes from now on."""
    _wanted.device, _wanted.threads = device, threads
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
        if loaded := sys.modules.get("torch"):
            loaded.set_num_threads(threads)


def chosen_device() -> torch.device:
    """Raises ConfigError where there is no such device."""
    import torch  # noqa: PLC0415 - takes seconds

    name = _wanted.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if wrong := _lacking(device):
        raise ConfigError(
            f"ML_BACKEND_DEVICE={name}: {wrong}. Set it to auto, which takes what there is, or to cpu; "
            "`ml-backend doctor` tells what PyTorch finds."
        )
    if _wanted.told != name:
        _wanted.told = name
        logger.info("networks compute on %s; %d threads of the processor compute", device, torch.get_num_threads())
    return device


def _lacking(device: torch.device) -> str | None:
    """What is missing for it."""
    import torch  # noqa: PLC0415

    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            return "PyTorch finds no NVIDIA GPU here"
        return None if (device.index or 0) < count else f"there are {count} GPUs, numbered from 0"
    if device.type == "mps" and not torch.backends.mps.is_available():
        return "PyTorch finds no Apple GPU here"
    return None


def cores() -> int:
    """Processors that this process may use: those of the machine, or fewer where it is confined to some, or to a share."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _quota(*QUOTAS)
    return max(1, mine if share is None else min(mine, math.ceil(share)))


def threads() -> int:
    """Threads that a batch of images is shared out over."""
    return _wanted.threads or cores()


def _quota(second_version: Path, first_version: Path) -> float | None:
    """Processors' worth of time that the control group of a container has; None where there is no limit."""
    try:
        if second_version.is_file():
            quota, period = second_version.read_text(encoding="ascii").split()
        else:
            quota = first_version.read_text(encoding="ascii").strip()
            period = first_version.with_name("cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # "max", or no such file
        return None

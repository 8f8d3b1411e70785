"""How far a long training is, in one file: tensors as safetensors, and beside them a line of JSON and a digest of it all.

Nothing but time depends on it. What is damaged, or belongs to another training, is named in the log and not used; where it
cannot be written, the training goes on without.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ml_backend.encoders.weights import digest

logger = logging.getLogger(__name__)

EVERY_S = 60.0
"""At least so long between two: what a kill costs, and a disk that is not written to all the time."""
OVERHEAD = 20.0
"""And so many times what it took to write the last one."""

Tensors = Mapping[str, torch.Tensor]


class Checkpoint:
    """The file at `path`. situation: all that decides what the training comes to, digested; that of another is not read."""

    def __init__(self, path: Path, situation: str) -> None:
        self.path = path
        self.situation = situation
        self._due = time.monotonic() + EVERY_S
        self._told = False

    @property
    def due(self) -> bool:
        """Whether it is time to write one."""
        return time.monotonic() >= self._due

    def write(self, state: str, tensors: Tensors, check_cancelled: Callable[[], None]) -> None:
        """Put one in the place of what was there, at once or not at all. What `check_cancelled` raises leaves that there.

        Killed anywhere, it leaves at most one more file, in whose place the next one is written. Where there is too little
        room, for the version that is to be written later as well, nothing is written, and the log says so once.
        """
        began = time.monotonic()
        aside = self.path.with_suffix(".writing")
        try:
            self._write_aside(aside, state, tensors, check_cancelled)
            aside.replace(self.path)
        except (OSError, SafetensorError) as error:
            if not self._told:
                logger.warning("How far training is cannot be kept (%s): after a restart it would start anew.", error)
            self._told = True
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        now = time.monotonic()
        self._due = now + max(EVERY_S, OVERHEAD * (now - began))

    def _write_aside(self, aside: Path, state: str, tensors: Tensors, check_cancelled: Callable[[], None]) -> None:
        """In steps: each takes seconds where the network is large."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if shutil.disk_usage(self.path.parent).free < 2 * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path.parent))
        here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"situation": self.situation, "state": state}
        header |= {"digest": digest(header, here)}
        check_cancelled()
        save_file(here, aside, header)
        check_cancelled()
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        check_cancelled()

    def read(self, template: Tensors) -> tuple[str, Tensors] | None:
        """The state and the tensors, on the CPU, whose names, shapes and types are among the template's; else None."""
        try:
            if not self.path.is_file():
                return None
            with safe_open(self.path, "pt") as file:
                header = file.metadata() or {}
                if header["situation"] != self.situation:
                    logger.info("What is kept of a training is of other labels or settings: training starts anew.")
                    return None
                tensors = _tensors(file, template)
            _check_digest(header, tensors)
            return header["state"], tensors
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            self.refuse(error)
            return None

    def refuse(self, error: Exception) -> None:
        """Say that what was read cannot be gone on from."""
        logger.warning("%s is damaged (%s): training starts anew.", self.path, error)


def _tensors(file: Any, template: Tensors) -> Tensors:
    """All tensors of an open file. Raises ValueError, before it reads any, where one is not as the template's."""
    for name in file.keys():  # noqa: SIM118 - it is no mapping
        if name not in template or list(template[name].shape) != file.get_slice(name).get_shape():
            raise ValueError(f"{name} is of another network")
    tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if any(tensor.dtype != template[name].dtype for name, tensor in tensors.items()):
        raise ValueError("it has numbers of another kind")
    return tensors


def _check_digest(header: dict[str, str], tensors: Tensors) -> None:
    """Raise ValueError where it is not that of all the rest."""
    if header.pop("digest") != digest(header, tensors):
        raise ValueError("its digest is another")

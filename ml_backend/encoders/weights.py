"""Weight files are data, never code: safetensors, or torch files read with `weights_only`."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ml_backend.errors import InvalidInputError


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict as float32, from safetensors or from a torch file holding tensors only.

    Takes the usual wrappings off: {"state_dict": ...}, {"model": ...} and DistributedDataParallel's "module." prefix.
    Raises InvalidInputError for a file that is missing, damaged, holds something else, or wants to run code.
    """
    if not path.is_file():
        raise InvalidInputError(f"There is no weights file {path}.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidInputError(
            f"{path.name} is a pickle that would run code, which is refused: save only the state dict "
            "(torch.save(model.state_dict(), ...)) or convert it to safetensors."
        ) from error
    except Exception as error:  # a damaged pickle fails wherever the damage happens to be
        raise InvalidInputError(
            f"{path.name} is not a complete safetensors or torch file ({error}): save or download it again."
        ) from error
    return _unwrap(state, path)


def _unwrap(state: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InvalidInputError(
            f"{path.name} does not contain a state dict (names -> tensors): save model.state_dict()."
        )
    return {
        name.removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def digest(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Twelve hex digits that change with any weight or setting."""
    sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:12]

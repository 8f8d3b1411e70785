"""Which layers of a network are trained, and how fast: the later, the faster, where it is made of attention.

Early layers know what holds for all pictures, and a few labels tell them little: in ViTs each block learns at a fixed share of
the rate of the one behind it (H. Bao et al., "BEiT", ICLR 2022). Convolutional networks learn at one rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn

from ml_backend.learning.adapters import adapt, is_attention

Part = Literal["all", "last", "lora"]
"""What is trained of the body: all of it; its last blocks, and what follows them; adapters beside its attention."""
Optimizer = Literal["sgd", "adamw"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def block_paths(body: nn.Module) -> list[str]:
    """Dotted names of the outermost modules whose kind comes again, in the order they are defined in: blocks or stages."""
    kinds = Counter(type(module) for module in body.modules() if _computes(module))
    return list(_blocks(body, "", kinds))


def _computes(module: nn.Module) -> bool:
    """Whether it is made of parts, and has a matrix: a normalisation with its activation is no block."""
    return bool(list(module.children())) and any(parameter.ndim > 1 for parameter in module.parameters())


def _blocks(module: nn.Module, path: str, kinds: Mapping[type, int]) -> Iterator[str]:
    for name, child in module.named_children():
        here = f"{path}{name}"
        if not _computes(child):
            continue
        if kinds[type(child)] > 1 and not isinstance(child, _CONTAINERS):
            yield here
        else:
            yield from _blocks(child, f"{here}.", kinds)


def depths(body: nn.Module) -> dict[str, int]:
    """Layer of each parameter: 0 before the first block, 1, 2, ... for the blocks, then what follows the last one.

    What stands between two blocks is of the layer of the first.
    """
    paths = block_paths(body)
    at: dict[str, int] = {}
    reached = 0
    for name, _ in body.named_parameters():
        inside = next((i for i, path in enumerate(paths, 1) if name.startswith(f"{path}.")), None)
        if inside is None:
            at[name] = len(paths) + 1 if paths and reached == len(paths) else reached
        else:
            at[name] = reached = inside
    return at


def choose_part(body: nn.Module, part: Part, *, last: int, rank: int) -> None:
    """Let that part of the body learn, and nothing else of it. Raises ConfigError for LoRA without attention."""
    if part == "lora":
        adapt(body, rank)
        return
    layer = depths(body)
    first = len(block_paths(body)) + 1 - last if part == "last" else 0
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(layer[name] >= first)


def fits(body: nn.Module) -> Optimizer:
    """AdamW where there is attention, SGD with momentum for convolutions."""
    return "adamw" if any(map(is_attention, body.modules())) else "sgd"


def parameter_groups(
    network: nn.ModuleDict, *, rate: float, head_rate: float, decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """What an optimizer takes, of all that learns in {"features", "head"}: one group for a rate and a weight decay.

    Each group has its highest rate as "rate". decay: rate of a layer, as a share of that of the next. Biases, scales and
    positions, which have one row, are not decayed.
    """
    body = network["features"].get_submodule("body")
    layer = depths(body)
    top = max(layer.values(), default=0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix("features.body.")
        its = rate * decay ** (top - layer[own]) if own in layer else head_rate
        flat = parameter.ndim < 2 or (parameter.shape[0] == 1 and parameter.ndim == 3)
        key = (its, 0.0 if flat and decay < 1 else weight_decay)
        group = groups.setdefault(key, {"params": [], "rate": its, "lr": its, "weight_decay": key[1]})
        group["params"].append(parameter)
    return list(groups.values())


def still(network: nn.Module) -> None:
    """Layers that do not learn neither drop nor count: they do what they will when the network serves."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def make_optimizer(kind: Optimizer, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0)

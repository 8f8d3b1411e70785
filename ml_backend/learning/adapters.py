"""LoRA: small matrices beside the weights of attention, trained in their place and added to them at the end.

E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. Once merged, the network is built as it was
before: nothing that saves, loads or exports it knows of it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from ml_backend.errors import ConfigError


class LowRank(nn.Module):
    """weight (out, in) -> weight + b @ a, with a (rank, in) drawn at random and b (out, rank) zero: at first, the weight."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        out, into = weight.shape
        rank = min(rank, out, into)
        self.a = nn.Parameter(torch.randn(rank, into, device=weight.device) / into**0.5)
        self.b = nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            changed: torch.Tensor = weight + self.b @ self.a
        return changed


def is_attention(module: nn.Module) -> bool:
    """By its class: timm's, torchvision's and open_clip's all have it in their name; a block is more than its attention."""
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and "block" not in name


def adapt(network: nn.Module, rank: int) -> int:
    """Freeze the network and put adapters beside the linear layers of its attention; returns how many.

    What they start from is drawn from torch's own generator. Raises ConfigError where it has no attention.
    """
    network.requires_grad_(False)
    found = _places(network)
    if not found:
        raise ConfigError(
            "This network has no attention layers for LoRA to adapt: set ML_BACKEND_FINETUNE_PART to all or last."
        )
    for module, name in found:
        weight = getattr(module, name)
        parametrize.register_parametrization(module, name, LowRank(weight, rank))
    return len(found)


def merge(network: nn.Module) -> None:
    """Add the adapters to the weights they stand beside, and take them away. Does nothing where there are none."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _places(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Module and name of each weight (out, in) of a linear layer within attention, each once."""
    found: dict[int, tuple[nn.Module, str]] = {}
    for attention in filter(is_attention, network.modules()):
        for module in attention.modules():
            if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                found.setdefault(id(module), (module, "in_proj_weight"))
            if isinstance(module, nn.Linear):
                found.setdefault(id(module), (module, "weight"))
    return list(found.values())

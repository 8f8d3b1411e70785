"""torchvision's classification networks as their authors mean them: what is taken off, and what they are to be shown."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from ml_backend.encoders.vision import torchvision
from ml_backend.errors import ConfigError

_CLASSIFIERS = ("fc", "heads.head", "head", "classifier")
"""ResNet, RegNet, ShuffleNet and the Inceptions; vision transformers; Swin; all others, often a Sequential."""
_SELF_NORMALISED = ("googlenet", "inception_v3")
"""With their pretrained weights they turn ImageNet's mean and std into these themselves (`transform_input`)."""
_OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)


def new_classifier(name: str, *, classes: int | None = None, size: int | None = None) -> nn.Module:
    """Untrained, for pictures of `size` pixels a side where the network has to know. ConfigError for an unknown name."""
    models = _models_with(name)
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if size is not None and name.startswith("vit_"):
        options["image_size"] = size
    try:
        network: nn.Module = models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be made for pictures of {size} x {size} pixels ({error}).") from error
    return network


def take_classifier_off(network: nn.Module) -> int:
    """Leave the features before the classifier's last linear layer (squeezenet: convolution). Returns how many they are."""
    path = classifier_path(network)
    layer = network.get_submodule(path)
    parent, _, own = path.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Identity())
    if getattr(network, "aux_logits", False):  # classifiers at the side, which only training of the whole looks at
        setattr(network, "aux_logits", False)  # noqa: B010 - a plain attribute, which mypy takes for a module
        for name in [name for name, _ in network.named_children() if name.lower().startswith("aux")]:
            setattr(network, name, None)
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


def classifier_path(network: nn.Module) -> str:
    """Dotted name of the layer that gives the classes."""
    modules = dict(network.named_modules())
    path = next(path for path in _CLASSIFIERS if path in modules)
    inside = [own for own, module in modules[path].named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return f"{path}.{inside[-1]}".rstrip(".")


def preprocessing(name: str, choice: str, size: int | None) -> dict[str, Any]:
    """Fields of Preprocessing: the transforms of these weights, or of the default ones; at another `size` in proportion."""
    available = _models_with(name).get_model_weights(name)
    if choice not in ("", "none", *available.__members__):
        raise ConfigError(f"{name} has no weights {choice!r}: use {', '.join(available.__members__)} or none.")
    transform = (available[choice] if choice not in ("", "none") else available.DEFAULT).transforms()
    own = name in _SELF_NORMALISED
    crop, resize = int(transform.crop_size[0]), int(transform.resize_size[0])
    return {
        "resize": resize if size is None else round(resize * size / crop),
        "crop": size or crop,
        "mean": (0.5, 0.5, 0.5) if own else tuple(transform.mean),
        "std": (0.5, 0.5, 0.5) if own else tuple(transform.std),
        "interpolation": transform.interpolation.value,
    }


def as_it_is_now(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of an older torchvision under today's names, and positions of another picture size at this one's."""
    state = {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in state.items()}
    positions, own = state.get("encoder.pos_embedding"), network.state_dict().get("encoder.pos_embedding")
    if positions is None or own is None or positions.shape == own.shape or positions.shape[::2] != own.shape[::2]:
        return state
    resized = torchvision().models.vision_transformer.interpolate_embeddings(
        network.image_size, network.patch_size, {"encoder.pos_embedding": positions}
    )
    return {**state, **resized}


def _models_with(name: str) -> Any:
    models = torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"There is no encoder {name!r}: use auto, patches, timm:<name>, open_clip:<name> or one of {', '.join(known)}."
        )
    return models

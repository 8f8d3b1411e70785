"""timm's networks as their authors mean them: the features timm gives, and the tag's own preprocessing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ml_backend.encoders.vision import torchvision
from ml_backend.errors import ConfigError
from ml_backend.wording import shortened

_FITS = {"center": "crop", "squash": "squash", "border": "letterbox"}


def new_network(name: str, *, classes: int | None = None, size: int | None = None) -> nn.Module:
    """Untrained; classes=0 gives the body. size: pixels a side, for networks that have to know. ConfigError if there is none."""
    return _create(name, {} if classes is None else {"num_classes": classes}, size)


def preprocessing(name: str, size: int | None) -> dict[str, Any]:
    """Fields of Preprocessing: what the tag's weights were trained to see; at another `size` in proportion."""
    timm = _timm()
    _known(name)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    _, height, width = config["input_size"]
    if size is None and height != width:
        raise ConfigError(
            f"timm:{name} takes pictures of {width} x {height} pixels, and pictures are prepared as squares here: choose "
            f"another network, or say a size (timm:{name}?size={min(height, width)})."
        )
    crop = size or int(height)
    return {
        "resize": math.floor(crop / float(config["crop_pct"])),
        "crop": crop,
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": str(config["interpolation"]),
        "fit": _FITS.get(config["crop_mode"], "crop"),
    }


def classifier_path(network: nn.Module) -> str | None:
    """Dotted name of the layer that gives the classes; None where there is not exactly one."""
    config: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    path = config.get("classifier")
    return path if isinstance(path, str) and path in dict(network.named_modules()) else None


def as_timm_reads(name: str, state: dict[str, torch.Tensor], size: int | None) -> dict[str, torch.Tensor]:
    """The weights under timm's names and for this size, by timm's own filter. Raises ConfigError where they do not fit."""
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": dict(state)}}
    return _create(name, overlay, size).state_dict()


def _create(name: str, options: dict[str, Any], size: int | None) -> nn.Module:
    timm = _timm()
    _known(name)
    own = timm.get_pretrained_cfg(name).input_size
    options = {"pretrained": False, **options}
    sized = {} if size is None or size == own[-1] else {"img_size": size}
    network: nn.Module
    try:
        try:
            network = timm.create_model(name, **options, **sized)
        except TypeError:
            if not sized:
                raise
            network = timm.create_model(name, **options)  # it takes any size
    except Exception as error:  # each family fails in its own way
        raise ConfigError(f"timm cannot make {name} ({shortened(str(error), 300)}).") from error
    return network


def _known(name: str) -> None:
    timm = _timm()
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        close = ", ".join(timm.list_models(f"*{name.split('_', maxsplit=1)[0]}*")[:5])
        raise ConfigError(f"timm has no model {name!r}; similar names: {close or 'none'}.")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        raise ConfigError(f"timm's {model} has no weights {tag!r}: use {', '.join(tags) or 'none'}.")


def _timm() -> Any:
    torchvision()  # timm imports it, too
    try:
        import timm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("timm encoders need the package timm: install the extra `timm`.") from error
    return timm

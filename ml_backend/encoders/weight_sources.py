"""Where the published weights of a network lie, as timm, open_clip and torchvision say it. Asks nobody but them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType

from ml_backend.encoders.vision import torchvision
from ml_backend.errors import ConfigError

HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""How torchvision's and torch.hub's files carry the beginning of their SHA-256 in their names."""


@dataclass(frozen=True)
class PlainFile:
    """A file at an address. sha256: its beginning, as the name says it; "" if it does not. licence: "" where unknown."""

    url: str
    sha256: str
    licence: str = ""


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the Hugging Face Hub. files: names it may have, the best first."""

    repository: str
    files: tuple[str, ...]
    licence: str = ""
    revision: str = "main"


Source = PlainFile | HubFile


def source_of(name: str, choice: str = "") -> Source:
    """Where the weights called `choice` of the network `name` lie; "" are the default ones.

    Raises ConfigError for a network that is not known, is not installed, or has no such weights.
    """
    kind, _, rest = name.partition("?")[0].partition(":")
    if kind == "timm":
        return _of_timm(rest, choice)
    if kind == "open_clip":
        return _of_open_clip(rest, choice)
    return _of_torchvision(name, choice)


def _of_torchvision(name: str, choice: str) -> Source:
    models = torchvision().models
    if name not in models.list_models(module=models):
        raise ConfigError(f"torchvision has no network {name!r}: see `ML_BACKEND_ENCODER` in docs/encoders.md.")
    available = models.get_model_weights(name)
    if choice and choice not in available.__members__:
        raise ConfigError(f"{name} has no weights {choice!r}: use {', '.join(available.__members__)} or none.")
    chosen = available[choice] if choice else available.DEFAULT
    return PlainFile(chosen.url, _stated_hash(chosen.url), chosen.meta.get("license", ""))


def _of_timm(name: str, choice: str) -> Source:
    timm = _extra("timm", "timm")
    tagged = f"{name}.{choice}" if choice else name
    try:
        config = timm.models.get_pretrained_cfg(tagged, allow_unregistered=False)
    except RuntimeError as error:
        raise ConfigError(f"timm has no weights {tagged!r} ({error}): use another tag, or @none.") from error
    licence = config.license or ""
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        files = _alternatives(config.hf_hub_filename or "pytorch_model.bin")
        return HubFile(repository, files, licence, revision or "main")
    if config.url:
        return PlainFile(config.url, _stated_hash(config.url), licence)
    raise ConfigError(f"timm has no pretrained weights for {tagged}: name other ones after a dot, or use @none.")


def _of_open_clip(name: str, choice: str) -> Source:
    open_clip = _extra("open_clip", "text")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise ConfigError(f"open_clip has no pretrained weights for {name!r}: choose another model, or use @none.")
    if choice and choice not in tags:
        raise ConfigError(f"{name} has no weights {choice!r}: use {', '.join(tags)} or none.")
    config = open_clip.get_pretrained_cfg(name, choice or tags[0])
    if hub := config.get("hf_hub"):
        repository, _, file = hub.rpartition("/")
        return HubFile(repository, _alternatives(file or "open_clip_pytorch_model.bin"))
    return PlainFile(config["url"], _stated_hash(config["url"]))


def _alternatives(file: str) -> tuple[str, ...]:
    """The same weights as safetensors, which timm and open_clip take first, and the file itself."""
    safe = {
        "pytorch_model.bin": "model.safetensors",
        "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    }.get(file, re.sub(r"\.bin$", ".safetensors", file))
    return tuple(dict.fromkeys((safe, file)))


def _stated_hash(url: str) -> str:
    found = HASH.search(url)
    return found[1] if found else ""


def _extra(module: str, extra: str) -> ModuleType:
    torchvision()  # both import it, too
    try:
        return __import__(module)
    except ImportError as error:
        raise ConfigError(f"{module} encoders need the package {module}: install the extra `{extra}`.") from error

"""Which encoder a project gets: what `auto` takes, where the weights come from, and why, in sentences for people."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ml_backend.encoders import checked_download, hub_files
from ml_backend.encoders.compute import chosen_device
from ml_backend.encoders.custom_encoders import SUFFIXES
from ml_backend.encoders.weight_files import (
    FIX,
    Fetching,
    WeightFile,
    downloads_from,
    is_cached,
    megabytes,
    published_weights,
)
from ml_backend.errors import ConfigError, NoWeightsError
from ml_backend.records import EncoderOrigin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """What `auto` may take. megabytes: of its weights; host: where they are. extra: which of ours it needs, "" for none."""

    name: str
    megabytes: int
    host: str
    extra: str = ""

    @property
    def installed(self) -> bool:
        return not self.extra or find_spec(self.extra) is not None


LIGHT = Candidate("resnet18", 45, "download.pytorch.org")
"""1.8 GFLOP a picture. Of what is as light, a plain ResNet's features serve a linear head best (docs/decisions/what-auto-takes.md)."""
DINO = Candidate("timm:vit_small_patch14_dinov2.lvd142m?size=224", 84, "huggingface.co", "timm")
"""5.5 GFLOP a picture, trained without labels for frozen use; Apache 2.0, which DINOv3 is not."""


@dataclass(frozen=True)
class Chosen:
    """What is to be built: `name` and `weights` as `build_encoder` takes them, and what there is to tell of it."""

    name: str
    weights: Path | None
    origin: EncoderOrigin


def choose(name: str, weights: Path | None, fetching: Fetching, *, gpu: bool | None = None) -> Chosen:
    """What ML_BACKEND_ENCODER and ML_BACKEND_ENCODER_WEIGHTS come to, with the published weights in the cache.

    `auto` takes the first that can be had: with a GPU a small DINOv2, then resnet18, from the cache or by download; else
    `patches`. gpu: whether there is one; None to look. Raises ConfigError where a network that was named cannot be had.
    """
    if name == "auto":
        return _of_auto(weights, fetching, _best_first(gpu))
    network, _, choice = name.partition("?")[0].partition("@")
    if not _is_published(name):
        return Chosen(name, weights, EncoderOrigin(name, f"{name}, as ML_BACKEND_ENCODER says"))
    if weights is not None:
        return _given(name, weights)
    if choice == "none":
        return Chosen(name, None, EncoderOrigin(name, f"{name}, with random weights"))
    return _published(name, published_weights(network, choice, fetching))


def foreseen(name: str, weights: Path | None, *, allowed: bool, gpu: bool | None = None) -> str:
    """What `choose` would come to, as far as that can be told without asking anybody. Raises ConfigError where it cannot."""
    if weights is not None or (name != "auto" and not _is_published(name)):
        return f"{LIGHT.name if name == 'auto' else name}, as ML_BACKEND_ENCODER says"
    names = [candidate.name for candidate in _best_first(gpu) if candidate.installed]
    for wanted in names if name == "auto" else [name]:
        network, _, choice = wanted.partition("?")[0].partition("@")
        if choice == "none" or is_cached(network, choice):
            return f"{wanted}, {'with random weights' if choice else 'from the cache'}"
        if allowed:
            host = downloads_from(network, choice)
            return f"{wanted}, to be downloaded from {host}"
    if name == "auto":
        return "patches, learned from the project's own images: no weights are in the cache, and downloads are off (ML_BACKEND_DOWNLOADS=no)"
    raise NoWeightsError(
        f"No weights of {name} are in the cache, and downloads are off (ML_BACKEND_DOWNLOADS=no). {FIX}"
    )


def has_gpu() -> bool:
    """Whether networks compute on one, as ML_BACKEND_DEVICE says."""
    return chosen_device().type != "cpu"


def _is_published(name: str) -> bool:
    """Whether it is a network of a library, whose weights are published."""
    if name == "patches" or name.endswith(SUFFIXES) or "local-dir:" in name:
        return False
    return ":" not in name or name.startswith(("timm:", "open_clip:"))


def _best_first(gpu: bool | None) -> list[Candidate]:
    return [DINO, LIGHT] if (has_gpu() if gpu is None else gpu) else [LIGHT]


def _of_auto(weights: Path | None, fetching: Fetching, best_first: list[Candidate]) -> Chosen:
    if weights is not None:
        return _given(LIGHT.name, weights)
    missed: list[Candidate] = []
    reasons: list[str] = []
    for candidate in best_first:
        try:
            if not candidate.installed:
                raise NoWeightsError(f"the extra `{candidate.extra}` is not installed")
            network, _, choice = candidate.name.partition("?")[0].partition("@")
            chosen = _published(candidate.name, published_weights(network, choice, fetching))
        except ConfigError as error:
            missed.append(candidate)
            reasons.append(error.reason if isinstance(error, NoWeightsError) else str(error))
        else:
            return _told(chosen, missed, reasons)
    origin = EncoderOrigin("patches", "patches, learned from the project's own images")
    return _told(Chosen("patches", None, origin), missed, reasons)


def _told(chosen: Chosen, missed: list[Candidate], reasons: list[str]) -> Chosen:
    """With why it is not what would have been taken before it."""
    if not missed:
        log.info("encoder auto: %s", chosen.origin.why)
        return chosen
    better = (
        f"{missed[0].name} is usually better{' by far, for photographs' if chosen.name == 'patches' else ''}: {missed[0].megabytes} MB from "
        f"{_host(missed[0])}, or by hand (docs/encoders.md). Once they can be had, set ML_BACKEND_ENCODER={missed[0].name}."
    )
    origin = chosen.origin.with_words(f"{chosen.origin.why}: {reasons[0]}", better)
    log.warning("encoder auto: %s. %s", origin.why, better)
    return Chosen(chosen.name, chosen.weights, origin)


def _host(candidate: Candidate) -> str:
    return checked_download.host_of(hub_files.endpoint()) if candidate.extra else candidate.host


def _published(name: str, found: WeightFile) -> Chosen:
    host = checked_download.host_of(found.source)
    where = f"downloaded from {host} ({megabytes(found.size)} MB)" if found.downloaded else "from the cache"
    origin = EncoderOrigin(name, f"{name}, {where}", found.source, found.sha256, found.licence)
    return Chosen(name, found.path, origin)


def _given(name: str, weights: Path) -> Chosen:
    digest = checked_download.sha256_of(weights) if weights.is_file() else ""
    origin = EncoderOrigin(name, f"{name}, with the weights of ML_BACKEND_ENCODER_WEIGHTS", str(weights), digest)
    return Chosen(name, weights, origin)

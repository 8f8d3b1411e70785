"""The files of published weights: in the caches of torch and of the Hugging Face Hub, or downloaded into them, and checked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ml_backend.encoders import checked_download, hub_files
from ml_backend.encoders.weight_sources import HubFile, PlainFile, Source, source_of
from ml_backend.errors import NoWeightsError

log = logging.getLogger(__name__)

MB = 2**20
"""As torchvision and the browsers count."""
FIX = (
    "Provide them as a file (ML_BACKEND_ENCODER_WEIGHTS), or place them in the cache (docs/encoders.md), or use the encoder "
    "`patches`, which needs none."
)


@dataclass(frozen=True)
class Fetching:
    """Whether weights may be downloaded, and who is told how far that is; what `tell` raises ends it, and the part is kept."""

    allowed: bool = True
    tell: Callable[[str], None] = lambda _doing: None


@dataclass(frozen=True)
class WeightFile:
    """Published weights, checked. source: their address; size: in bytes; licence: "" where nobody states one."""

    path: Path
    source: str
    sha256: str
    licence: str
    size: int
    downloaded: bool


def weights_file(name: str, choice: str = "") -> Path:
    """The file with the published weights of `name`, head included: from the cache, or downloaded into it.

    name: as in ML_BACKEND_ENCODER without what follows "@", such as "resnet18", "timm:vit_small_patch14_dinov2.lvd142m" or
    "open_clip:ViT-B-32"; choice: what follows "@", "" for the default ones.
    Raises ConfigError where there are no such weights, or they are not in the cache and cannot be downloaded.
    """
    return published_weights(name, choice, Fetching()).path


def published_weights(name: str, choice: str, fetching: Fetching) -> WeightFile:
    """The same, with all that is to be told of it. Raises NoWeightsError with what to do, where it cannot be had."""
    source = source_of(name, choice)
    called = f"{name}@{choice}" if choice else name
    lacking = f"no weights of {called} are in the cache"
    try:
        if path := _place(source):
            if not (fault := _fault(path, source)):
                return _described(path, source, source.licence, downloaded=False)
            lacking = f"the weights of {called} in the cache are broken ({fault})"
            _set_aside(path, lacking)
        return _downloaded(called, source, fetching)
    except NoWeightsError as error:
        reason = f"{lacking}, and {error}"
        raise NoWeightsError(f"{reason[0].upper()}{reason[1:]}. {FIX}", reason) from error


def is_cached(name: str, choice: str = "") -> bool:
    """Whether a file of that name is in the cache; it is not looked into."""
    return _place(source_of(name, choice)) is not None


def downloads_from(name: str, choice: str = "") -> str:
    """The host that is asked."""
    return checked_download.host_of(_address(source_of(name, choice)))


def _address(source: Source) -> str:
    return f"{hub_files.endpoint()}/{source.repository}" if isinstance(source, HubFile) else source.url


def _place(source: Source) -> Path | None:
    if isinstance(source, HubFile):
        return hub_files.cached(source)
    path = plain_path(source)
    return path if path.is_file() else None


def _fault(path: Path, source: Source) -> str | None:
    """Why a file of the cache is not the one that was published; None where it is, for all that is known."""
    if isinstance(source, HubFile):
        return hub_files.expected_of(path).fault(path)
    return checked_download.Expected(sha256=source.sha256).fault(path)


def _set_aside(path: Path, lacking: str) -> None:
    """Take a broken file out of the cache; it stays beside, for whoever put it there."""
    blob = path.resolve()
    if blob.parent.name != "blobs":  # in the hub's cache the name is a link
        blob = path
    log.warning("%s: %s is renamed to end in .broken.", lacking, blob)
    try:
        blob.replace(blob.with_name(blob.name + ".broken"))
        path.unlink(missing_ok=True)
    except OSError as error:
        raise NoWeightsError(f"{blob} cannot be renamed ({error.strerror}): delete it") from error


def plain_path(source: PlainFile) -> Path:
    """Where torch keeps it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / source.url.rpartition("/")[2]


def _downloaded(name: str, source: Source, fetching: Fetching) -> WeightFile:
    """Bring it into the cache. Raises NoWeightsError with the reason alone."""
    if not fetching.allowed:
        raise NoWeightsError("downloads are off (ML_BACKEND_DOWNLOADS=no)")
    if isinstance(source, HubFile) and hub_files.offline():
        raise NoWeightsError("the hub is not to be asked (HF_HUB_OFFLINE)")
    began = time.monotonic()

    def tick() -> None:
        fetching.tell(f"asking for the weights of {name}")

    def announce(url: str, size: int | None) -> checked_download.Tell:
        log.info("downloading the weights of %s from %s%s", name, url, f" ({megabytes(size)} MB)" if size else "")
        return lambda done, total: fetching.tell(progress(name, done, total))

    tick()
    if isinstance(source, HubFile):
        path = hub_files.fetch(source, tick, announce)
        licence = source.licence or hub_files.licence(source.repository, tick)
    else:
        path, licence = plain_path(source), source.licence
        expected = checked_download.Expected(sha256=source.sha256)
        checked_download.download(source.url, path, expected, announce(source.url, None))
    found = _described(path, source, licence, downloaded=True)
    log.info(
        "downloaded the weights of %s in %.0f s: %d MB, SHA-256 %s, licence: %s", name, time.monotonic() - began,
        megabytes(found.size), found.sha256, licence or "not stated",
    )  # fmt: skip
    return found


def progress(name: str, done: int, total: int | None) -> str:
    of = f" of {megabytes(total)}" if total else ""
    return f"downloading {name}, {round(done / MB)}{of} MB"


def megabytes(size: int) -> int:
    return max(1, round(size / MB))


def _described(path: Path, source: Source, licence: str, *, downloaded: bool) -> WeightFile:
    return WeightFile(
        path, _address(source), checked_download.sha256_of(path), licence, path.stat().st_size, downloaded
    )

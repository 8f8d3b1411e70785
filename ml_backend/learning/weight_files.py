"""The files of published weights: in the caches of torch and of the Hugging Face Hub, or downloaded into them."""

from __future__ import annotations

from pathlib import Path

import torch

from ml_backend.errors import ConfigError
from ml_backend.learning.weight_sources import HubFile, PlainFile, source_of


def weights_file(name: str, choice: str = "") -> Path:
    """The file with the published weights of `name`, head included: from the cache, or downloaded into it.

    name: as in ML_BACKEND_ENCODER without what follows "@", such as "resnet18", "timm:vit_small_patch14_dinov2.lvd142m" or
    "open_clip:ViT-B-32"; choice: what follows "@", "" for the default ones.
    Raises ConfigError where there are no such weights, or they are not in the cache and cannot be downloaded.
    """
    source = source_of(name, choice)
    try:
        if isinstance(source, PlainFile):
            path = plain_path(source)
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(source.url, str(path), source.sha256, progress=False)
            return path
        return _from_hub(source)
    except (OSError, RuntimeError) as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise ConfigError(
            f"The pretrained weights of {name} are not in the cache and cannot be downloaded ({error}): provide "
            "them as a file (ML_BACKEND_ENCODER_WEIGHTS), or use the encoder `patches`, which needs none."
        ) from error


def cached_weights(name: str, choice: str = "") -> Path | None:
    """The file with the published weights of `name`, if it is in the cache. Raises ConfigError where there are none at all."""
    source = source_of(name, choice)
    if isinstance(source, PlainFile):
        path = plain_path(source)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - comes with the extras timm and text

    for file in source.files:
        found = try_to_load_from_cache(source.repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def plain_path(source: PlainFile) -> Path:
    """Where torch keeps it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / source.url.rpartition("/")[2]


def _from_hub(source: HubFile) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    missing: Exception = FileNotFoundError(f"{source.repository} has none of {', '.join(source.files)}")
    for file in source.files:
        try:
            return Path(hf_hub_download(source.repository, file))
        except EntryNotFoundError as error:
            missing = error
    raise missing

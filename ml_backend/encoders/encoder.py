"""Encoders: a picture in, a unit vector out. Built once for a project, saved with every model version."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from ml_backend.encoders.custom_encoders import SUFFIXES, FileEncoder, PythonEncoder, open_file_encoder
from ml_backend.encoders.encoder_choice import choose
from ml_backend.encoders.networks import NetworkEncoder, build_network
from ml_backend.encoders.patches import FIT_IMAGES, PatchEncoder, fit_patches
from ml_backend.encoders.two_sided import PREFIX, TwoSidedEncoder, build_two_sided
from ml_backend.encoders.weight_files import Fetching
from ml_backend.errors import ConfigError, DamagedError, InvalidInputError
from ml_backend.images.recipe import Fit

Sample = Callable[[int], Sequence[Image.Image]]
"""`sample(k)` gives up to k images of the project."""


class Encoder(Protocol):
    """A frozen map from pictures to unit vectors.

    id: the same weights and preprocessing give the same id, anything else another one; it keys the feature store.
    input_size: pixels that the shorter side of a picture needs (see `images.decode`).
    `encode` is `forward` of the stacked `prepare`d pictures; the pipeline runs the two apart, in different threads.
    """

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def input_size(self) -> int: ...

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """One picture -> the (height, width, channels) array that `forward` takes; same shape for every picture."""
        ...

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepared pictures (n, height, width, channels) -> unit rows (n, dim)."""
        ...

    def module(self) -> nn.Module | None:
        """`forward` as a network, for exports; None where the encoder is no network that can be taken along."""
        ...

    def describe(self) -> dict[str, Any]:
        """What `prepare` does, for whoever runs an exported model."""
        ...

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Pictures of any size and mode -> unit rows (n, dim)."""
        ...

    def save(self, folder: Path) -> None:
        """Write `encoder.json` and the weights beside it as safetensors."""
        ...


def build_encoder(
    name: str, *, weights: Path | None = None, sample: Sample, seed: int = 0, fit: Fit | None = None
) -> Encoder:
    """Make the encoder called `name`.

    name: "auto"; "patches" (fitted on `sample`); a torchvision classification model, its weights by name after "@"
    ("resnet50@IMAGENET1K_V1", "resnet18@none"); "timm:<name>"; "open_clip:<name>"; a .pt2, .onnx or .torchscript file; "module:Class".
    weights: a state dict, safetensors or a torch file without code; without one, pretrained weights are used.
    "auto" is what `choose` takes of what was given or downloaded before; nothing is downloaded for it here. Raises ConfigError for a name or a file that cannot be used.
    fit: what of a picture is seen; None is what the network's authors say, and for `patches` all of it, out of shape.
    """
    if name == "auto":
        chosen = choose(name, weights, Fetching(allowed=False))
        name, weights = chosen.name, chosen.weights
    if name == "patches":
        images = sample(FIT_IMAGES)
        if not images:
            raise ConfigError(
                "The encoder `patches` learns from the project's images, and there are none yet: import some."
            )
        return fit_patches(images, seed=seed, fit=fit)
    if name.endswith(SUFFIXES):
        return open_file_encoder(Path(name), fit)
    if ":" in name and not name.startswith(("timm:", PREFIX)):
        return PythonEncoder(name, fit or "crop")
    build = build_two_sided if name.startswith(PREFIX) else build_network
    built = build(name, weights=weights, seed=seed)
    return built if fit is None else built.seen_as(fit)


LOADERS: dict[str, Callable[[Path, dict[str, Any]], Encoder]] = {
    "patches": PatchEncoder.load,
    "network": NetworkEncoder.load,
    "two-sided": TwoSidedEncoder.load,
    "file": FileEncoder.load,
    "python": PythonEncoder.load,
}


def load_encoder(folder: Path, trusted: Collection[str] = ()) -> Encoder:
    """Load what `Encoder.save` wrote. trusted: the classes (`module:Class`) that may be imported.

    Raises DamagedError where it is not whole or of an unknown kind, InvalidInputError for a class that is not trusted: a
    name in a file must not decide which code runs.
    """
    path = folder / "encoder.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["kind"] == "python" and meta["path"] not in trusted:
            raise InvalidInputError(
                f"The encoder of {folder.name} is the Python class {meta['path']}, which would be run: if you trust it, "
                "add it to ML_BACKEND_ALLOWED_ENCODERS."
            )
        encoder = LOADERS[meta["kind"]](folder, meta)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise DamagedError(
            f"{path} is not a saved encoder ({error!r}): choose another version, or train a new one."
        ) from error
    if encoder.id != meta["id"]:
        raise DamagedError(
            f"The weights in {folder} are not those of {meta['id']}: choose another version, or train a new one."
        )
    return encoder

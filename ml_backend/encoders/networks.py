"""Encoders that are the body of a torchvision or timm classification network, with that network's own preprocessing."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from ml_backend.encoders import timm_networks, torchvision_networks
from ml_backend.encoders.compute import chosen_device
from ml_backend.encoders.weight_files import weights_file
from ml_backend.encoders.weights import digest, read_state_dict
from ml_backend.errors import ConfigError
from ml_backend.images import recipe
from ml_backend.images.recipe import Fit
from ml_backend.wording import shortened

LAYOUT = 2
Precision = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 where the processor multiplies it in hardware; the vectors keep a cosine of 0.999 and more."""


@dataclass(frozen=True)
class Preprocessing:
    """Make a picture `crop` x `crop` pixels as `fit` says (see `recipe.fitted`), then (x - mean) / std per channel."""

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: int = int(Image.Resampling.BILINEAR)
    fit: Fit = "crop"
    rounded: bool = False

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise ConfigError(f"There is no fit {self.fit!r}: use {', '.join(get_args(Fit))}.")

    def stated(self) -> dict[str, Any]:
        """As JSON keeps it, and what ids are made of: `fit` and `rounded` are in it only where they are not what they always were."""
        always = {"fit": "crop", "rounded": False}
        return {name: value for name, value in asdict(self).items() if always.get(name) != value}

    @classmethod
    def of(cls, options: dict[str, Any]) -> Preprocessing:
        """From what JSON made of it."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return cls(**values)

    def seen_as(self, fit: Fit) -> Preprocessing:
        """The same with another fit; where that is to show all of a picture, nothing is cut off it."""
        return replace(self, fit=fit) if fit == "crop" else replace(self, fit=fit, resize=self.crop)

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """(crop, crop, 3) uint8, as `recipe.fitted` says: it goes with exported models."""
        return recipe.fitted(image, vars(self))


class UnitFeatures(nn.Module):
    """Prepared pictures (n, h, w, 3) uint8 -> features of `body`, in unit rows (n, dim)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, body: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", 255.0 * torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(preprocessing.std).view(1, -1, 1, 1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.raw(batch).float())

    def raw(self, batch: torch.Tensor) -> torch.Tensor:
        """The features as the classifier that was taken off saw them."""
        pixels = (batch.permute(0, 3, 1, 2).float() - self.mean) / self.std
        features: torch.Tensor = self.body(pixels)
        return features.flatten(1)


class NetworkEncoder:
    """The penultimate features of `body`, a classifier whose last linear layer was taken off.

    layout: how the body is made again from the name; 1 is what releases up to 0.2 did (see `_body_of_before`).
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        dim: int,
        preprocessing: Preprocessing,
        *,
        precision: Precision = "auto",
        layout: int = LAYOUT,
    ) -> None:
        self.name = name
        self.layout = layout
        self.dim = dim
        self.preprocessing = preprocessing
        self.precision: Precision = precision
        self.input_size = preprocessing.resize
        self.id = self._known_as(preprocessing, body)
        self.device = chosen_device()
        self._bf16 = bf16_pays(self.device) if precision == "auto" else precision == "bfloat16"
        body = body.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module = UnitFeatures(body, preprocessing).to(self.device)

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return self.preprocessing.prepare(image)

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(batch) == 0:
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            vectors: NDArray[np.float32] = self._module(torch.from_numpy(batch).to(self.device)).cpu().numpy()
        return vectors

    def module(self) -> nn.Module:
        """`forward` as a network: prepared pictures (n, crop, crop, 3) uint8 -> unit rows."""
        return self._module

    def describe(self) -> dict[str, Any]:
        """For `recipe.prepare`; mean and standard deviation are in the network, too."""
        return {"mode": "RGB", **asdict(self.preprocessing)}

    def raw_norm(self, images: Sequence[Image.Image]) -> float:
        """Mean length of the features before they are made unit rows."""
        batch = torch.from_numpy(np.stack([self.prepare(image) for image in images])).to(self.device)
        with torch.inference_mode():
            return float(self._module.raw(batch).float().norm(dim=1).mean())

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        if not images:
            return np.zeros((0, self.dim), np.float32)
        return self.forward(np.stack([self.prepare(image) for image in images]))

    def seen_as(self, fit: Fit) -> Self:
        """The same network, shown pictures in another way, and so with another id."""
        other = copy.copy(self)
        other.preprocessing = self.preprocessing.seen_as(fit)
        other.input_size = other.preprocessing.resize
        other.id = self._known_as(other.preprocessing, self._module.body)
        return other

    def _known_as(self, preprocessing: Preprocessing, body: nn.Module) -> str:
        slug = self.name if self.layout == 1 else re.sub(r"[^A-Za-z0-9._-]", "-", self.name)
        return f"{slug}-{digest(preprocessing.stated(), body.state_dict())}"

    def with_body(self, body: nn.Module) -> NetworkEncoder:
        """The same kind of encoder with other weights, and so with another id."""
        return NetworkEncoder(
            self.name, body, self.dim, self.preprocessing, precision=self.precision, layout=self.layout
        )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.cpu().contiguous() for name, tensor in self._module.body.state_dict().items()}
        save_file(state, folder / "encoder.safetensors")
        meta = {
            "kind": "network",
            "layout": self.layout,
            "name": self.name,
            "id": self.id,
            "dim": self.dim,
            "preprocessing": self.preprocessing.stated(),
        }
        (folder / "encoder.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any]) -> NetworkEncoder:
        name, layout, preprocessing = meta["name"], meta.get("layout", 1), Preprocessing.of(meta["preprocessing"])
        body = _body_of_before(name) if layout == 1 else new_body(name, preprocessing.crop)
        body.load_state_dict(load_file(folder / "encoder.safetensors"))
        return cls(name, body, meta["dim"], preprocessing, layout=layout)


@dataclass(frozen=True)
class Asked:
    """What a name asks for, such as "resnet50@IMAGENET1K_V1" or "timm:vit_small_patch14_dinov2.lvd142m@none?size=224".

    network: timm's prefix and tag included. weights: "" for the default ones, "none", or a name. size: of the pictures, in
    pixels a side; None for what the weights were trained to see.
    """

    network: str
    weights: str = ""
    size: int | None = None

    @classmethod
    def of(cls, name: str) -> Asked:
        whole, _, options = name.partition("?")
        network, _, weights = whole.partition("@")
        if options and not re.fullmatch(r"size=[1-9][0-9]{0,3}", options):
            raise ConfigError(f"{name}: after the question mark only size=<pixels> is understood, such as ?size=224.")
        if weights not in ("", "none") and network.startswith("timm:"):
            network, weights = f"{network}.{weights}", ""  # a tag is written either way
        return cls(network, weights, int(options.removeprefix("size=")) if options else None)


def new_network(name: str, classes: int | None = None, size: int | None = None) -> nn.Module:
    """An untrained classification network: one of torchvision's, or `timm:<name>`. ConfigError for an unknown name."""
    if name.startswith("timm:"):
        return timm_networks.new_network(name.removeprefix("timm:"), classes=classes, size=size)
    return torchvision_networks.new_classifier(name, classes=classes, size=size)


def new_body(name: str, size: int) -> nn.Module:
    """The same without its classifier, for pictures of `size` pixels a side: features come out."""
    if name.startswith("timm:"):
        return timm_networks.new_network(name.removeprefix("timm:"), classes=0, size=size)
    return headless(new_network(name, size=size))[0]


def headless(network: nn.Module) -> tuple[nn.Module, int]:
    """Take the classifier off a network of torchvision: (the same network, giving features, and their dimension)."""
    return network, torchvision_networks.take_classifier_off(network)


def classifier_path(name: str, network: nn.Module) -> str | None:
    """Dotted name of the layer that gives the classes; None where there is not exactly one."""
    if name.startswith("timm:"):
        return timm_networks.classifier_path(network)
    return torchvision_networks.classifier_path(network)


def _body_of_before(name: str) -> nn.Module:
    """As releases up to 0.2 made it: the last linear layer (squeezenet: convolution), whichever it is, is taken off."""
    network = new_network(name)
    path = [path for path, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    parent, _, own = path.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Identity())
    return network


def build_network(name: str, *, weights: Path | None = None, seed: int = 0) -> NetworkEncoder:
    """Make an encoder of `name` (see Asked).

    weights: a state dict of that network, head included or not. Without: the pretrained weights named after "@", or
    the default ones, from the download cache or the network; after "@none" random ones, drawn from `seed`.
    Raises ConfigError if there are none to be had or they belong to another network.
    """
    asked = Asked.of(name)
    preprocessing = preprocessing_of(asked)
    with torch.random.fork_rng(devices=[]):  # torch's initialisers know no generator but the global one
        torch.manual_seed(seed)
        body = new_body(asked.network, preprocessing.crop)
    dim = feature_count(body, asked.network, preprocessing.crop)
    if weights is not None:
        load_body(body, read_state_dict(weights), asked.network, size=preprocessing.crop)
    elif asked.weights != "none":
        path = weights_file(asked.network, asked.weights)
        load_body(body, read_state_dict(path), asked.network, size=preprocessing.crop)
    return NetworkEncoder(asked.network, body, dim, preprocessing)


def feature_count(body: nn.Module, name: str, size: int) -> int:
    """How many features `body` gives for a picture. Raises ConfigError unless it is one row of them, for this size."""
    try:
        with torch.inference_mode():
            features = body.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # each network refuses a size in its own way
        raise ConfigError(
            f"{name} takes no pictures of {size} x {size} pixels ({shortened(str(error), 200)}): leave `?size=` away, or "
            "name a size that it takes, often a multiple of 14, 16 or 32."
        ) from error
    if not isinstance(features, torch.Tensor):
        raise ConfigError(
            f"{name} has several outputs, and an encoder gives one row of features: choose another network."
        )
    if features.ndim != 2 and features.shape[2:] != (1, 1):
        raise ConfigError(
            f"{name} gives features of shape {tuple(features.shape[1:])} for a picture, not one row of them, as it pools "
            "nothing: choose another network."
        )
    return int(features.shape[1])


def load_body(body: nn.Module, state: dict[str, torch.Tensor], name: str, *, size: int | None = None) -> None:
    """Load a state dict that may hold a head, too, in any form its library reads. Raises ConfigError where it does not fit.

    size: of the pictures that `body` takes, where positions may have to be resized.
    """
    own = body.state_dict()
    counters = {key: zero for key, zero in own.items() if key.endswith("num_batches_tracked")}
    state = {**counters, **state}  # which files before PyTorch 0.4.1 lack, and only training looks at
    if not name.startswith("timm:"):
        state = torchvision_networks.as_it_is_now(state, body)
    elif _misfits(own, state):
        try:
            state = timm_networks.as_timm_reads(name.removeprefix("timm:"), state, size)
        except ConfigError as error:
            raise ConfigError(f"{_misfit_told(own, state, name)} {error}") from error
    if _misfits(own, state):
        raise ConfigError(_misfit_told(own, state, name))
    body.load_state_dict({key: state[key] for key in own})


def _misfits(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> list[str]:
    return [key for key in own if key not in state or state[key].shape != own[key].shape]


def _misfit_told(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], name: str) -> str:
    wrong = _misfits(own, state)
    return (
        f"The weights do not fit a {name}: {len(wrong)} of its {len(own)} tensors are missing or have another "
        f"shape, such as {wrong[0]}. Choose the model type they were saved from."
    )


def preprocessing_of(asked: Asked) -> Preprocessing:
    """What these weights of the network were trained to see."""
    if asked.network.startswith("timm:"):
        fields = timm_networks.preprocessing(asked.network.removeprefix("timm:"), asked.size)
    else:
        fields = torchvision_networks.preprocessing(asked.network, asked.weights, asked.size)
    return Preprocessing.of({**fields, "interpolation": interpolation(fields["interpolation"]), "rounded": True})


def interpolation(name: str) -> int:
    """Pillow's number of it."""
    return int(getattr(Image.Resampling, name.upper(), Image.Resampling.BILINEAR))


def bf16_pays(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware; where it does not, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001

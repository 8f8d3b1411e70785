"""Encoders that are the body of a torchvision classification network, with that network's own preprocessing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from ml_backend.errors import ConfigError
from ml_backend.learning import recipe
from ml_backend.learning.vision import torchvision
from ml_backend.learning.weight_files import weights_file
from ml_backend.learning.weights import digest, read_state_dict

Fit = Literal["crop", "letterbox", "squash"]
"""What of a picture a network sees: the middle, the whole with a border, or the whole out of shape."""
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

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise ConfigError(f"There is no fit {self.fit!r}: use {', '.join(get_args(Fit))}.")

    def stated(self) -> dict[str, Any]:
        """As JSON keeps it, and what ids are made of: `fit` is in it only where it is not what it always was."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("fit", "crop")}

    @classmethod
    def of(cls, options: dict[str, Any]) -> Preprocessing:
        """From what JSON made of it."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return cls(**values)

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
    """The penultimate features of `body`, a classifier whose last linear layer was taken off."""

    def __init__(
        self, name: str, body: nn.Module, dim: int, preprocessing: Preprocessing, *, precision: Precision = "auto"
    ) -> None:
        self.name = name
        self.dim = dim
        self.preprocessing = preprocessing
        self.precision: Precision = precision
        self.input_size = preprocessing.resize
        self.id = f"{name}-{digest(preprocessing.stated(), body.state_dict())}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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

    def with_body(self, body: nn.Module) -> NetworkEncoder:
        """The same kind of encoder with other weights, and so with another id."""
        return NetworkEncoder(self.name, body, self.dim, self.preprocessing, precision=self.precision)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.cpu().contiguous() for name, tensor in self._module.body.state_dict().items()}
        save_file(state, folder / "encoder.safetensors")
        meta = {
            "kind": "network",
            "name": self.name,
            "id": self.id,
            "dim": self.dim,
            "preprocessing": self.preprocessing.stated(),
        }
        (folder / "encoder.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any]) -> NetworkEncoder:
        body, dim = headless(new_network(meta["name"]))
        body.load_state_dict(load_file(folder / "encoder.safetensors"))
        return cls(meta["name"], body, dim, Preprocessing.of(meta["preprocessing"]))


def new_network(name: str, classes: int | None = None) -> nn.Module:
    """An untrained classification network: one of torchvision's, or `timm:<name>`. ConfigError for an unknown name."""
    options = {} if classes is None else {"num_classes": classes}
    network: nn.Module
    if name.startswith("timm:"):
        return _timm_network(name.removeprefix("timm:"), options)
    models = torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"There is no encoder {name!r}: use auto, patches, timm:<name> or one of {', '.join(known)}.")
    network = models.get_model(name, weights=None, **options)
    return network


def headless(network: nn.Module) -> tuple[nn.Module, int]:
    """Take the last linear layer off a classifier: (the same network, giving features, and their dimension)."""
    path, layer = final_layer(network)
    parent = network.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], nn.Identity())
    return network, int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def final_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Dotted name and layer that gives the classes: the last linear (squeezenet: convolution) layer."""
    heads = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return heads[-1]


def build_network(name: str, *, weights: Path | None = None, seed: int = 0) -> NetworkEncoder:
    """Make an encoder of `name`: "resnet18", "resnet18@IMAGENET1K_V1", "resnet18@none", "timm:vit_tiny_patch16_224".

    weights: a state dict of that network, head included or not. Without: the pretrained weights named after "@", or
    the default ones, from the download cache or the network; after "@none" random ones, drawn from `seed`.
    Raises ConfigError if there are none to be had or they belong to another network.
    """
    name, _, choice = name.partition("@")
    with torch.random.fork_rng(devices=[]):  # torch's initialisers know no generator but the global one
        torch.manual_seed(seed)
        network = new_network(name)
    preprocessing = preprocessing_of(name, network)
    body, dim = headless(network)
    if weights is not None:
        load_body(body, read_state_dict(weights), name)
    elif choice != "none":
        load_body(body, read_state_dict(weights_file(name, choice)), name)
    return NetworkEncoder(name, body, dim, preprocessing)


def load_body(body: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state dict that may hold a head, too. Raises ConfigError where it is of another network."""
    own = body.state_dict()
    wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
    if wrong:
        raise ConfigError(
            f"The weights do not fit a {name}: {len(wrong)} of its {len(own)} tensors are missing or have another "
            f"shape, such as {wrong[0]}. Choose the model type they were saved from."
        )
    body.load_state_dict({key: state[key] for key in own})


def preprocessing_of(name: str, network: nn.Module) -> Preprocessing:
    """What the network's pretrained weights were trained to see."""
    if name.startswith("timm:"):
        config: dict[str, Any] = getattr(network, "pretrained_cfg", {})
        crop = int(config.get("input_size", (3, 224, 224))[-1])
        return Preprocessing(
            resize=round(crop / float(config.get("crop_pct", 0.875))),
            crop=crop,
            mean=tuple(config.get("mean", Preprocessing.mean)),
            std=tuple(config.get("std", Preprocessing.std)),
            interpolation=_interpolation(str(config.get("interpolation", "bilinear"))),
        )
    transform = torchvision().models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        resize=int(transform.resize_size[0]),
        crop=int(transform.crop_size[0]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=_interpolation(transform.interpolation.value),
    )


def _interpolation(name: str) -> int:
    return int(Image.Resampling.BICUBIC if name == "bicubic" else Image.Resampling.BILINEAR)


def _timm_network(name: str, options: dict[str, int]) -> nn.Module:
    torchvision()  # timm imports it, too
    try:
        import timm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("timm encoders need the package timm: install the extra `timm`.") from error
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_', maxsplit=1)[0]}*")[:5])
        raise ConfigError(f"timm has no model {name!r}; similar names: {close or 'none'}.")
    network: nn.Module = timm.create_model(name, pretrained=False, **options)
    return network


def bf16_pays(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware; where it does not, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001

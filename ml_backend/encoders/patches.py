"""`patches`: an encoder learned from the project's own images, without labels and without a download.

Whitened patch filters found by spherical k-means, split soft-threshold responses pooled over a grid, then PCA:
A. Coates and A. Ng, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization", ICML 2011.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from torch import nn

from ml_backend.encoders.weights import digest
from ml_backend.images import recipe
from ml_backend.images.recipe import Fit

CHUNK = 16  # pictures convolved at a time: their responses then stay in the processor's cache
FIT_IMAGES = 2000
"""Images that `fit_patches` can make use of; more add little."""


@dataclass(frozen=True)
class PatchConfig:
    """What is not learned. Lengths in pixels of the working size; levels are in 0..1."""

    size: int = 32
    channels: int = 3
    patch: int = 7
    filters: int = 128
    grid: int = 3
    threshold: float = 0.5
    contrast: float = 0.01  # added to a patch's variance, so that flat patches are not amplified into noise
    whitening: float = 1.0  # added to the eigenvalues of the patch covariance
    decay: float = 0.25  # PCA components are divided by their standard deviation to this power (0 none, 1 whitened)
    fit: Fit = "squash"  # what is seen of a picture; see recipe.fitted

    def stated(self) -> dict[str, Any]:
        """What ids are made of: `fit` is in it only where it is not what it always was."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("fit", "squash")}


class PatchEncoder:
    """See the module; made by `fit_patches`."""

    name = "patches"

    def __init__(self, config: PatchConfig, tensors: dict[str, torch.Tensor]) -> None:
        self.config = config
        self._tensors = tensors
        self._module = PatchModule(config, tensors).eval()
        self.device = torch.device("cpu")
        self.dim = int(tensors["components"].shape[1])
        self.input_size = config.size
        self.id = f"{self.name}-{digest(config.stated(), tensors)}"

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Scale one image to the working size: (size, size, channels) uint8. The whole picture is kept, unless `fit` is "crop"."""
        return _prepared(image, self.config)

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode prepared images (n, size, size, channels) into unit rows (n, dim)."""
        result = np.empty((len(batch), self.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(batch), CHUNK):
                result[start : start + CHUNK] = self._module(torch.from_numpy(batch[start : start + CHUNK])).numpy()
        return result

    def module(self) -> nn.Module:
        """`forward` as a network: prepared pictures (n, size, size, channels) uint8 -> unit rows."""
        return self._module

    def describe(self) -> dict[str, Any]:
        """For `recipe.prepare`; the rest is in the network."""
        return _how(self.config)

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Encode images of any size and mode into unit rows (n, dim)."""
        if not images:
            return np.zeros((0, self.dim), np.float32)
        return self.forward(np.stack([_prepared(image, self.config) for image in images]))

    def save(self, folder: Path) -> None:
        """Write the fitted filters (`encoder.safetensors`) and the configuration (`encoder.json`)."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors, folder / "encoder.safetensors")
        meta = {"kind": "patches", "name": self.name, "id": self.id, "dim": self.dim, "config": self.config.stated()}
        (folder / "encoder.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any]) -> PatchEncoder:
        return cls(PatchConfig(**meta["config"]), load_file(folder / "encoder.safetensors"))


class PatchModule(nn.Module):
    """`kernels` (K, C, k, k), `bias` (K,), and, once fitted, `mean` (D,), `components` (D, dim); D = 2 * K * grid^2."""

    kernels: torch.Tensor
    bias: torch.Tensor
    average: torch.Tensor

    def __init__(self, config: PatchConfig, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = config
        for name, tensor in tensors.items():
            # A convolution of channels-last pixels with channels-last filters gives (places, filters) as they lie.
            layout = torch.channels_last if name == "kernels" else torch.contiguous_format
            self.register_buffer(name, tensor.contiguous(memory_format=layout))
        self.register_buffer("average", _averaging(config.size - config.patch + 1, config.grid))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Prepared pictures (n, size, size, channels) uint8 -> unit rows (n, dim)."""
        rows = (self.pool(batch) - self.get_buffer("mean")) @ self.get_buffer("components")
        return F.normalize(rows + 1e-6)  # a picture that is exactly the mean one has a direction, too

    def pool(self, batch: torch.Tensor) -> torch.Tensor:
        """The filters' responses, pooled and square-rooted: (n, 2 * K * grid^2).

        A filter sees (patch - mean) / sqrt(variance + contrast). Kernels sum to zero, so the mean needs no
        subtracting, and the division can follow the convolution.
        """
        k = self.config.patch
        pixels = batch.permute(0, 3, 1, 2).float() / 255.0
        mean = F.avg_pool2d(pixels.mean(1, keepdim=True), k, 1)
        variance = (F.avg_pool2d(pixels.pow(2).mean(1, keepdim=True), k, 1) - mean * mean).clamp_min(0.0)
        contrast = (variance + self.config.contrast).rsqrt().flatten(1)[:, :, None]
        response = self._convolve(pixels) * contrast + self.bias  # (n, places, K)
        on = self.average @ (response - self.config.threshold).clamp_min_(0.0)
        off = self.average @ response.neg().sub_(self.config.threshold).clamp_min_(0.0)
        return torch.cat([on, off], dim=2).flatten(1).sqrt()

    def _convolve(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, places, K). For one channel, the product with unfolded patches is twice as fast as the convolution."""
        if pixels.shape[1] == 1 and not torch.compiler.is_exporting():
            return F.unfold(pixels, self.config.patch).transpose(1, 2) @ self.kernels.flatten(1).T
        return F.conv2d(pixels, self.kernels).flatten(2).transpose(1, 2)


def _averaging(size: int, grid: int) -> torch.Tensor:
    """(grid^2, size^2): averages over the cells of a grid, whose sides overlap by a pixel where they do not divide."""
    weights = torch.zeros(grid, size)
    for g in range(grid):
        first, last = g * size // grid, -(-(g + 1) * size // grid)
        weights[g, first:last] = 1.0 / (last - first)
    return torch.kron(weights, weights)


def fit_patches(
    images: Sequence[Image.Image],
    *,
    seed: int,
    dim: int = 256,
    config: PatchConfig | None = None,
    fit: Fit | None = None,
) -> PatchEncoder:
    """Learn filters and PCA from `images` (at least one; FIT_IMAGES are plenty). Same images, same seed: same encoder.

    Without a `config`, grey images make a one-channel encoder, and the working size follows the images: their
    median longer side within 28..48 pixels.
    """
    if not images:
        raise ValueError("fit_patches needs at least one image")
    config = config or replace(_config_for(images), fit=fit or "squash")
    generator = np.random.default_rng(seed)
    batch = np.stack([_prepared(image, config) for image in images[:FIT_IMAGES]])
    kernels, bias = _learn_filters(batch, config, generator)
    filters = PatchModule(config, {"kernels": kernels, "bias": bias})
    with torch.inference_mode():
        chunks = [torch.from_numpy(batch[i : i + CHUNK]) for i in range(0, len(batch), CHUNK)]
        pooled = torch.cat([filters.pool(chunk) for chunk in chunks])
    mean, components = _principal_components(pooled.numpy(), dim, config.decay, generator)
    tensors = {"kernels": kernels, "bias": bias, "mean": mean, "components": components}
    return PatchEncoder(config, {name: tensor.contiguous() for name, tensor in tensors.items()})


def _config_for(images: Sequence[Image.Image]) -> PatchConfig:
    size = int(np.clip(np.median([max(image.size) for image in images]), 28, 48))
    return PatchConfig(size=size, channels=1 if all(_is_grey(image) for image in images) else 3)


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("L", "1"):
        return True
    small = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX))
    return int(np.ptp(small, axis=2).max()) <= 8  # JPEG noise in the colour channels of a grey picture


def _how(config: PatchConfig) -> dict[str, Any]:
    mode = "L" if config.channels == 1 else "RGB"
    return {"mode": mode, "size": config.size, "interpolation": int(Image.Resampling.BILINEAR), "fit": config.fit}


def _prepared(image: Image.Image, config: PatchConfig) -> NDArray[np.uint8]:
    return recipe.fitted(image, _how(config))


def _learn_filters(
    batch: NDArray[np.uint8], config: PatchConfig, generator: np.random.Generator, count: int = 40_000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whiten random patches (ZCA) and cluster them by spherical k-means: kernels (K, C, k, k) and bias (K,)."""
    k = config.patch
    patches = torch.from_numpy(_random_patches(batch, k, count, generator)).float().div_(255.0)
    patches -= patches.mean(1, keepdim=True)
    patches = patches[patches.pow(2).mean(1) > 1e-4] if bool((patches.pow(2).mean(1) > 1e-4).any()) else patches
    patches /= (patches.pow(2).mean(1, keepdim=True) + config.contrast).sqrt()
    mean = patches.mean(0)
    patches -= mean
    values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
    whiten = ((vectors * (values.clamp_min(0) + config.whitening).rsqrt()) @ vectors.T).float()
    atoms = _spherical_kmeans(patches @ whiten, config.filters, generator)
    kernels = atoms @ whiten
    bias = -(kernels @ mean)
    kernels -= kernels.mean(1, keepdim=True)
    return kernels.reshape(-1, k, k, config.channels).permute(0, 3, 1, 2).contiguous(), bias


def _random_patches(batch: NDArray[np.uint8], k: int, count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    n, height, width, channels = batch.shape
    image = generator.integers(n, size=count)[:, None, None]
    row = generator.integers(height - k + 1, size=count)[:, None, None] + np.arange(k)[:, None]
    column = generator.integers(width - k + 1, size=count)[:, None, None] + np.arange(k)
    return batch[image, row, column].reshape(count, k * k * channels)


def _spherical_kmeans(
    points: torch.Tensor, clusters: int, generator: np.random.Generator, rounds: int = 10
) -> torch.Tensor:
    """Unit centroids (clusters, d), found by damped, unnormalised spherical k-means (Coates and Ng 2012)."""
    start = generator.choice(len(points), size=clusters, replace=len(points) < clusters)
    atoms = F.normalize(points[torch.from_numpy(start)])
    for _ in range(rounds):
        best, index = (points @ atoms.T).max(1)
        sums = torch.zeros_like(atoms).index_add_(0, index, points * best[:, None])
        atoms = F.normalize(sums + 1e-3 * atoms)
    return atoms


def _principal_components(
    rows: NDArray[np.float32], dim: int, decay: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and scaled principal directions (D, dim) of `rows` (n, D).

    Fewer than `dim` images span fewer directions; the others are then drawn at random, orthogonal to those, so that
    pictures to come still differ and the dimension does not depend on how many images there were.
    """
    dim = min(dim, rows.shape[1])
    fitted = min(dim, len(rows) - 1) if np.ptp(rows, axis=0).any() else 0
    mean = rows.mean(0)
    directions: NDArray[Any]
    if fitted < 1:
        directions, scale = np.zeros((rows.shape[1], 0), np.float32), np.ones(0)
    else:
        pca = PCA(fitted, svd_solver="randomized", random_state=int(generator.integers(2**31))).fit(rows)
        directions, scale = pca.components_.T, np.sqrt(np.maximum(pca.explained_variance_, 1e-9))
    if fitted < dim:
        noise = generator.standard_normal((rows.shape[1], dim - max(fitted, 0)))
        directions = np.linalg.qr(np.hstack([directions, noise]))[0]
        scale = np.concatenate([scale, np.full(directions.shape[1] - len(scale), scale[-1] if len(scale) else 1.0)])
    components = directions / np.maximum(scale, 1e-4) ** decay
    return torch.from_numpy(mean), torch.from_numpy(components.astype(np.float32))

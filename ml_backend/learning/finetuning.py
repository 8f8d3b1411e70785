"""Fine-tune a network encoder on the labels: a plain loop, for a GPU (it runs on a CPU, slowly).

The network starts from the encoder's weights, never from an earlier round's fine-tuned ones (J. Ash and R. Adams, "On
Warm-Starting Neural Network Training", NeurIPS 2020). The result is an encoder of its own, and a head refitted on it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.utils.hooks import RemovableHandle

from ml_backend.errors import ConfigError
from ml_backend.learning.augmentation import augment
from ml_backend.learning.checkpoint import Checkpoint, Tensors
from ml_backend.learning.encoders import Encoder
from ml_backend.learning.networks import NetworkEncoder, bf16_pays
from ml_backend.learning.training import TrainedHead, assign_folds, train_head

logger = logging.getLogger(__name__)

OnProgress = Callable[[float, str], None]
"""Told how far it is, 0 to 1, and what is being done, often; what it raises ends that."""

SCALE = 10.0
"""The head sees unit rows, as it will when it serves, made this long so that softmax can become certain."""
ENCODED = 16
"""Pictures encoded at a time once the network is trained: a second's work for a CPU."""
TUNED = 0.9
"""Share of the work that is done when the network is trained; the rest is to encode with it."""


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum, one cosine cycle after a linear warm-up. patience: epochs without a better held-out accuracy."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.02
    head_learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    label_smoothing: float = 0.1
    patience: int = 5
    validation: float = 0.15
    flip: bool = True  # wrong for digits and letters
    augmentation: float = 1.0  # 0: none


@dataclass(frozen=True)
class Epoch:
    number: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class FineTuned:
    """encoder: of the best epoch. trained: the head refitted on it, on all labels. history: one entry an epoch run."""

    encoder: NetworkEncoder
    trained: TrainedHead
    history: tuple[Epoch, ...]
    best: Epoch


def finetune(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64] | NDArray[np.bool_],
    classes: Sequence[str],
    *,
    seed: int,
    recipe: Recipe | None = None,
    checkpoint: Path | None = None,
    owner: str = "",
    on_progress: OnProgress = lambda _share, _doing: None,
) -> FineTuned:
    """Train all of `encoder` on prepared pictures (n, h, w, 3), labels (n,) or, for multi-label, (n, C) bool.

    A part of the labels, `recipe.validation`, is held out to stop early and to keep the best epoch. on_progress: told how
    far it is, 0 to 1, and what it is doing, several times a second, between layers on a CPU; what it raises ends the run.
    checkpoint: a file written now and then, from which a run goes on that was killed, if owner, encoder, pictures, labels,
    seed and recipe are the same. Same labels, seed and threads: the same weights on a CPU, killed in between or not.
    Raises ConfigError where the encoder is not a network, ValueError for fewer than two labels.
    """
    if not isinstance(encoder, NetworkEncoder):
        raise ConfigError(f"The encoder {encoder.name} cannot be fine-tuned: use a torchvision or timm network.")
    if len(labels) < 2 or len(labels) != len(pixels):
        raise ValueError("fine-tuning needs as many pictures as labels, two at least")
    recipe = recipe or Recipe()
    situation = _situation(owner, encoder, pixels, labels, classes, seed, recipe)
    kept = None if checkpoint is None else Checkpoint(checkpoint, situation)
    targets = _targets(labels, len(classes))
    folds = assign_folds(targets.numpy(), max(2, round(1 / recipe.validation)), np.random.default_rng(seed))
    with torch.random.fork_rng(devices=[] if encoder.device.type == "cpu" else [encoder.device]):
        run = _Run(
            encoder, pixels, targets, labels.ndim == 2, np.flatnonzero(folds), np.flatnonzero(folds == 0), recipe, seed
        )
        run.train_on(kept, lambda share, doing: on_progress(TUNED * share, doing))
    tuned = encoder.with_body(run.best_body())
    vectors = encode(tuned, pixels, lambda share, doing: on_progress(TUNED + (1 - TUNED) * share, doing))
    trained = train_head(vectors, labels, classes, seed=seed)
    return FineTuned(tuned, trained, tuple(run.history), run.best)


class Standing(BaseModel):
    """Where a run is: the epochs that are over, and the loss of each batch of the one under way."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    history: list[Epoch] = []
    losses: list[float] = []


class _Run:
    """The state of one fine-tuning: what a checkpoint holds."""

    def __init__(
        self,
        encoder: NetworkEncoder,
        pixels: NDArray[np.uint8],
        targets: torch.Tensor,
        multilabel: bool,
        train: NDArray[np.int64],
        validate: NDArray[np.int64],
        recipe: Recipe,
        seed: int,
    ) -> None:
        self.recipe, self.pixels, self.targets, self.multilabel = recipe, pixels, targets, multilabel
        self.train, self.validate, self.seed = train, validate, seed
        self.device = encoder.device
        self.generator = torch.Generator().manual_seed(seed)
        network = nn.ModuleDict(
            {"features": copy.deepcopy(encoder.module()), "head": nn.Linear(encoder.dim, targets.shape[1])}
        )
        for parameter in network["head"].parameters():
            nn.init.zeros_(parameter)
        self.network = network.requires_grad_(True).to(self.device)
        self.optimizer = torch.optim.SGD(
            [{"params": self.network[part].parameters()} for part in ("features", "head")],
            momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True,
        )  # fmt: skip
        self.size = min(recipe.batch_size, len(train))
        self.batches = len(train) // self.size
        self.order = train
        self.standing = Standing()
        self._best_state: dict[str, torch.Tensor] = {}
        self._watched: list[RemovableHandle] = []

    @property
    def history(self) -> list[Epoch]:
        return self.standing.history

    @property
    def best(self) -> Epoch:
        return max(self.history, key=lambda epoch: epoch.accuracy, default=Epoch(0, float("inf"), -1.0))

    @property
    def steps(self) -> int:
        """Batches done so far, of all epochs."""
        return len(self.history) * self.batches + len(self.standing.losses)

    @property
    def share(self) -> float:
        """How far it is, 0 to 1, if it is not stopped early."""
        return self.steps / (self.batches * self.recipe.epochs)

    @property
    def doing(self) -> str:
        """The same in words, which change ten times an epoch at most."""
        percent = 10 * (10 * len(self.standing.losses) // self.batches)
        return f"fine-tuning, epoch {len(self.history) + 1} of at most {self.recipe.epochs}, {percent} %"

    @property
    def goes_on(self) -> bool:
        waited = len(self.history) - self.best.number
        return len(self.history) < self.recipe.epochs and waited < self.recipe.patience

    def train_on(self, kept: Checkpoint | None, on_progress: OnProgress) -> None:
        """To the end, from where the checkpoint has it."""

        def tell() -> None:
            on_progress(self.share, self.doing)

        if kept:
            self.resume(kept)
        self.call_between_steps(tell)
        while self.goes_on:
            self.advance()
            if kept and kept.due:
                kept.write(self.standing.model_dump_json(), self.tensors(), tell)
        self.call_between_steps(None)

    def call_between_steps(self, check_cancelled: Callable[[], None] | None) -> None:
        """Call it as each layer is passed, forwards and backwards; None ends that.

        A batch takes a CPU ten seconds. On a GPU the layers are queued, not computed, when they are passed: a batch there
        takes a fraction of a second, and the first layer alone is watched.
        """
        for handle in self._watched:
            handle.remove()
        self._watched = []
        if check_cancelled is None:
            return

        def passed(_module: nn.Module, _given: Any, output: Any) -> None:
            check_cancelled()
            if isinstance(output, torch.Tensor) and output.requires_grad:
                output.register_hook(lambda _gradient: check_cancelled())  # type: ignore[no-untyped-call]

        layers = [module for module in self.network.modules() if not list(module.children())]
        watched = layers if self.device.type == "cpu" else layers[:1]
        self._watched = [layer.register_forward_hook(passed) for layer in watched]

    def advance(self) -> None:
        """One batch; with the last one of an epoch, the held-out accuracy as well."""
        losses = self.standing.losses
        if not losses:
            self.order = self.train[torch.randperm(len(self.train), generator=self.generator).numpy()]
        self.network.train()
        self._set_rates()
        torch.manual_seed(self.seed + self.steps)  # what layers draw by themselves, as dropout does
        losses.append(self._step(self.order[len(losses) * self.size :][: self.size]))
        if len(losses) < self.batches:
            return
        epoch = Epoch(len(self.history) + 1, float(np.mean(losses)), self._accuracy())
        if epoch.accuracy > self.best.accuracy:
            state = self.network["features"].state_dict()
            self._best_state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        self.standing = Standing(history=[*self.history, epoch])

    def best_body(self) -> nn.Module:
        features = self.network["features"]
        features.load_state_dict(self._best_state)
        body: nn.Module = features.get_submodule("body")
        return body

    def _set_rates(self) -> None:
        """One cosine cycle after a linear warm-up."""
        total = self.batches * self.recipe.epochs
        warm = max(1, round(self.recipe.warmup * total))
        share = min((self.steps + 1) / warm, 0.5 * (1 + float(np.cos(np.pi * min(1.0, self.steps / total)))))
        rates = (self.recipe.learning_rate, self.recipe.head_learning_rate)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share

    def _step(self, rows: NDArray[np.int64]) -> float:
        batch = torch.from_numpy(self.pixels[rows]).to(self.device)
        targets = self.targets[rows].to(self.device)
        if self.recipe.augmentation > 0:
            batch = augment(batch, self.recipe.augmentation, flip=self.recipe.flip, generator=self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16_pays(self.device)):
            logits = _forward(self.network, batch)
        loss = _loss(logits.float(), targets, self.recipe.label_smoothing, multilabel=self.multilabel)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def _accuracy(self) -> float:
        self.network.eval()
        right = 0.0
        for start in range(0, len(self.validate), 256):
            rows = self.validate[start : start + 256]
            logits = _forward(self.network, torch.from_numpy(self.pixels[rows]).to(self.device)).cpu()
            targets = self.targets[rows]
            if self.multilabel:
                right += float(((logits > 0) == (targets > 0.5)).float().mean(1).sum())
            else:
                right += float((logits.argmax(1) == targets.argmax(1)).sum())
        return right / len(self.validate)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of the run beside `standing`, by name."""
        momenta = {
            f"momentum.{name}": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if "momentum_buffer" in self.optimizer.state[parameter]
        }
        best = {f"best.{name}": tensor for name, tensor in self._best_state.items()}
        order = torch.from_numpy(self.order)
        return self._weights() | momenta | best | {"generator": self.generator.get_state(), "order": order}

    def _weights(self) -> dict[str, torch.Tensor]:
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def resume(self, kept: Checkpoint) -> None:
        """Go on from a checkpoint, if there is one that fits."""
        momenta = {f"momentum.{name}": parameter for name, parameter in self.network.named_parameters()}
        best = {f"best.{name}": tensor for name, tensor in self.network["features"].state_dict().items()}
        found = kept.read(self.tensors() | momenta | best)
        if found is None:
            return
        state, tensors = found
        try:
            standing = Standing.model_validate_json(state)
            self._check(standing, tensors, best)
            self.generator.set_state(tensors["generator"])
        except (ValueError, RuntimeError) as error:
            kept.refuse(error)
            return
        for name, tensor in self._weights().items():
            tensor.copy_(tensors[name])
        for name, parameter in self.network.named_parameters():
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                buffer = torch.empty_like(parameter.detach()).copy_(momentum)  # laid out in memory as it was
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self._best_state = {name.removeprefix("best."): tensors[name] for name in best if name in tensors}
        self.order, self.standing = tensors["order"].numpy(), standing
        logger.info("Fine-tuning goes on after %d epochs and %d batches.", len(self.history), len(standing.losses))

    def _check(self, standing: Standing, tensors: Tensors, best: Tensors) -> None:
        """Raise ValueError where it is no state that this run can be in."""
        needed = {*self._weights(), "generator", "order", *(best if standing.history else ())}
        numbers = [epoch.number for epoch in standing.history]
        if (
            not needed <= set(tensors)
            or numbers != list(range(1, len(numbers) + 1))
            or len(numbers) > self.recipe.epochs
            or len(standing.losses) >= self.batches
            or not np.array_equal(np.sort(tensors["order"].numpy()), self.train)
        ):
            raise ValueError("it is in no state that training can be in")


def _forward(network: nn.ModuleDict, pixels: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = network["head"](SCALE * network["features"](pixels))
    return logits


def _targets(labels: NDArray[Any], n_classes: int) -> torch.Tensor:
    if labels.ndim == 2:
        return torch.from_numpy(labels.astype(np.float32))
    return F.one_hot(torch.from_numpy(labels.astype(np.int64)), n_classes).float()


def _loss(logits: torch.Tensor, targets: torch.Tensor, smoothing: float, *, multilabel: bool) -> torch.Tensor:
    if multilabel:
        return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + 0.5 * smoothing)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def _situation(
    owner: str,
    encoder: NetworkEncoder,
    pixels: NDArray[np.uint8],
    labels: NDArray[Any],
    classes: Sequence[str],
    seed: int,
    recipe: Recipe,
) -> str:
    """SHA-256 of all that decides what a run comes to, and of whose it is."""
    named = [owner, encoder.id, list(classes), seed, asdict(recipe), pixels.shape, labels.shape, str(labels.dtype)]
    sha = hashlib.sha256(json.dumps(named).encode())
    sha.update(np.ascontiguousarray(labels).data)
    sha.update(np.ascontiguousarray(pixels).data)
    return sha.hexdigest()


def encode(encoder: Encoder, pixels: NDArray[np.uint8], on_progress: OnProgress) -> NDArray[np.float32]:
    """Vectors (n, dim) of prepared pictures; `on_progress` is told about once a second."""
    parts: list[NDArray[np.float32]] = [np.empty((0, encoder.dim), np.float32)]
    for start in range(0, len(pixels), ENCODED):
        on_progress(start / len(pixels), "encoding with the tuned network")
        parts.append(encoder.forward(pixels[start : start + ENCODED]))
    return np.concatenate(parts)

"""Fine-tune a network encoder on the labels: a plain loop, for a GPU (it runs on a CPU, slowly).

The network starts from the encoder's weights, never from an earlier round's fine-tuned ones (J. Ash and R. Adams, "On
Warm-Starting Neural Network Training", NeurIPS 2020). The result is an encoder of its own, and a head refitted on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle

from ml_backend.errors import ConfigError
from ml_backend.learning.augmentation import augment
from ml_backend.learning.encoders import Encoder
from ml_backend.learning.networks import NetworkEncoder, bf16_pays
from ml_backend.learning.training import TrainedHead, assign_folds, train_head

SCALE = 10.0
"""The head sees unit rows, as it will when it serves, made this long so that softmax can become certain."""
ENCODED = 16
"""Pictures encoded at a time once the network is trained: a second's work for a CPU."""


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
    progress: Callable[[Epoch], None] = lambda _: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> FineTuned:
    """Train all of `encoder` on prepared pictures (n, h, w, 3), labels (n,) or, for multi-label, (n, C) bool.

    A part of the labels, `recipe.validation`, is held out to stop early and to keep the best epoch. checkpoint: a
    file written after each epoch, from which an interrupted run goes on. check_cancelled: called several times a second, between
    layers on a CPU; what it raises ends the run. Same labels, seed and threads: the same weights on a CPU. Raises ConfigError where the encoder is not a network, ValueError for fewer than two labels.
    """
    if not isinstance(encoder, NetworkEncoder):
        raise ConfigError(f"The encoder {encoder.name} cannot be fine-tuned: use a torchvision or timm network.")
    if len(labels) < 2 or len(labels) != len(pixels):
        raise ValueError("fine-tuning needs as many pictures as labels, two at least")
    recipe = recipe or Recipe()
    targets = _targets(labels, len(classes))
    folds = assign_folds(targets.numpy(), max(2, round(1 / recipe.validation)), np.random.default_rng(seed))
    run = _Run(
        encoder, pixels, targets, labels.ndim == 2, np.flatnonzero(folds), np.flatnonzero(folds == 0), recipe, seed
    )
    run.call_between_steps(check_cancelled)
    run.resume(checkpoint)
    while run.goes_on():
        progress(run.epoch())
        run.write(checkpoint)
    run.call_between_steps(None)
    tuned = encoder.with_body(run.best_body())
    trained = train_head(encode(tuned, pixels, check_cancelled), labels, classes, seed=seed)
    return FineTuned(tuned, trained, tuple(run.history), run.best)


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
        self.train, self.validate = train, validate
        self.device = encoder.device
        self.generator = torch.Generator().manual_seed(seed)
        network = nn.ModuleDict(
            {"features": copy.deepcopy(encoder.module()), "head": nn.Linear(encoder.dim, targets.shape[1])}
        )
        for parameter in network["head"].parameters():
            nn.init.zeros_(parameter)
        self.network = network.requires_grad_(True).to(self.device)
        self.optimizer = torch.optim.SGD(
            [
                {"params": self.network["features"].parameters(), "lr": recipe.learning_rate},
                {"params": self.network["head"].parameters(), "lr": recipe.head_learning_rate},
            ],
            momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True,
        )  # fmt: skip
        self.steps = max(1, len(train) // recipe.batch_size) * recipe.epochs
        warm = max(1, round(recipe.warmup * self.steps))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / warm, 0.5 * (1 + float(np.cos(np.pi * min(1.0, step / self.steps))))),
        )
        self.history: list[Epoch] = []
        self.best = Epoch(0, float("inf"), -1.0)
        self._best_state: dict[str, torch.Tensor] = {}
        self._watched: list[RemovableHandle] = []

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

    def goes_on(self) -> bool:
        waited = len(self.history) - self.best.number
        return len(self.history) < self.recipe.epochs and waited < self.recipe.patience

    def epoch(self) -> Epoch:
        """One pass over the training part, then the held-out accuracy."""
        self.network.train()
        order = self.train[torch.randperm(len(self.train), generator=self.generator).numpy()]
        size = min(self.recipe.batch_size, len(order))
        losses = [self._step(order[start : start + size]) for start in range(0, len(order) - size + 1, size)]
        epoch = Epoch(len(self.history) + 1, float(np.mean(losses)), self._accuracy())
        self.history.append(epoch)
        if epoch.accuracy > self.best.accuracy:
            self.best = epoch
            state = self.network["features"].state_dict()
            self._best_state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        return epoch

    def best_body(self) -> nn.Module:
        features = self.network["features"]
        features.load_state_dict(self._best_state)
        body: nn.Module = features.get_submodule("body")
        return body

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
        self.schedule.step()
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

    def write(self, path: Path | None) -> None:
        """Write a checkpoint, atomically."""
        if path is None:
            return
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "history": [(epoch.number, epoch.loss, epoch.accuracy) for epoch in self.history],
            "best": self._best_state,
            "best_epoch": self.best.number,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if path is None or not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"].cpu())
        self.history = [Epoch(*entry) for entry in state["history"]]
        self._best_state = state["best"]
        self.best = self.history[state["best_epoch"] - 1]


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


def encode(encoder: Encoder, pixels: NDArray[np.uint8], check_cancelled: Callable[[], None]) -> NDArray[np.float32]:
    """Vectors (n, dim) of prepared pictures; `check_cancelled` is called about once a second."""
    parts: list[NDArray[np.float32]] = [np.empty((0, encoder.dim), np.float32)]
    for start in range(0, len(pixels), ENCODED):
        check_cancelled()
        parts.append(encoder.forward(pixels[start : start + ENCODED]))
    return np.concatenate(parts)

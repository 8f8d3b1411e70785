"""The loop of a fine-tuning, which can be stopped between any two steps and gone on with: see `finetuning`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.utils.hooks import RemovableHandle

from ml_backend.encoders.networks import NetworkEncoder, bf16_pays
from ml_backend.learning.adapters import merge
from ml_backend.learning.augmentation import augment
from ml_backend.learning.checkpoint import Checkpoint, Tensors
from ml_backend.learning.head import Head
from ml_backend.learning.layer_rates import Optimizer, Part, choose_part, fits, make_optimizer, parameter_groups, still
from ml_backend.learning.prepared_pictures import AHEAD, Pictures

logger = logging.getLogger(__name__)

OnProgress = Callable[[float, str], None]
"""Told how far it is, 0 to 1, and what is being done, often; what it raises ends that."""

SCALE = 10.0
"""The head sees unit rows, as it will when it serves, made this long so that softmax can become certain."""
LONGEST_GRADIENT = 1.0
"""Gradients are made no longer than this, so that one odd batch throws nothing over."""
LOOKED_AT = 64
"""Pictures of the validation fold at a time: a cancel is heard between layers."""


@dataclass(frozen=True)
class Rates:
    """Highest rates of the body's last layer and of the head; that of each layer as a share of the next one's."""

    body: float
    head: float
    decay: float
    weight_decay: float


RATES: dict[Optimizer, Rates] = {
    "sgd": Rates(0.01, 0.03, 1.0, 5e-4),
    "adamw": Rates(3e-4, 1e-3, 0.7, 0.05),
}
LORA_RATE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """One cosine cycle after a linear warm-up. patience: epochs without a better accuracy of the validation fold.

    part: what is trained of the body; last_blocks: of "last"; rank: of "lora". optimizer, learning_rate,
    head_learning_rate, layer_decay: None for what fits the network, see RATES.
    """

    epochs: int = 20
    batch_size: int = 64
    part: Part = "all"
    last_blocks: int = 2
    rank: int = 8
    optimizer: Optimizer | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float | None = None
    momentum: float = 0.9
    warmup: float = 0.1
    label_smoothing: float = 0.1
    patience: int = 5
    validation: float = 0.15
    flip: bool = True  # wrong for digits and letters
    augmentation: float = 1.0  # 0: none

    def optimizer_for(self, body: nn.Module) -> Optimizer:
        return self.optimizer or fits(body)

    def rates(self, kind: Optimizer) -> Rates:
        usual = RATES[kind]
        body = LORA_RATE if self.part == "lora" else usual.body
        decay = 1.0 if self.part == "lora" else usual.decay
        return Rates(
            body if self.learning_rate is None else self.learning_rate,
            usual.head if self.head_learning_rate is None else self.head_learning_rate,
            decay if self.layer_decay is None else self.layer_decay,
            usual.weight_decay,
        )


@dataclass(frozen=True)
class Epoch:
    number: int
    loss: float
    accuracy: float


class Standing(BaseModel):
    """Where a run is: the epochs that are over, and the loss of each batch of the one under way."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    history: list[Epoch] = []
    losses: list[float] = []
    scaler: dict[str, int | float] = {}


class Run:
    """The state of one fine-tuning: what a checkpoint holds."""

    def __init__(
        self,
        encoder: NetworkEncoder,
        pictures: Pictures,
        targets: torch.Tensor,
        multilabel: bool,
        train: NDArray[np.int64],
        validate: NDArray[np.int64],
        recipe: Recipe,
        seed: int,
        start: Head | None = None,
    ) -> None:
        """start: a head to begin with, learned on top of the encoder as it is; without, one that knows nothing."""
        self.recipe, self.pictures, self.targets, self.multilabel = recipe, pictures, targets, multilabel
        self.train, self.validate, self.seed = train, validate, seed
        self.device = encoder.device
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        features = copy.deepcopy(encoder.module())
        body = features.get_submodule("body")
        choose_part(body, recipe.part, last=recipe.last_blocks, rank=recipe.rank)
        head = _head(encoder.dim, targets.shape[1], start)
        self.network = nn.ModuleDict({"features": features, "head": head}).to(self.device)
        kind = recipe.optimizer_for(body)
        rates = recipe.rates(kind)
        groups = parameter_groups(
            self.network, rate=rates.body, head_rate=rates.head, decay=rates.decay, weight_decay=rates.weight_decay
        )
        self.optimizer = make_optimizer(kind, groups, recipe.momentum)
        self.learning = [parameter for group in groups for parameter in group["params"]]
        self.numbers = number_kind(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.numbers == torch.float16)
        self.told: Callable[[], None] = lambda: None
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
        self.told = tell
        self.call_between_steps(tell)
        while self.goes_on:
            self.advance()
            if kept and kept.due:
                kept.write(self._told_standing(), self.tensors(), tell)
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
        still(self.network)
        self._set_rates()
        torch.manual_seed(self.seed + self.steps)  # what layers draw by themselves, as dropout does
        at = len(losses)
        batch, *upcoming = (
            self.order[each * self.size :][: self.size] for each in range(at, min(at + 1 + AHEAD, self.batches))
        )
        losses.append(self._step(batch, upcoming))
        if len(losses) < self.batches:
            return
        epoch = Epoch(len(self.history) + 1, float(np.mean(losses)), self._accuracy())
        if epoch.accuracy > self.best.accuracy:
            state = self.network["features"].state_dict()
            self._best_state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        self.standing = Standing(history=[*self.history, epoch])

    def best_body(self) -> nn.Module:
        """Built as it was before, with the weights of the best epoch."""
        features = self.network["features"]
        features.load_state_dict(self._best_state)
        merge(features)
        body: nn.Module = features.get_submodule("body")
        return body

    def _set_rates(self) -> None:
        """One cosine cycle after a linear warm-up."""
        total = self.batches * self.recipe.epochs
        warm = max(1, round(self.recipe.warmup * total))
        share = min((self.steps + 1) / warm, 0.5 * (1 + float(np.cos(np.pi * min(1.0, self.steps / total)))))
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * share

    def _step(self, rows: NDArray[np.int64], upcoming: Sequence[NDArray[np.int64]]) -> float:
        """Learn from a batch; returns its loss, which is no number where all its pictures went away."""
        pixels, rows = self.pictures.take(rows, upcoming, self.told)
        if not len(rows):
            return float("nan")
        if len(rows) == 1:  # a normalisation over a batch needs two: it is seen twice, each time otherwise
            pixels, rows = np.repeat(pixels, 2, axis=0), np.repeat(rows, 2)
        batch = torch.from_numpy(pixels).to(self.device)
        targets = self.targets[rows].to(self.device)
        if self.recipe.augmentation > 0:
            batch = augment(batch, self.recipe.augmentation, flip=self.recipe.flip, generator=self.generator)
        with torch.autocast(self.device.type, self.numbers or torch.bfloat16, enabled=self.numbers is not None):
            logits = _forward(self.network, batch)
        loss = _loss(logits.float(), targets, self.recipe.label_smoothing, multilabel=self.multilabel)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.learning, LONGEST_GRADIENT)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())

    @torch.no_grad()
    def _accuracy(self) -> float:
        """Of the validation fold; 0 for a network that diverged, whose answers are all the first class."""
        self.network.eval()
        right, seen = 0.0, 0
        parts = [self.validate[start : start + LOOKED_AT] for start in range(0, len(self.validate), LOOKED_AT)]
        for place, part in enumerate(parts):
            pixels, rows = self.pictures.take(part, parts[place + 1 : place + 1 + AHEAD], self.told)
            if not len(rows):
                continue
            logits = _forward(self.network, torch.from_numpy(pixels).to(self.device)).cpu()
            if not bool(logits.isfinite().any()):
                return 0.0
            targets = self.targets[rows]
            seen += len(rows)
            if self.multilabel:
                right += float(((logits > 0) == (targets > 0.5)).float().mean(1).sum())
            else:
                right += float((logits.argmax(1) == targets.argmax(1)).sum())
        return right / max(seen, 1)

    def _told_standing(self) -> str:
        return self.standing.model_copy(update={"scaler": self.scaler.state_dict()}).model_dump_json()

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of the run beside `standing`, by name."""
        moments = {
            f"{key}.{name}": tensor
            for name, parameter in self.network.named_parameters()
            for key, tensor in self.optimizer.state.get(parameter, {}).items()
            if isinstance(tensor, torch.Tensor)
        }
        best = {f"best.{name}": tensor for name, tensor in self._best_state.items()}
        order = torch.from_numpy(self.order)
        return self._weights() | moments | best | {"generator": self.generator.get_state(), "order": order}

    def _weights(self) -> dict[str, torch.Tensor]:
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def resume(self, kept: Checkpoint) -> None:
        """Go on from a checkpoint, if there is one that fits."""
        moments = self._moments()
        best = {f"best.{name}": tensor for name, tensor in self.network["features"].state_dict().items()}
        found = kept.read(self.tensors() | moments | best)
        if found is None:
            return
        state, tensors = found
        try:
            standing = Standing.model_validate_json(state)
            self._check(standing, tensors, best)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(standing.scaler)
            self.generator.set_state(tensors["generator"])
        except (ValueError, KeyError, RuntimeError) as error:
            kept.refuse(error)
            return
        for name, tensor in self._weights().items():
            tensor.copy_(tensors[name])
        self._restore(tensors)
        self._best_state = {name.removeprefix("best."): tensors[name] for name in best if name in tensors}
        self.order, self.standing = tensors["order"].numpy(), standing
        logger.info("Fine-tuning goes on after %d epochs and %d batches.", len(self.history), len(standing.losses))

    def _moments(self) -> dict[str, torch.Tensor]:
        """What the optimizer may keep of each parameter, by name, in the shapes it has."""
        adaptive = isinstance(self.optimizer, torch.optim.AdamW)
        found = {}
        for name, parameter in self.network.named_parameters():
            for key in ("exp_avg", "exp_avg_sq") if adaptive else ("momentum_buffer",):
                found[f"{key}.{name}"] = parameter.detach()
            if adaptive:
                found[f"step.{name}"] = torch.zeros(())
        return found

    def _restore(self, tensors: Tensors) -> None:
        for name, parameter in self.network.named_parameters():
            for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                if (kept := tensors.get(f"{key}.{name}")) is not None:
                    # laid out in memory as it was
                    self.optimizer.state[parameter][key] = torch.empty_like(parameter.detach()).copy_(kept)
            if (step := tensors.get(f"step.{name}")) is not None:
                self.optimizer.state[parameter]["step"] = step

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


def _loss(logits: torch.Tensor, targets: torch.Tensor, smoothing: float, *, multilabel: bool) -> torch.Tensor:
    if multilabel:
        return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + 0.5 * smoothing)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def _head(dim: int, classes: int, start: Head | None) -> nn.Linear:
    """The last layer, on rows of length SCALE."""
    layer = nn.Linear(dim, classes)
    with torch.no_grad():
        layer.weight.copy_(
            torch.zeros(1) if start is None else torch.from_numpy(start.weight) / start.temperature / SCALE
        )
        layer.bias.copy_(torch.zeros(1) if start is None else torch.from_numpy(start.bias) / start.temperature)
    return layer


def number_kind(device: torch.device) -> torch.dtype | None:
    """In what numbers it is computed where that is safe: bfloat16, else a GPU's float16, which needs scaling; None: float32."""
    if bf16_pays(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else None

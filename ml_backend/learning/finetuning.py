"""Fine-tune a network encoder on the labels: meant for a GPU (it runs on a CPU, slowly). `tuning_run` has the loop.

The network starts from the encoder's weights, never from an earlier round's fine-tuned ones (J. Ash and R. Adams, "On
Warm-Starting Neural Network Training", NeurIPS 2020), and from a head that was learned on top of it before (A. Kumar et al.,
"Fine-Tuning can Distort Pretrained Features", ICLR 2022). The result is an encoder of its own; `refit` gives it a head.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from ml_backend.encoders.encoder import Encoder
from ml_backend.encoders.networks import NetworkEncoder
from ml_backend.errors import ConfigError
from ml_backend.learning.checkpoint import Checkpoint
from ml_backend.learning.head import Head
from ml_backend.learning.prepared_pictures import Pictures, PicturesInMemory
from ml_backend.learning.tempering import mean_loss, temperature_of
from ml_backend.learning.training import PENALTIES, TrainedHead, assign_folds, train_head
from ml_backend.learning.tuning_run import Epoch, OnProgress, Recipe, Run

DIVERGED = 8
"""Pictures by which it is seen that a training diverged."""
Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FineTuned:
    """encoder: of the best epoch. history: one entry an epoch run. train, validate: the rows that it learned from, and not.

    diverged: it answers no picture with numbers any more.
    """

    encoder: NetworkEncoder
    history: tuple[Epoch, ...]
    best: Epoch
    train: NDArray[np.int64]
    validate: NDArray[np.int64]
    diverged: bool = False


def finetune(
    encoder: Encoder,
    pictures: Pictures | NDArray[np.uint8],
    labels: NDArray[np.int64] | NDArray[np.bool_],
    classes: Sequence[str],
    *,
    seed: int,
    recipe: Recipe | None = None,
    features: Vectors | None = None,
    checkpoint: Path | None = None,
    owner: str = "",
    on_progress: OnProgress = lambda _share, _doing: None,
) -> FineTuned:
    """Train all of `encoder`, or a part of it, on prepared pictures (n, h, w, 3), labels (n,) or, for multi-label, (n, C) bool.

    A part of the labels, `recipe.validation`, teaches nothing: it tells when to stop, and which epoch was the best.
    features: (n, d) vectors of the pictures by the encoder as it is, to learn the head from that the network starts with.
    on_progress: told how far it is, 0 to 1, and what it is doing, several times a second, between layers on a CPU; what it
    raises ends the run. checkpoint: a file written now and then, from which a run goes on that was killed, if owner, encoder,
    pictures, labels, seed and recipe are the same. Same labels, seed and threads: the same weights on a CPU, killed in
    between or not. Raises ConfigError where the encoder is not a network, ValueError for fewer than two labels.
    """
    encoder = tunable(encoder)
    if len(labels) < 2 or len(labels) != len(pictures):
        raise ValueError("fine-tuning needs as many pictures as labels, two at least")
    if isinstance(pictures, np.ndarray):
        pictures = PicturesInMemory(pictures)
    recipe = recipe or Recipe()
    situation = _situation(owner, encoder, pictures, labels, classes, seed, recipe, features is not None)
    kept = None if checkpoint is None else Checkpoint(checkpoint, situation)
    targets = _targets(labels, len(classes))
    folds = assign_folds(targets.numpy(), max(2, round(1 / recipe.validation)), np.random.default_rng(seed))
    train, validate = np.flatnonzero(folds), np.flatnonzero(folds == 0)
    start = _first_head(features, labels, classes, train, seed)
    with torch.random.fork_rng(devices=[] if encoder.device.type == "cpu" else [encoder.device]):
        run = Run(encoder, pictures, targets, labels.ndim == 2, train, validate, recipe, seed, start)
        run.train_on(kept, on_progress)
    tuned = encoder.with_body(run.best_body())
    few = pictures.take(train[:DIVERGED])[0]
    diverged = len(few) > 0 and not np.isfinite(tuned.forward(few)).any()
    return FineTuned(tuned, tuple(run.history), run.best, train, validate, diverged)


def tunable(encoder: Encoder) -> NetworkEncoder:
    """The encoder itself. Raises ConfigError where it is not a network that can be trained."""
    if not isinstance(encoder, NetworkEncoder):
        raise ConfigError(f"The encoder {encoder.name} cannot be fine-tuned: use a torchvision or timm network.")
    return encoder


@dataclass(frozen=True)
class Refitted:
    """trained: on all rows, its temperature by the validation fold. n: rows of that; tuned, frozen: how many each has right.

    Both are heads trained without that fold, on the tuned network's vectors and on those it started from. differing: rows
    that one of them has right and the other has not.
    """

    trained: TrainedHead
    n: int
    tuned: int
    frozen: int
    differing: int

    @property
    def better(self) -> bool:
        """By more than chance makes of as many answers that differ: the best epoch was chosen on this very fold."""
        return self.tuned - self.frozen > math.sqrt(self.differing)


def refit(
    tuned: Vectors,
    frozen: Vectors,
    labels: NDArray[Any],
    classes: Sequence[str],
    validate: NDArray[np.int64],
    *,
    seed: int,
    alone: Callable[[NDArray[np.int64]], Head] | None = None,
) -> Refitted:
    """Heads on a tuned network's vectors (n, d): whether it pays, and the one to serve.

    alone: rows -> the head on `frozen` that would serve in its place, had it learned from these; without, one of these rows alone.
    What folds of all rows say of such a head is no quality, since the network has seen each label: it is left out.
    """
    aside = np.zeros(len(labels), np.bool_)
    aside[validate] = True
    if len(np.unique(labels[~aside], axis=0)) < 2:
        trained = train_head(tuned, labels, classes, seed=seed)
        return Refitted(_without_folds(trained, 1.0), 0, 0, 0, 0)
    if alone is None:
        other = train_head(frozen[~aside], labels[~aside], classes, seed=seed).head
    else:
        other = alone(np.flatnonzero(~aside))
    head, penalty = _chosen(tuned, labels, classes, aside, seed)
    trained = train_head(tuned, labels, classes, seed=seed, folds=1, penalties=(penalty,))
    own, its = (_right(each, rows[aside], labels[aside]) for each, rows in ((head, tuned), (other, frozen)))
    right = int(own.sum()), int(its.sum()), int((own != its).sum())
    return Refitted(_without_folds(trained, head.temperature), int(aside.sum()), *right)


def _chosen(
    vectors: Vectors, labels: NDArray[Any], classes: Sequence[str], aside: NDArray[np.bool_], seed: int
) -> tuple[Head, float]:
    """The head of the rows that are not aside, and its penalty: what makes it surest, and no surer than it is right, there.

    Folds cannot choose: with the labels of all rows in the network, no penalty is too weak for them.
    """
    found = []
    for penalty in PENALTIES:
        head = train_head(vectors[~aside], labels[~aside], classes, seed=seed, folds=1, penalties=(penalty,)).head
        temperature, loss = _temperature(head, vectors[aside], labels[aside])
        found.append((loss, replace(head, temperature=temperature), penalty))
    _, head, penalty = min(found, key=lambda each: each[0])
    return head, penalty


def _without_folds(trained: TrainedHead, temperature: float) -> TrainedHead:
    head = replace(trained.head, temperature=temperature)
    report = replace(
        trained.report, temperature=temperature, folds=0, accuracy=None, log_loss=None, fold_probabilities=None
    )
    return replace(trained, head=head, report=report, fold_heads=(), blind=head)


def _right(head: Head, rows: Vectors, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) whether it answers each right: the class, or for several labels the whole set."""
    probabilities = head.predict_proba(rows)
    if labels.ndim == 1:
        return np.asarray(probabilities.argmax(1) == labels)
    return np.asarray(((probabilities >= 0.5) == labels).all(1))


def _temperature(head: Head, rows: Vectors, labels: NDArray[Any]) -> tuple[float, float]:
    """What makes the head as sure as it is right on rows that it has not seen; and their mean loss then."""
    logits = torch.from_numpy(np.asarray(rows, np.float32) @ head.weight.T + head.bias).T
    targets = _targets(labels, len(logits)).T
    temperature = temperature_of(logits, targets, multilabel=head.multilabel)
    return temperature, float(mean_loss(logits / temperature, targets, multilabel=head.multilabel))


def _first_head(
    features: Vectors | None, labels: NDArray[Any], classes: Sequence[str], train: NDArray[np.int64], seed: int
) -> Head | None:
    if features is None or len(np.unique(labels[train], axis=0)) < 2:
        return None
    return train_head(features[train], labels[train], classes, seed=seed).head


def _targets(labels: NDArray[Any], n_classes: int) -> torch.Tensor:
    if labels.ndim == 2:
        return torch.from_numpy(labels.astype(np.float32))
    return F.one_hot(torch.from_numpy(labels.astype(np.int64)), n_classes).float()


def _situation(
    owner: str,
    encoder: NetworkEncoder,
    pictures: Pictures,
    labels: NDArray[Any],
    classes: Sequence[str],
    seed: int,
    recipe: Recipe,
    starts: bool,
) -> str:
    """SHA-256 of all that decides what a run comes to, and of whose it is. starts: with a head learned before."""
    shape = [len(pictures), labels.shape, str(labels.dtype)]
    named = [owner, encoder.id, list(classes), seed, asdict(recipe), shape, starts, pictures.digest]
    sha = hashlib.sha256(json.dumps(named).encode())
    sha.update(np.ascontiguousarray(labels).data)
    return sha.hexdigest()

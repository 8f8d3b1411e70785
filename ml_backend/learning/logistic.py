"""Many L2-regularised logistic regressions on the same rows, solved side by side.

Cross-validation asks for folds x penalties fits that differ only in row weights and penalty. One matrix product
serves them all: the problems lie side by side. Each runs its own L-BFGS (Nocedal and Wright 2006, ch. 7),
preconditioned by the diagonal of the Böhning bound on the Hessian (D. Böhning, 1992) in the features' own
principal axes, where that bound is diagonal; it converges in some ten to twenty steps.

With many classes that bound is far too careful, as each of them is unlikely for most rows: there the Hessian where all are as
likely takes its place, which needs a half to a quarter of the steps. Rows are gone through some at a time where the numbers
of all of them would not fit.

What belongs to a row runs along the last axis, the classes along the one before: a softmax over them is then many times faster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812

MEMORY = 8
FEW_CLASSES = 32
"""Up to here the careful bound: projects of the usual size keep the weights that earlier releases gave them."""
ENTRIES = 1 << 20
"""Logits at once, at most."""
WIDE = 1 << 14


@dataclass(frozen=True)
class Design:
    """Features in their principal axes, ready for the solver.

    rows: (n, p) float32, centred, last column constant. axes: (d, p - 1). centre: (d,). curvature: (p,) mean squares.
    """

    rows: torch.Tensor
    axes: torch.Tensor
    centre: torch.Tensor
    curvature: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Design:
        """Rotate (n, d) features; directions without variance are dropped, so p <= min(n, d) + 1."""
        n, d = features.shape
        centre = features.mean(0)
        rows = features - centre
        if n <= d:
            values, left = torch.linalg.eigh((rows @ rows.T).double())
            keep = values > values[-1].clamp_min(1e-12) * 1e-7
            scale = values[keep].sqrt()
            axes = (rows.T.double() @ left[:, keep] / scale).float()
            rotated = (left[:, keep] * scale).float()
        else:
            values, vectors = torch.linalg.eigh((rows.T @ rows).double())
            keep = values > values[-1].clamp_min(1e-12) * 1e-7
            axes = vectors[:, keep].float()
            rotated = rows @ axes
        rotated = torch.cat([rotated, rotated.new_ones(n, 1)], 1)
        return cls(rotated, axes, centre, rotated.pow(2).mean(0))

    def at(self, rows: torch.Tensor) -> Design:
        """Of these rows alone, in the same axes."""
        return replace(self, rows=self.rows[rows])

    def unrotate(self, solutions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Solutions (B, C, p) in these axes -> weights (B, C, d) and biases (B, C) for the original features."""
        weights = solutions[..., :-1] @ self.axes.T
        return weights, solutions[..., -1] - weights @ self.centre


@dataclass(frozen=True)
class Problems:
    """B problems over one design: targets (C, n), or (B, C, n), in 0..1, row weights (B, C or 1, n), penalties (B,)."""

    design: Design
    targets: torch.Tensor
    weights: torch.Tensor
    penalties: torch.Tensor
    multilabel: bool
    offset: torch.Tensor | None = None  # (C, n), added to the logits: what a head to start from says

    def value_and_gradient(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (B,) and gradients (B, C, p) at w (B, C, p): weighted mean cross-entropy + penalty/2 * |w|^2."""
        b, c, _ = w.shape
        n = len(self.design.rows)
        at_once = max(ENTRIES // (b * c), 1)
        value, gradient = self._sums(w, slice(0, at_once))
        for start in range(at_once, n, at_once):
            more, added = self._sums(w, slice(start, start + at_once))
            value, gradient = value.add_(more), gradient.add_(added)
        return value + 0.5 * self.penalties * _dot(w, w), gradient + self.penalties[:, None, None] * w

    def _sums(self, w: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the rows in `part`, without the penalty."""
        b, c, p = w.shape
        rows, targets, weights = self.design.rows[part], self.targets[..., part], self.weights[..., part]
        logits = (w.reshape(-1, p) @ rows.T).view(b, c, -1)
        if self.offset is not None:
            logits += self.offset[:, part]
        if self.multilabel:
            loss = F.softplus(logits) - targets * logits
            residual = torch.sigmoid(logits).sub_(targets)
        else:
            log_p = torch.log_softmax(logits, 1)
            loss = -(targets * log_p).sum(1, keepdim=True)
            residual = log_p.exp_().sub_(targets)
        value = (loss * weights).sum((1, 2))
        gradient = (residual.mul_(weights).view(b * c, -1) @ rows).view(b, c, p)
        return value, gradient

    def bound(self) -> torch.Tensor:
        """(p,) the diagonal that stands for the Hessian, without the penalty."""
        classes = self.targets.shape[-2]
        share = 0.25 if self.multilabel or classes <= FEW_CLASSES else (1 - 1 / classes) / classes
        return share * self.design.curvature

    def at(self, rows: torch.Tensor) -> Problems:
        """The same ones on these rows (m,) alone; their weights come to one again."""
        weights = self.weights[..., rows]
        return replace(
            self,
            design=self.design.at(rows),
            targets=self.targets[..., rows],
            weights=weights / weights.sum(-1, keepdim=True).clamp_min(1e-12),
            offset=None if self.offset is None else self.offset[:, rows],
        )

    def only(self, index: torch.Tensor) -> Problems:
        """The problems numbered `index`."""
        targets = self.targets[index] if self.targets.ndim == 3 else self.targets
        return replace(self, targets=targets, weights=self.weights[index], penalties=self.penalties[index])


def solve(
    problems: Problems, *, tolerance: float = 1e-4, max_steps: int = 60, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Minimise every problem, from zero or from `start`: (B, C, p).

    A problem is done when a step promises to lower its loss by less than the share `tolerance`; done problems leave
    the batch. (A gradient's norm would stop separable problems early, at weights far smaller than the solution's.)
    """
    b = len(problems.penalties)
    c, p = problems.targets.shape[-2], problems.design.rows.shape[1]
    result = problems.targets.new_zeros(b, c, p) if start is None else start.clone()
    active = torch.arange(b)
    state = _State.start(problems, result)
    for _ in range(max_steps):
        done = state.step() <= tolerance * state.value
        if bool(done.any()):
            result[active[done]] = state.w[done]
            active, state = active[~done], state.only(torch.nonzero(~done)[:, 0])
            if len(active) == 0:
                return result
    result[active] = state.w
    return result


@dataclass
class _State:
    problems: Problems
    scale: torch.Tensor  # (B, 1, p) inverse of the diagonal bound
    w: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # s, y, 1 / (s.y), oldest first

    @classmethod
    def start(cls, problems: Problems, w: torch.Tensor) -> _State:
        scale = 1.0 / (problems.bound() + problems.penalties[:, None, None])
        value, gradient = problems.value_and_gradient(w)
        return cls(problems, scale, w, value, gradient, [])

    def step(self) -> torch.Tensor:
        """One L-BFGS step for every problem, each halving its own step until its loss falls enough (Armijo).

        Returns the decrease (B,) that the quadratic model promised for it.
        """
        direction = self._direction()
        slope = _dot(direction, self.gradient)
        length = torch.ones_like(slope)
        for _ in range(12):
            w = self.w + length[:, None, None] * direction
            value, gradient = self.problems.value_and_gradient(w)
            worse = value > self.value + 1e-4 * length * slope + 1e-7 * self.value.abs()
            if not bool(worse.any()):
                break
            length = torch.where(worse, 0.5 * length, length)
        s, y = w - self.w, gradient - self.gradient
        curvature = _dot(s, y)
        # Without positive curvature (rounding, at convergence), or one too small for its inverse, the pair counts for nothing.
        inverse = 1.0 / curvature
        rho = torch.where((curvature > 1e-12 * _dot(y, y * self.scale)) & inverse.isfinite(), inverse, 0.0)
        self.pairs = [*self.pairs, (s, y, rho)][-MEMORY:]
        self.w, self.value, self.gradient = w, value, gradient
        return -0.5 * slope

    def _direction(self) -> torch.Tensor:
        q = self.gradient.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alpha = (rho * _dot(s, q))[:, None, None]
            q.addcmul_(alpha, y, value=-1)
            alphas.append(alpha)
        r = q * self.scale
        if self.pairs:
            s, y, rho = self.pairs[-1]
            gamma = 1.0 / (rho * _dot(y, y * self.scale))
            r.mul_(torch.where((rho > 0) & gamma.isfinite(), gamma, 1.0)[:, None, None])
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            r.addcmul_(s, alpha - (rho * _dot(y, r))[:, None, None])
        return r.neg_()

    def only(self, index: torch.Tensor) -> _State:
        pairs = [(s[index], y[index], rho[index]) for s, y, rho in self.pairs]
        return _State(
            self.problems.only(index),
            self.scale[index],
            self.w[index],
            self.value[index],
            self.gradient[index],
            pairs,
        )


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B,) of two (B, C, p). Large ones without their product in between: with many classes that took most of the time."""
    if a[0].numel() < WIDE:
        return (a * b).sum((1, 2))
    return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)])

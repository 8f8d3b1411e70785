"""How good a model is, with how sure we are of it, on labels it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson, 1927); (0, 1) where nothing was measured."""
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is no proportion")
    if n == 0:
        return 0.0, 1.0
    low, high = _wilson(np.array(correct), np.array(n), confidence)
    return (0.0 if correct == 0 else float(low)), (1.0 if correct == n else float(high))


def wilson_of(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The same of a share of `n` examples, of which n need not be whole."""
    low, high = _wilson(np.array(share * n), np.array(n), confidence)
    return max(0.0, float(low)), min(1.0, float(high))


def _wilson(correct: NDArray[Any], n: NDArray[Any], confidence: float) -> tuple[NDArray[Any], NDArray[Any]]:
    z = float(norm.ppf(0.5 + confidence / 2))
    share, spread = correct / n, z * z / n
    centre = share + spread / 2
    margin = z * np.sqrt(share * (1 - share) / n + spread / (4 * n))
    return (centre - margin) / (1 + spread), (centre + margin) / (1 + spread)


def significantly_worse(
    candidate_correct: NDArray[np.bool_], current_correct: NDArray[np.bool_], alpha: float = 0.05
) -> bool:
    """Whether the candidate is worse than the current model on the same examples, by McNemar's exact one-sided test.

    Only examples on which the two differ carry information; with few of them the answer is no.
    """
    if candidate_correct.shape != current_correct.shape:
        raise ValueError("both models must be judged on the same examples, in the same order")
    lost = int(np.sum(current_correct & ~candidate_correct))
    won = int(np.sum(candidate_correct & ~current_correct))
    if lost + won == 0:
        return False
    return bool(binomtest(lost, lost + won, 0.5, alternative="greater").pvalue < alpha)


def confidences(probabilities: NDArray[np.floating[Any]], *, multilabel: bool) -> NDArray[np.floating[Any]]:
    """(n,) confidence of (n, C) probabilities: the top class's; for several labels, the least certain class's."""
    if multilabel:
        return np.asarray(np.maximum(probabilities, 1 - probabilities).min(axis=1))
    return np.asarray(probabilities.max(axis=1))


def confident_from(confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], share: float) -> float | None:
    """Lowest confidence from which on guesses are right in at least `share` of cases; None where no such is known.

    confidence, correct: (n,) of guesses about examples the model had not seen. A share counts by the lower end of its
    90 % Wilson interval, so that one side of it is wrong in at most 5 %: a few right answers prove nothing.
    """
    if not len(confidence):
        return None
    order = np.argsort(-confidence, kind="stable")
    ordered, right = confidence[order], np.cumsum(correct[order])
    low, _ = _wilson(right, np.arange(1, len(order) + 1), 0.9)
    last_of_equals = np.append(ordered[1:] < ordered[:-1], True)
    enough = np.flatnonzero(last_of_equals & (low >= share))
    return float(ordered[enough[-1]]) if len(enough) else None


def decide(probabilities: NDArray[np.floating[Any]], *, multilabel: bool) -> NDArray[np.bool_]:
    """(n, C) bool: the most probable class, the first of equals; or every class of at least one half."""
    if multilabel:
        return np.asarray(probabilities >= 0.5)
    chosen = np.zeros(probabilities.shape, bool)
    chosen[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return chosen

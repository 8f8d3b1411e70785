"""The comparison as a table a person reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_backend.simulation.summary import NEVER, Reached, Runs, aulc, reached


def table(runs: Runs, targets: Sequence[float] = ()) -> str:
    """One line per strategy: mean accuracy (the area under the learning curve), accuracy and balanced accuracy at the end, labels to the targets and to random's final accuracy, seconds and peak memory.

    Targets: 90 % and 95 % of the accuracy with all labels, then `targets` as they are. In brackets the ratio to
    random's labels and its 95 % interval over the seeds; `<=` where random never gets there within the budget.
    """
    goals = [g for g in (0.90 * runs.full, 0.95 * runs.full) if np.isfinite(g)] + list(targets)
    heads = ["strategy", f"accuracy at {runs.labels[0]}", "mean accuracy", f"at {runs.labels[-1]}", "balanced"]
    heads += [f"labels to {goal:.1%}" for goal in goals]
    if "random" in runs.accuracy:
        heads.append("to match random")
    heads += ["s a query", "peak MB"]
    return _aligned([heads, *(_line(runs, name, goals) for name in runs.accuracy)])


def _line(runs: Runs, strategy: str, goals: Sequence[float]) -> list[str]:
    mean = runs.accuracy[strategy].mean(0)
    area, error = aulc(runs, strategy)
    cells = [strategy, f"{mean[0]:.3f}", f"{area:.4f} ±{error:.4f}", f"{mean[-1]:.4f}"]
    cells.append(f"{runs.balanced[strategy].mean(0)[-1]:.4f}")
    cells += [_reached(runs, reached(runs, strategy, goal), strategy) for goal in goals]
    if "random" in runs.accuracy:
        cells.append(_reached(runs, reached(runs, strategy, None), strategy))
    return [*cells, f"{runs.seconds[strategy]:.3f}", f"{runs.megabytes[strategy]:.0f}"]


def _reached(runs: Runs, found: Reached, strategy: str) -> str:
    if found.labels == NEVER:
        return "never"
    if np.isnan(found.ratio) or strategy == "random":
        return f"{found.labels:.0f}"
    bound = "" if runs.accuracy["random"].mean(0).max() >= found.target else "<="
    high = "never" if found.high == NEVER else f"{found.high:.2f}"
    return f"{found.labels:.0f} ({bound}{found.ratio:.2f}, {found.low:.2f}-{high})"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])

"""Accuracy against labels, a line and a band for each strategy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ml_backend.simulation.summary import Runs

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Okabe and Ito's, told apart by colour-blind eyes too."""
STYLES = ("-", "--", ":")


def draw(runs: Runs, title: str, base: Path) -> list[Path]:
    """Write `base`.png and `base`.svg: mean over the seeds, band of one standard error to each side."""
    figure = Figure(figsize=(7.5, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for i, (strategy, curves) in enumerate(runs.accuracy.items()):
        mean = curves.mean(0)
        error = curves.std(0, ddof=1) / np.sqrt(len(curves)) if len(curves) > 1 else np.zeros_like(mean)
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
        axes.plot(runs.labels, mean, style, color=colour, label=strategy, linewidth=1.6)
        axes.fill_between(runs.labels, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    if np.isfinite(runs.full):
        axes.axhline(runs.full, color="0.5", linewidth=0.8, linestyle="--", label=f"all labels, {runs.full:.1%}")
    axes.set(xlabel="labels", ylabel="accuracy on the test set", title=f"{title} ({_seeds(runs)})")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    base.parent.mkdir(parents=True, exist_ok=True)
    paths = [base.with_name(f"{base.name}.png"), base.with_name(f"{base.name}.svg")]
    FigureCanvasAgg(figure).print_png(paths[0])
    FigureCanvasSVG(figure).print_svg(paths[1], metadata={"Date": None})
    return paths


def _seeds(runs: Runs) -> str:
    count = len(next(iter(runs.accuracy.values())))
    return f"{count} seed{'s' if count > 1 else ''}, band: one standard error"

"""One piece of selection work by one library, in a process of its own: prints seconds, peak memory and the picks as JSON.

Started by strategies.py, with the interpreter of the environment that has the library.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ml_backend.simulation.memory import peak_megabytes

Work = dict[str, Any]
Picks = Callable[[], Any]


class Fixed:
    """A classifier that answers with the probabilities it was given."""

    def __init__(self, probabilities: Any) -> None:
        self.probabilities = probabilities
        self.classes_ = np.arange(probabilities.shape[1])

    def fit(self, *_: Any) -> Fixed:
        return self

    def predict(self, x: Any) -> Any:
        return self.probabilities.argmax(1)

    def predict_proba(self, x: Any) -> Any:
        return self.probabilities


def ours(work: Work, name: str) -> Picks:
    import torch

    from ml_backend.records import Pool
    from ml_backend.strategies import STRATEGIES

    torch.set_num_threads(work["threads"])
    x, p = work["features"], work["probabilities"]
    rows = len(p)
    labelled = np.zeros(rows, dtype=bool)
    labelled[: work["labelled"]] = True
    pool = Pool(x, labelled, np.where(labelled, 0, -1), p.shape[1], np.arange(rows), p)
    return lambda: STRATEGIES[name](pool, work["count"], np.random.default_rng(0)).rows


def modal_margin(work: Work) -> Picks:
    from modAL.uncertainty import margin_sampling

    classifier = Fixed(work["probabilities"])
    return lambda: margin_sampling(classifier, work["probabilities"], n_instances=work["count"])[0]


def baal_margin(work: Work) -> Picks:
    from baal.active.heuristics import Margin

    return lambda: Margin()(work["probabilities"])[: work["count"]]


def cardinal_margin(work: Work) -> Picks:
    from cardinal.uncertainty import MarginSampler

    sampler = MarginSampler(Fixed(work["probabilities"]), work["count"])
    sampler.fit(work["probabilities"][:10], np.arange(10))
    return lambda: sampler.select_samples(work["probabilities"])


def skactiveml_margin(work: Work) -> Picks:
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import UncertaintySampling
    from sklearn.linear_model import LogisticRegression

    class Given(SklearnClassifier):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:  # noqa: N803 - its own name
            return work["probabilities"]

    classifier = Given(LogisticRegression(), classes=list(range(work["probabilities"].shape[1])))
    y = np.full(len(work["probabilities"]), np.nan)
    query = UncertaintySampling(method="margin_sampling", random_state=0)
    return lambda: query.query(work["probabilities"], y, classifier, fit_clf=False, batch_size=work["count"])


def smalltext_margin(work: Work) -> Picks:
    from small_text.query_strategies.strategies import BreakingTies

    rows = np.arange(len(work["probabilities"]))
    nothing = np.empty(0, dtype=int)
    return lambda: BreakingTies().query(
        Fixed(work["probabilities"]), work["probabilities"], rows, nothing, nothing, n=work["count"]
    )


def skactiveml_kcenter(work: Work) -> Picks:
    from skactiveml.pool import CoreSet

    y = np.full(len(work["features"]), np.nan)
    y[: work["labelled"]] = 0
    return lambda: CoreSet(random_state=0).query(work["features"], y, batch_size=work["count"])


def smalltext_kcenter(work: Work) -> Picks:
    from small_text.query_strategies.coresets import greedy_coreset

    rows = np.arange(len(work["features"]))
    known = work["labelled"]
    return lambda: greedy_coreset(
        work["features"], rows[known:], rows[:known], work["count"], distance_metric="euclidean", normalized=True
    )


def skactiveml_badge(work: Work) -> Picks:
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import Badge
    from sklearn.linear_model import LogisticRegression

    class Given(SklearnClassifier):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:  # noqa: N803 - its own name
            return work["probabilities"][-len(X) :]

    classifier = Given(LogisticRegression(), classes=list(range(work["probabilities"].shape[1])))
    y = np.full(len(work["features"]), np.nan)
    y[: work["labelled"]] = 0
    query = Badge(random_state=0)
    return lambda: query.query(work["features"], y, classifier, fit_clf=False, batch_size=work["count"])


def skactiveml_typiclust(work: Work) -> Picks:
    from skactiveml.pool import TypiClust

    y = np.full(len(work["features"]), np.nan)
    return lambda: TypiClust(random_state=0).query(work["features"], y, batch_size=work["count"])


PEERS: dict[str, Callable[[Work], Picks]] = {
    name: function
    for name, function in globals().items()
    if name.split("_")[0] in {"modal", "baal", "cardinal", "skactiveml", "smalltext"}
}


def main() -> int:
    library, task, folder, options = sys.argv[1:5]
    work: Work = json.loads(options)
    mode = work.get("mmap")
    for name in ("features", "probabilities"):
        path = Path(folder) / f"{name}.npy"
        if path.exists():
            work[name] = np.load(path, mmap_mode="r" if mode and name == "features" else None)
    if "features" not in work:
        work["features"] = np.zeros((len(work["probabilities"]), 1), dtype=np.float16)
    pick = ours(work, task) if library == "ours" else PEERS[f"{library}_{task}"](work)
    seconds = []
    with peak_megabytes() as peak:
        for _ in range(work["repeats"]):
            started = time.perf_counter()
            rows = pick()
            seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": min(seconds), "megabytes": peak.megabytes, "rows": np.asarray(rows).ravel().tolist()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

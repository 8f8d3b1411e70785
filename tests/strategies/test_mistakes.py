"""Mistakes seen in other libraries, each with a test that would catch it here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_backend.records import Pool
from ml_backend.simulation.memory import peak_megabytes
from ml_backend.strategies import STRATEGIES, select
from ml_backend.strategies.badge import Gradients, draw
from ml_backend.strategies.candidates import View, candidates, covered, labels_per_class, top
from ml_backend.strategies.coverage import Cover, Kernel
from ml_backend.strategies.diversity import farthest_first
from ml_backend.strategies.rare import thresholds
from ml_backend.strategies.uncertainty import margins, two_largest
from tests.strategy_pools import pool_of, with_sure_rows

DOUBT = ("least_confidence", "margin", "entropy", "cluster_margin", "badge")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def a_late_row(pool: Pool) -> int:
    """An unlabelled row behind labelled ones: its position among the unlabelled is another number."""
    row = int(np.flatnonzero(~pool.labelled)[-3])
    assert pool.labelled[:row].sum() > 3
    return row


@pytest.mark.parametrize("name", DOUBT)
def test_the_one_doubtful_row_comes_first_by_its_row_number(name: str) -> None:
    """Wrong where pool positions and row numbers are mixed, signs are flipped or margins sorted the wrong way round."""
    pool = pool_of()
    row = a_late_row(pool)
    assert select(name, with_sure_rows(pool, row), 5, rng()).rows[0] == row


@pytest.mark.parametrize("name", ["least_confidence", "margin", "entropy"])
def test_higher_acquisition_means_more_doubt(name: str) -> None:
    pool = pool_of()
    ranking = select(name, pool, 108, rng(), suppress_duplicates=False)
    assert pool.probabilities is not None
    p = pool.probabilities[ranking.rows]
    doubt = {
        "least_confidence": 1 - p.max(1),
        "margin": 1 - np.diff(np.sort(p, axis=1)[:, -2:])[:, 0],
        "entropy": -(p * np.log(p)).sum(1),
    }[name]
    np.testing.assert_allclose(ranking.acquisition, doubt, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("count", [1, 2, 13])
def test_the_number_asked_for_is_not_ignored(name: str, count: int) -> None:
    assert len(select(name, pool_of(), count, rng()).rows) == count


def test_the_gradient_of_a_doubtful_row_is_larger_than_that_of_a_sure_one() -> None:
    """Without the one-hot label the norm of p x h falls with doubt, and BADGE asks what the model knows already."""
    pool = pool_of(labelled=0)
    p = np.full((120, 4), 0.0, dtype=np.float32)
    p[:, 0] = np.linspace(0.4, 1.0, 120)
    p[:, 1:] = (1 - p[:, :1]) / 3
    pool = replace(pool, probabilities=p)
    h = pool.features.astype(np.float32)
    norms = Gradients(pool, candidates(pool)).squared_norms()
    np.testing.assert_allclose(norms, ((p - np.eye(4)[0]) ** 2).sum(1) * (h**2).sum(1), rtol=1e-4, atol=1e-6)
    assert norms[0] > norms[60] > norms[119]


def test_gradient_distances_are_those_of_the_gradients_themselves() -> None:
    pool = pool_of(labelled=0)
    gradients = Gradients(pool, candidates(pool))
    assert pool.probabilities is not None
    a = pool.probabilities - np.eye(4)[pool.probabilities.argmax(1)]
    g = (a[:, :, None] * pool.features.astype(np.float32)[:, None, :]).reshape(120, -1)
    squared = np.full(120, np.inf, dtype=np.float32)
    gradients.nearer(squared, np.array([3, 50]))
    expected = ((g[:, None] - g[None, [3, 50]]) ** 2).sum(2).min(1)
    np.testing.assert_allclose(squared, expected, atol=1e-5)


def test_badge_draws_as_often_as_squared_distances_say() -> None:
    """The second pick of k-means++, drawn by rejection, against the exact chances."""
    pool = pool_of(rows=12, labelled=0, seed=4)
    squared = np.full(12, np.inf, dtype=np.float32)
    gradients = Gradients(pool, candidates(pool))
    first = int(gradients.squared_norms().argmax())
    gradients.nearer(squared, np.array([first]))
    squared[first] = 0
    third = np.zeros(12)
    for second in range(12):
        after = squared.copy()
        gradients.nearer(after, np.array([second]))
        after[[first, second]] = 0
        third += squared[second] / squared.sum() * after / after.sum()
    draws, generator = 1000, rng()
    drawn = np.bincount([draw(gradients, 3, generator)[0][2] for _ in range(draws)], minlength=12)
    assert drawn[first] == 0
    spread = np.sqrt(draws * third * (1 - third))
    assert (np.abs(drawn - draws * third) <= 4 * spread + 1e-9).all()


@pytest.mark.parametrize("shortlist", [1, 3, 4096])
@pytest.mark.parametrize("start", [0, 12])
def test_farthest_first_is_the_plain_greedy_one(monkeypatch: pytest.MonkeyPatch, shortlist: int, start: int) -> None:
    monkeypatch.setattr("ml_backend.strategies.diversity.SHORTLIST", shortlist)
    pool = pool_of(rows=400, width=16, labelled=start)
    view, centers = candidates(pool), covered(pool)
    picked, distances = farthest_first(view, centers, 40)
    x = pool.features.astype(np.float64)
    if start:
        nearest = np.linalg.norm(x[view.rows][:, None] - x[centers.rows][None], axis=2).min(1)
    else:
        nearest = np.full(400, 1e6)
        nearest[np.linalg.norm(x - x.mean(0), axis=1).argmin()] = 1e7
    for pick, distance in zip(picked, distances, strict=True):
        assert pick == nearest.argmax()
        if nearest[pick] < 1e3:
            assert distance == pytest.approx(nearest[pick], abs=1e-5)
        nearest = np.minimum(nearest, np.linalg.norm(x[view.rows] - x[view.rows[pick]], axis=1))


def test_lazy_coverage_is_the_plain_greedy_one() -> None:
    x = torch.from_numpy(pool_of(rows=150).features.astype(np.float32))
    weights = torch.from_numpy(rng().random(150).astype(np.float32))
    merit = rng(1).random(150)
    kernel = Kernel(x)
    picked, gains = Cover(kernel, x, weights, torch.zeros(150), merit).grow(30)
    similar = np.exp(-kernel.gamma * ((x[:, None] - x[None]) ** 2).sum(2).numpy().astype(np.float64))
    covered = np.zeros(150)
    done: set[int] = set()
    for pick, gain in zip(picked, gains, strict=True):
        worth = (np.maximum(similar - covered, 0) @ weights.numpy()) * merit
        worth[list(done)] = -1
        assert worth[pick] == pytest.approx(worth.max(), rel=1e-5)
        assert gain == pytest.approx(worth.max(), rel=1e-4)
        covered = np.maximum(covered, similar[pick])
        done.add(int(pick))


def few_looks(values: np.ndarray, count: int) -> np.ndarray:  # type: ignore[type-arg]
    LOOKS.append(count)
    assert len(LOOKS) < 1000, "the search for the best row does not end"
    return top(values, count)


LOOKS: list[int] = []


@pytest.fixture
def _ends(monkeypatch: pytest.MonkeyPatch) -> None:
    LOOKS.clear()
    monkeypatch.setattr("ml_backend.strategies.coverage.top", few_looks)


@pytest.mark.usefixtures("_ends")
def test_a_probability_that_rounding_made_more_than_one_is_no_endless_search() -> None:
    """Its doubt is just below 0, of which there is no root."""
    pool = pool_of()
    assert pool.probabilities is not None
    pool.probabilities[a_late_row(pool)] = [1.0000002, 0, 0, 0]
    assert len(select("auto", pool, 20, rng()).rows) == 20


@pytest.mark.usefixtures("_ends")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["herding", "uherding", "auto"])
def test_a_feature_whose_square_is_no_number_is_no_endless_search(name: str) -> None:
    pool = pool_of()
    features = pool.features.astype(np.float32)
    features[a_late_row(pool), 0] = 1e30
    ranking = select(name, replace(pool, features=features), 20, rng())
    assert len(ranking.rows) == 20
    assert np.isfinite(ranking.acquisition).all()


def test_diversity_is_measured_between_features_not_probabilities() -> None:
    pool = pool_of(labelled=1)
    other = replace(pool, probabilities=rng(9).dirichlet(np.ones(4), 120).astype(np.float32))
    assert select("diversity", pool, 20, rng()).rows.tolist() == select("diversity", other, 20, rng()).rows.tolist()


@pytest.mark.parametrize("name", ["least_confidence", "entropy", "margin"])
def test_copies_of_the_most_doubtful_row_are_asked_once(name: str) -> None:
    pool = pool_of(labelled=0)
    row = 40
    sure = with_sure_rows(pool, row)
    assert sure.probabilities is not None
    sure.features[41:50] = sure.features[row]
    sure.probabilities[41:50] = sure.probabilities[row]
    rows = select(name, sure, 10, rng()).rows
    assert ((rows >= 40) & (rows < 50)).sum() == 1
    plain = select(name, sure, 10, rng(), suppress_duplicates=False).rows
    assert sorted(plain.tolist()) == list(range(40, 50))


def test_rare_asks_most_about_the_class_with_the_fewest_labels() -> None:
    pool = pool_of(rows=400, labelled=60)
    labels = np.where(pool.labelled, np.where(np.arange(400) % 12 == 0, 3, np.arange(400) % 3), -1)
    ranking = select("rare", replace(pool, labels=labels, class_names=("a", "b", "c", "d")), 20, rng())
    about = [reason.split(" of ")[1].split(" ")[0] for reason in ranking.reasons]
    assert max(set(about), key=about.count) == "d"


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_thresholds_of_rare_are_those_of_answers_not_of_other_picks(
    monkeypatch: pytest.MonkeyPatch, *, multilabel: bool
) -> None:
    """Asked again for what near-duplicates took away, it does not count what it picked as labelled none of the classes."""
    asked: list[list[float]] = []

    def noted(pool: Pool) -> np.ndarray:  # type: ignore[type-arg]
        found = thresholds(pool)
        asked.append(found.tolist())
        return found

    monkeypatch.setattr("ml_backend.strategies.rare.thresholds", noted)
    pool = pool_of(labelled=20, multilabel=multilabel)
    copied = np.arange(120) // 8 * 8
    assert pool.probabilities is not None
    pool = replace(pool, features=pool.features[copied], probabilities=pool.probabilities[copied])
    select("rare", pool, 8, rng())
    assert len(asked) > 1
    assert all(each == asked[0] for each in asked)


def test_every_label_of_an_image_counts_for_its_class() -> None:
    """With several labels an image `labels` holds only the first of them: class 3 would seem to have none."""
    pool = replace(pool_of(labelled=30, multilabel=True), class_names=("a", "b", "c", "d"))
    labels = np.where(pool.labelled, np.arange(120) % 3, -1)
    pairs = np.array([(row, c) for row in np.flatnonzero(pool.labelled) for c in {int(labels[row]), 3}])
    pool = replace(pool, labels=labels, pairs=pairs)
    assert labels_per_class(pool).tolist() == np.bincount(pairs[:, 1]).tolist()
    assert not any("threshold of d" in reason for reason in select("rare", pool, 6, rng()).reasons)


def test_a_large_pool_is_clustered_with_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two far-apart groups the one with labels is not asked again, although only a part of the rows is clustered."""
    monkeypatch.setattr("ml_backend.strategies.diversity.CLUSTER_ROWS", 40)
    pool = pool_of(rows=600, labelled=0)
    features = pool.features.astype(np.float32) * 0.01
    features[:300, 0], features[300:, 0] = 1, -1
    mask = np.zeros(600, dtype=bool)
    mask[[3, 70]] = True
    pool = replace(pool, features=features, labelled=mask, labels=np.where(mask, 0, -1))
    for seed in range(8):
        ranking = select("typiclust", pool, 1, rng(seed))
        assert ranking.reasons[0].endswith("with 0 answers")
        assert ranking.rows[0] >= 300


def test_random_draws_copies_as_often_as_anything_else() -> None:
    """As the baseline, and as the arm that random choice is measured by, it must not know what resembles what."""
    pool = pool_of(rows=100, labelled=0)
    pool.features[:80] = pool.features[0]
    pool = replace(pool, skipped=np.arange(100) == 0)
    counts = [(select("random", pool, 20, rng(seed)).rows < 80).sum() for seed in range(200)]
    assert np.mean(counts) == pytest.approx(20 * 79 / 99, abs=4 * 1.7 / np.sqrt(200))


def test_two_largest_agree_with_a_sort_for_few_and_for_many_classes() -> None:
    for classes in (2, 3, 10, 200):
        p = rng().dirichlet(np.ones(classes), 50).astype(np.float32)
        p[0] = 1 / classes
        first, second = two_largest(p)
        expected = np.sort(p, axis=1)
        np.testing.assert_array_equal(first, expected[:, -1])
        np.testing.assert_array_equal(second, expected[:, -2])


def test_multilabel_doubt_is_about_one_class_at_a_time() -> None:
    pool = pool_of(multilabel=True)
    assert pool.probabilities is not None
    pool.probabilities[:] = [0.99, 0.98, 0.01, 0.02]
    row = a_late_row(pool)
    pool.probabilities[row] = [0.99, 0.52, 0.01, 0.02]
    for name in ("margin", "entropy", "least_confidence", "badge", "cluster_margin"):
        ranking = select(name, replace(pool, class_names=("cat", "dog", "fox", "cow")), 3, rng())
        assert ranking.rows[0] == row
        assert name == "least_confidence" or "dog" in ranking.reasons[0]
    assert margins(pool, np.array([row]))[0] == pytest.approx(0.04, abs=1e-6)


def test_reasons_name_the_classes() -> None:
    pool = with_sure_rows(pool_of(), 5)
    pool.labelled[5] = False
    assert select("margin", pool, 1, rng()).reasons == ("between 1 and 2, margin 0.00",)
    named = replace(pool, class_names=("ant", "bee", "cat", "dog"))
    assert select("margin", named, 1, rng()).reasons == ("between bee and cat, margin 0.00",)


def test_equal_values_are_decided_by_the_lower_position() -> None:
    assert top(np.array([1.0, 3.0, 3.0, 2.0, 3.0]), 2).tolist() == [1, 2]
    assert top(np.array([1.0, 3.0]), 5).tolist() == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["margin", "diversity", "badge", "cluster_margin", "uherding", "herding"])
def test_memory_grows_neither_with_batch_times_pool_nor_with_the_features(name: str, tmp_path: Path) -> None:
    """200,000 x 128 float16 on disk: 51 MB mapped; a table of batch x pool would be 160 MB more."""
    features = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        tmp_path / "f.npy", "w+", np.float16, (200_000, 128)
    )
    features[:] = rng().standard_normal(features.shape, dtype=np.float32) / 11
    pool = pool_of(rows=200_000, classes=10, width=1, labelled=50)
    pool = replace(pool, features=np.load(tmp_path / "f.npy", mmap_mode="r"))
    select(name, pool, 10, rng())
    with peak_megabytes() as peak:
        select(name, pool, 200, rng())
    assert not peak.megabytes > 51 + 90


def test_a_view_reads_the_rows_it_is_told_in_chunks() -> None:
    x = rng().standard_normal((50, 8)).astype(np.float16)
    rows = np.array([3, 4, 5, 9, 30, 2])
    view = View(x, rows)
    read = torch.cat([block for _, block in view.chunks(extra_columns=1 << 22)])
    np.testing.assert_array_equal(read.numpy(), x[rows].astype(np.float32))

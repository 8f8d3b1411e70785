"""What answers for held-out images has learned from none of its fold; the served head learns from all."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ml_backend.learning.fold_heads import FILE, FoldHeads, blind_head
from ml_backend.learning.logistic import Problems, solve
from ml_backend.learning.mixture import Mixture
from ml_backend.learning.neighbours import AnchorGraph, NeighbourGraph
from ml_backend.learning.record import FOLDS, Record, fold_of, image_keys
from ml_backend.learning.spreading import Unlabelled, fit_spread_head
from ml_backend.learning.training import train_head
from ml_backend.simulation.data import digits
from ml_backend.split import place

NAMES = tuple("0123456789")
LABELLED = 400


@pytest.mark.parametrize("graph", [None, NeighbourGraph, AnchorGraph])
def test_a_fold_head_does_not_know_the_labels_of_its_fold(graph: type[NeighbourGraph | AnchorGraph] | None) -> None:
    """Labels at random: whatever had seen them, or what came of them, would be right more often than one in ten."""
    data = digits(0)
    everywhere = np.arange(len(data.features))
    at = np.sort(np.random.default_rng(0).choice(everywhere, LABELLED, replace=False))
    labels = np.random.default_rng(2).integers(10, size=LABELLED)
    pool = Unlabelled(graph.of(data.features, everywhere), data.features, everywhere, at) if graph else None
    fold = np.arange(LABELLED) % FOLDS
    trained = train_head(data.features[at], labels, NAMES, seed=0, pool=pool, apart=fold)
    images = fold.astype(np.uint64)
    asked = FoldHeads(trained.fold_heads).predict_proba(data.features[at], images).argmax(axis=1)
    assert (asked == labels).mean() < 0.15
    assert trained.report.fold_probabilities is not None
    assert (trained.report.fold_probabilities.argmax(axis=1) == asked).all(), "what is reported of them is by these"
    assert (trained.head.predict_proba(data.features[at]).argmax(axis=1) == labels).mean() > 0.15


@pytest.mark.parametrize("graph", [NeighbourGraph, AnchorGraph])
def test_nothing_of_a_fold_comes_back_to_its_head_from_the_neighbours(
    graph: type[NeighbourGraph | AnchorGraph],
) -> None:
    """The part that learns from the unlabelled by itself, as the mixture turns away from it where labels are at random."""
    data = digits(0)
    everywhere = np.arange(len(data.features))
    at = everywhere[:LABELLED]
    labels = torch.from_numpy(np.random.default_rng(2).integers(10, size=LABELLED))
    pool = Unlabelled(graph.of(data.features, everywhere), data.features, everywhere, at)
    folds, apart = everywhere[:LABELLED] % 4, everywhere[:LABELLED] % FOLDS
    targets = torch.eye(10)[:, labels]
    fitted = fit_spread_head(pool, targets, folds, apart, multilabel=False, seed=0)
    rows = torch.from_numpy(data.features[at]).float()
    asked = torch.einsum("nd,ncd->nc", rows, fitted.weight[1 + apart]) + fitted.bias[1 + apart]
    assert (asked.argmax(1) == labels).float().mean() < 0.15
    assert ((rows @ fitted.weight[0].T + fitted.bias[0]).argmax(1) == labels).float().mean() > 0.2


def test_a_fold_head_is_not_fitted_to_what_its_own_images_are_believed_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are answered better then than an image from elsewhere, though their labels are not known."""
    data = digits(0)
    everywhere = np.arange(len(data.features))
    weights: list[torch.Tensor] = []

    def spy(problems: Problems, **options: Any) -> torch.Tensor:
        weights.append(problems.weights)
        return solve(problems, **options)

    monkeypatch.setattr("ml_backend.learning.spreading.solve", spy)
    pool = Unlabelled(NeighbourGraph.of(data.features, everywhere), data.features, everywhere, everywhere[:60])
    apart = np.where(everywhere[:60] < 20, everywhere[:60] % FOLDS, -1)
    train_head(data.features[:60], data.labels[:60], NAMES, seed=0, pool=pool, apart=apart)
    blind, of_folds = (each[:, 0, :60] > 0 for each in weights[-2:])
    assert (of_folds.numpy() == (apart != np.arange(FOLDS)[:, None])).all()
    assert (blind.numpy()[0] == (apart < 0)).all()


def test_what_is_chosen_for_a_fold_head_is_chosen_without_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 40 labels, a quarter of them wrong, a penalty chosen on what it measures made the accuracy 1.4 points too high."""
    data = digits(0)
    rows: list[torch.Tensor] = []

    def spy(problem: Problems, of_folds: torch.Tensor, by: torch.Tensor) -> int:
        rows.append(by)
        return 0

    def mixture_spy(_alone: Any, _spread: Any, _targets: Any, by: torch.Tensor, *_: Any, **_by: bool) -> Mixture:
        rows.append(by)
        return Mixture(0.5, 1.0, 1.0)

    monkeypatch.setattr("ml_backend.learning.cross_validation.best_penalty", spy)
    monkeypatch.setattr("ml_backend.learning.mixture.Mixture.of", mixture_spy)
    everywhere = np.arange(len(data.features))
    pool = Unlabelled(NeighbourGraph.of(data.features, everywhere), data.features, everywhere, everywhere[:60])
    apart = np.where(everywhere[:60] < 20, everywhere[:60] % FOLDS, -1)
    train_head(data.features[:60], data.labels[:60], NAMES, seed=0, pool=pool, apart=apart)
    learned = [np.ones(60, np.bool_), *(apart != fold for fold in range(FOLDS)), apart < 0]
    assert [each.tolist() for each in rows] == [each.tolist() for each in learned * 2]


def test_a_fold_head_has_learned_from_all_other_labels() -> None:
    """A class that only held-out images of one fold have: all heads but that fold's, and the served one, know it."""
    data = digits(0)
    at = np.concatenate([np.flatnonzero(data.labels != 7)[:100], np.flatnonzero(data.labels == 7)[:20]])
    fold = np.repeat([-1, 3], [100, 20])
    trained = train_head(data.features[at], data.labels[at], NAMES, seed=0, apart=fold)
    sevens = data.test_features[data.test_labels == 7]
    shares = [(head.predict_proba(sevens).argmax(1) == 7).mean() for head in (trained.head, *trained.fold_heads)]
    assert min(shares[:4]) > 0.7
    assert shares[4] == 0
    assert shares[5] == shares[0]
    assert trained.blind is not None
    assert not (trained.blind.predict_proba(sevens).argmax(1) == 7).any()
    assert (trained.blind.predict_proba(data.test_features).argmax(1) == data.test_labels).mean() > 0.7


def test_with_several_labels_an_image_a_fold_head_does_not_know_those_of_its_fold() -> None:
    data = digits(0)
    everywhere = np.arange(len(data.features))
    at, given = everywhere[:200], np.random.default_rng(3).random((200, 6)) < 0.5
    pool = Unlabelled(NeighbourGraph.of(data.features, everywhere), data.features, everywhere, at)
    fold = np.arange(200) % FOLDS
    trained = train_head(data.features[at], given, tuple("abcdef"), seed=0, pool=pool, apart=fold)
    asked = FoldHeads(trained.fold_heads).predict_proba(data.features[at], fold.astype(np.uint64)) > 0.5
    assert (asked == given).mean() < 0.55


def test_where_nothing_is_held_out_the_served_head_is_all_there_is() -> None:
    data = digits(0)
    trained = train_head(data.features[:30], data.labels[:30], NAMES, seed=0, apart=np.full(30, -1))
    assert trained.fold_heads == ()
    assert trained.blind is trained.head


@pytest.mark.parametrize("held_out", [1, 4])
def test_where_hardly_anything_is_held_out_there_is_a_head_for_each_fold(held_out: int) -> None:
    data = digits(0)
    fold = np.where(np.arange(30) < held_out, np.arange(30) % FOLDS, -1)
    trained = train_head(data.features[:30], data.labels[:30], NAMES, seed=0, apart=fold)
    own = [np.array_equal(head.weight, trained.head.weight) for head in trained.fold_heads]
    assert own == [False] * held_out + [True] * (FOLDS - held_out)


def test_all_labels_in_one_fold_leave_its_head_without_any() -> None:
    data = digits(0)
    trained = train_head(data.features[:20], data.labels[:20], NAMES, seed=0, apart=np.full(20, 2))
    np.testing.assert_allclose(trained.fold_heads[2].predict_proba(data.features[:20]), 0.1, atol=1e-6)
    assert trained.blind is None


def test_the_fold_of_an_image_says_nothing_of_its_place_in_the_split() -> None:
    contents = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    places = np.array([place(each, 0) for each in contents])
    folds = fold_of(image_keys(np.array(contents, "S64")))
    assert np.bincount(folds, minlength=FOLDS).min() > 700
    assert max(abs(places[folds == number].mean() - 0.5) for number in range(FOLDS)) < 0.04


def test_they_are_kept_beside_the_head_and_read_back(tmp_path: Path) -> None:
    data = digits(0)
    trained = train_head(data.features[:50], data.labels[:50], NAMES, seed=0, apart=np.arange(50) % FOLDS)
    images = np.arange(9, dtype=np.uint64)
    trained.head.save(tmp_path)
    assert FoldHeads.load(tmp_path).heads[0].weight.tolist() == trained.head.weight.tolist(), "an earlier release"
    heads = FoldHeads(trained.fold_heads)
    heads.save(tmp_path)
    assert blind_head(tmp_path, trained.head) is None, "all labels are held out"
    before, after = (each.predict_proba(data.test_features[:9], images) for each in (heads, FoldHeads.load(tmp_path)))
    np.testing.assert_array_equal(before, after)


def test_damaged_ones_are_not_answered_for_by_the_served_head(tmp_path: Path) -> None:
    """It has learned from what they are asked about."""
    data = digits(0)
    trained = train_head(data.features[:50], data.labels[:50], NAMES, seed=0, apart=np.arange(50) % FOLDS)
    trained.head.save(tmp_path)
    FoldHeads(trained.fold_heads).save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    tensors = load_file(tmp_path / FILE)
    for damage in (whole[:-7], b"", b"{}"):
        (tmp_path / FILE).write_bytes(damage)
        with pytest.raises(ValueError, match=FILE):
            FoldHeads.load(tmp_path)
    weight, bias = tensors["weight"], tensors["bias"]
    numbers = (
        {"weight": weight.astype(np.float16), "bias": bias.astype(np.float16)},
        {"weight": weight, "bias": bias.astype(np.float64)},
        {"weight": np.full_like(weight, np.nan), "bias": bias},
        {"weight": weight, "bias": np.full_like(bias, np.inf)},
    )
    for wrong in ({"weight": weight}, tensors | {"weight": weight[:2]}, *numbers):
        save_file(wrong, tmp_path / FILE)
        with pytest.raises(ValueError, match=FILE):
            FoldHeads.load(tmp_path)


def test_the_head_that_strategies_ask_is_kept_with_them(tmp_path: Path) -> None:
    data = digits(0)
    trained = train_head(data.features[:50], data.labels[:50], NAMES, seed=0, apart=np.arange(50) % (FOLDS + 1) - 1)
    trained.head.save(tmp_path)
    assert blind_head(tmp_path, trained.head) is trained.head, "an earlier release"
    FoldHeads(trained.fold_heads, trained.blind).save(tmp_path)
    found = blind_head(tmp_path, trained.head)
    assert trained.blind is not None
    assert found is not None
    asked = data.test_features
    np.testing.assert_array_equal(found.predict_proba(asked), trained.blind.predict_proba(asked))
    assert not np.array_equal(found.weight, trained.head.weight)
    assert len(FoldHeads.load(tmp_path).heads) == FOLDS
    whole, tensors = (tmp_path / FILE).read_bytes(), load_file(tmp_path / FILE)
    for damage in (np.float16(tensors["blind_weight"]), np.full_like(tensors["blind_weight"], np.nan), np.eye(3)):
        save_file(tensors | {"blind_weight": damage}, tmp_path / FILE)
        asked_now = blind_head(tmp_path, trained.head)
        assert asked_now is not None
        assert np.array_equal(asked_now.weight, trained.head.weight), "nobody is kept waiting"
        assert len(FoldHeads.load(tmp_path).heads) == FOLDS, "and versions are compared"
    (tmp_path / FILE).write_bytes(whole[:-7])
    assert blind_head(tmp_path, trained.head) is trained.head


def test_a_model_without_them_answers_for_no_image_that_it_learned_from() -> None:
    images = np.arange(4, dtype=np.uint64)
    nothing = np.zeros(0, np.bool_)
    record = Record.of(images[:3], np.zeros(3, np.uint32), nothing, np.array([True, False, True]))
    head = train_head(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]), ("a", "b"), seed=0).head
    assert FoldHeads((head,)).unseen(record, images).tolist() == [False, False, False, True]
    assert FoldHeads((head,) * FOLDS).unseen(record, images).tolist() == [True, False, True, True]
    assert FoldHeads((head,)).unseen(None, images).all()

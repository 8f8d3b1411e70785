"""The label config, or the encoder, is changed while a project is labelled: by name everywhere, and no turn fails."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ml_backend.learning.head import Head
from ml_backend.manual_promotion import compare
from ml_backend.store.project_state import Advice
from tests.bench import KINDS, Bench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """40 labels, then 60, twenty of them held out."""
    made = Bench(tmp_path_factory.mktemp("two") / "data")
    made.label(*range(1, 41))
    made.turn()
    made.label(*range(41, 61))
    assert made.turn().version == 2
    made.services.database.close()
    return made


@pytest.fixture
def bench(two_versions: Bench, tmp_path: Path) -> Iterator[Bench]:
    twin = two_versions.copied(tmp_path / "data")
    yield twin
    twin.services.database.close()


def right(bench: Bench) -> float:
    guesses = bench.guesses()
    assert len(guesses) > 85
    return float(np.mean([guesses[i] == bench.truth[i] for i in guesses]))


def test_a_head_answers_by_name_whatever_the_order() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    head = Head(("cat", "dog", "owl"), rows[:3].copy(), rows[3, :3].copy(), 2.0)
    before = head.predict_proba(rows)
    turned = head.named(("owl", "bat", "cat")).predict_proba(rows)
    assert (turned[:, 1] == 0).all(), "what it does not know"
    kept = before[:, [2, 0]]
    assert turned[:, [0, 2]] == pytest.approx(kept / kept.sum(axis=1, keepdims=True), abs=1e-6), (
        "what is left, renormalised"
    )
    several = Head(head.classes, head.weight, head.bias, 2.0, multilabel=True)
    asked = several.named(("owl", "bat", "cat")).predict_proba(rows)
    assert asked == pytest.approx(np.insert(several.predict_proba(rows)[:, [2, 0]], 1, 0, axis=1), abs=1e-6)
    with pytest.raises(ValueError, match="none of"):
        head.named(("bat", "fox"))


def test_under_reordered_choices_a_pinned_version_guesses_right(bench: Bench) -> None:
    bench.services.versions.pin(bench.project, 1)
    before = right(bench)
    assert before > 0.9
    bench.configure(KINDS[::-1])
    assert right(bench) == before, "at once"
    for _ in range(2):
        outcome = bench.turn()
        assert (outcome.version, outcome.round is None) == (1, False)
        queries = bench.services.ledger.queries(outcome.round)  # type: ignore[arg-type]
        bench.label(*(query.task_id for query in queries))
    assert sum(query.prediction == (bench.truth[query.task_id],) for query in queries) >= len(queries) - 1


@pytest.mark.parametrize(
    "kinds",
    [KINDS[::-1], (*KINDS, "fox"), KINDS[:2], ("cat", "hound", "owl")],
    ids=["order", "added", "removed", "renamed"],
)
def test_a_changed_label_config_is_trained_on_at_the_next_turn(bench: Bench, kinds: tuple[str, ...]) -> None:
    bench.configure(kinds)
    assert bench.turn().version == 3
    assert bench.versions[0].meta.classes == list(kinds)
    assert bench.turn().version == 3, "once"


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("multiple", [False, True])
def test_a_choice_added_to_either_kind_of_project_fails_no_turn(tmp_path: Path, multiple: bool, pinned: bool) -> None:
    bench = Bench(tmp_path, multiple=multiple)
    bench.label(*range(1, 61))
    bench.turn()
    if pinned:
        bench.services.versions.pin(bench.project, 1)
    bench.configure((*KINDS, "fox"), multiple=multiple)
    bench.label(*range(61, 71), as_="fox")
    assert bench.turn().version == (1 if pinned else 2)
    assert len(bench.guesses()) > 85
    bench.services.database.close()


def advice(bench: Bench) -> Advice:
    assert bench.project.state.advice is not None
    return bench.project.state.advice


def test_advice_begins_anew_with_other_labels(bench: Bench) -> None:
    bench.configure((*KINDS, "fox"))
    assert bench.turn().version == 3
    assert advice(bench).kappa == []


@pytest.mark.slow
@pytest.mark.parametrize("multiple", [False, True])
def test_one_label_an_image_becomes_several_and_back(tmp_path: Path, multiple: bool) -> None:
    bench = Bench(tmp_path, multiple=multiple)
    bench.label(*range(1, 61))
    bench.turn()
    bench.services.versions.pin(bench.project, 1)
    bench.configure(KINDS, multiple=not multiple)
    assert bench.guesses() == {}, "v1 cannot answer this question"
    bench.turn()
    assert any("pinned" in problem for problem in bench.services.status.of(bench.project)["problems"])
    bench.services.versions.unpin(bench.project)
    assert bench.turn().version == 2
    assert right(bench) > 0.9
    bench.services.database.close()


@pytest.mark.slow
def test_labels_that_nobody_has_answered_with_leave_no_guess_and_fail_no_turn(bench: Bench) -> None:
    for pinned in (False, True):
        if pinned:
            bench.services.versions.pin(bench.project, 2)
        bench.configure(("oak", "elm"))
        assert bench.turn().version == 0
        assert bench.guesses() == {}
        bench.label(*range(61, 81), as_="oak")
        bench.label(*range(81, 101), as_="elm")
        assert bench.turn().version == (0 if pinned else 3)
        bench.configure(KINDS)
        bench.label(*range(61, 101))
        bench.turn()
        assert right(bench) > 0.9, "brought back"


def test_a_version_of_other_labels_ticks_nothing_it_is_not_sure_to_know(bench: Bench) -> None:
    bench.services.versions.pin(bench.project, 2)
    model = bench.services.predictor.current(bench.project)
    assert model is not None
    assert model.confident_from is not None
    bench.configure(("cat", "dog", "raven"))
    model = bench.services.predictor.current(bench.project)
    assert model is not None
    assert model.confident_from is None
    assert "owl" not in bench.guesses().values()


def test_a_changed_encoder_fails_no_turn_and_each_version_is_asked_in_its_own_vectors(bench: Bench) -> None:
    before = advice(bench)
    assert len(before.kappa) == 1
    bench.set(encoder="tests.bench:Wider", allowed_encoders=("tests.bench:Blobs",))
    for labels in (70, 80):
        bench.label(*range(61, labels + 1))
        bench.turn()
    after = advice(bench)
    assert (after.version, len(after.kappa)) == (4, 3)
    assert min(after.kappa) > 0.8, "two encoders, and nearly the same answers"
    assert right(bench) > 0.9


def test_advice_that_cannot_be_given_fails_no_turn_and_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.steps.advise.Advisor._doubt", lambda *_: 1 / 0)
    bench.label(*range(61, 81))
    assert bench.turn().version == 3
    assert "no advice on v3" in caplog.text


def test_a_roll_back_and_then_another_label_config_fails_no_turn(bench: Bench) -> None:
    bench.services.versions.roll_back(bench.project)
    assert bench.turn().version == 1
    bench.configure(("cat", "dog", "raven"))
    outcome = bench.turn()
    assert outcome.version == 3
    assert outcome.round is not None
    guesses = {name for query in bench.services.ledger.queries(outcome.round) for name in query.prediction}
    assert "owl" not in guesses
    bench.services.versions.roll_back(bench.project)
    outcome = bench.turn()
    assert (outcome.version, outcome.round.params["labels"]) == (1, ["cat", "dog", "raven"])  # type: ignore[union-attr]
    guesses = {name for query in bench.services.ledger.queries(outcome.round) for name in query.prediction}  # type: ignore[arg-type]
    assert "owl" not in guesses


def test_versions_of_the_same_labels_are_compared_whatever_their_order_and_others_are_not(bench: Bench) -> None:
    bench.configure(KINDS[::-1])
    bench.turn()
    first, third = (bench.services.versions.version(bench.project, number) for number in (1, 3))
    services = bench.services
    compared = partial(compare, predictor=services.predictor, alpha=0.05)
    comparison = compared(bench.project, first, third)
    assert [m["n"] for m in comparison.measured] == [20, 20], comparison.verdict
    bench.configure(KINDS[:2])
    assert "other labels" in compared(bench.project, first, third).verdict


def test_a_former_version_is_exported_as_it_was_trained(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.learning.export_formats._compare", lambda *_: 0.0)
    monkeypatch.setattr("ml_backend.exports.model_files.sample_images", lambda *_: ["an image"])
    bench.configure(("oak", "elm"))
    version = bench.services.versions.version(bench.project, 1)
    bench.services.model_exporter.save(bench.project, version, "bundle", tmp_path / "v1")
    assert Head.load(tmp_path / "v1").classes == KINDS

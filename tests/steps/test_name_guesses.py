"""From the names alone: guesses before the first label, which labels correct, and which are evidence of nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.store.version_meta import FROM_NAMES
from tests.bench import without_label_studio
from tests.named_digits import NUMBERS, NamedDigits, Reader


@pytest.fixture
def digits(tmp_path: Path) -> NamedDigits:
    return NamedDigits(tmp_path)


def test_names_alone_give_guesses_before_the_first_label(digits: NamedDigits) -> None:
    digits.turn()
    (version,) = digits.versions
    assert (version.meta.mode, version.meta.labels, version.state) == (FROM_NAMES, 0, "promoted")
    assert digits.accuracy() >= 0.1 + 0.3


def test_such_guesses_are_hardly_surer_than_chance_and_none_is_ticked(digits: NamedDigits) -> None:
    digits.turn()
    tasks = [{"id": i, "data": {"image": f"/{i}.png"}} for i in digits.ids]
    assert not any(told["result"] for told in digits.services.predictor.predict(digits.project, tasks))
    queries = digits.services.ledger.queries(digits.services.ledger.last_round(digits.project))  # type: ignore[arg-type]
    confidences = [query.confidence for query in queries if query.confidence is not None]
    assert 0.1 < np.mean(confidences) < 0.25


def test_what_is_asked_first_is_what_would_be_asked_without_names(tmp_path: Path) -> None:
    asked = []
    for wanted in ("yes", "no"):
        digits = NamedDigits(tmp_path / wanted)
        digits.set(start_from_names=wanted)
        digits.turn()
        last = digits.services.ledger.last_round(digits.project)
        assert last is not None
        asked.append([(query.task_id, query.reason) for query in digits.services.ledger.queries(last)])
    assert asked[0] == asked[1]


def test_no_held_out_image_is_guessed_whatever_is_asked_for(digits: NamedDigits) -> None:
    digits.set(prelabels="always")
    digits.turn()
    assert set(digits.guesses()) == set(digits.ids[20:])
    queries = digits.services.ledger.queries(digits.services.ledger.last_round(digits.project))  # type: ignore[arg-type]
    assert {query.prediction for query in queries if query.arm == "holdout"} == {()}


def test_the_first_version_that_learned_is_served_however_right_the_guesses_were(digits: NamedDigits) -> None:
    digits.turn()
    astray = {i: NUMBERS[(NUMBERS.index(digits.truth[i]) + 1) % 10] for i in digits.ids[:60]}
    for task, name in astray.items():
        digits.label(task, as_=name)
    digits.turn()
    newest = digits.versions[0]
    assert (newest.number, newest.state, newest.meta.mode) == (2, "promoted", "head")


def test_labels_of_one_class_leave_the_guesses_as_they_are(digits: NamedDigits) -> None:
    digits.turn()
    digits.label(*[i for i in digits.ids[20:] if digits.truth[i] == "two"][:6])
    digits.turn()
    assert [version.number for version in digits.versions] == [1]
    digits.label(next(i for i in digits.ids[20:] if digits.truth[i] == "six"))
    digits.turn()
    assert [version.meta.mode for version in digits.versions] == ["head", FROM_NAMES]


def test_another_hint_or_one_class_more_makes_them_anew(digits: NamedDigits) -> None:
    digits.turn()
    digits.hints(two="a shape like a swan")
    digits.turn()
    assert any("a swan" in text for text in Reader.asked)
    digits.configure([*NUMBERS, "ten"])
    digits.turn()
    assert [version.meta.mode for version in digits.versions] == [FROM_NAMES] * 3
    assert digits.versions[0].meta.classes == [*NUMBERS, "ten"]


def test_another_hint_trains_anew_and_keeps_the_labels(digits: NamedDigits) -> None:
    digits.label(*digits.ids[20:40])
    digits.turn()
    digits.turn()
    assert len(digits.versions) == 1
    digits.hints(two="a shape like a swan")
    digits.turn()
    assert [version.meta.labels for version in digits.versions] == [20, 20]


def test_guesses_that_cannot_be_asked_are_not_made_again_every_turn(digits: NamedDigits) -> None:
    digits.turn()
    (digits.versions[0].folder / "head.json").write_text("[]")
    digits.services.predictor._models.clear()
    digits.turn()
    digits.turn()
    assert len(digits.versions) == 1


def test_another_question_makes_them_anew(digits: NamedDigits) -> None:
    digits.turn()
    digits.configure(NUMBERS, multiple=True)
    digits.turn()
    assert [version.meta.multiple for version in digits.versions] == [True, False]


def test_a_version_that_is_pinned_stays(digits: NamedDigits) -> None:
    digits.turn()
    digits.services.versions.pin(digits.project, 1)
    digits.hints(two="a shape like a swan")
    digits.turn()
    assert len(digits.versions) == 1


def test_a_turn_that_is_cancelled_in_the_middle_of_the_sentences_leaves_nothing(digits: NamedDigits) -> None:
    class CancelledError(Exception):
        pass

    def cancel(_share: float, doing: str) -> None:
        if "sentences" in doing:
            raise CancelledError

    corpus = digits.corpus()
    with pytest.raises(CancelledError):
        digits.services.trainer.train(digits.project, corpus, cancel)
    assert not digits.versions
    assert digits.project.state.names_problem is None


def test_a_damaged_file_of_what_names_mean_is_made_anew(digits: NamedDigits) -> None:
    digits.turn()
    asked = len(Reader.asked)
    for damage in (b"", b"{" * 100, b"\0" * 9_000):
        digits.services.name_files.path(digits.project.id).write_bytes(damage)
        assert digits.services.names.of(digits.project, digits.corpus()) is not None
    assert len(Reader.asked) == 4 * asked


def test_what_names_mean_is_asked_once(digits: NamedDigits) -> None:
    digits.turn()
    asked = len(Reader.asked)
    assert len(set(Reader.asked)) == asked
    digits.label(*digits.ids[20:40])
    digits.turn()
    assert len(Reader.asked) == asked


def test_a_text_side_that_fails_is_told_and_all_else_goes_on(digits: NamedDigits) -> None:
    Reader.fails = "no tokenizer"
    digits.turn()
    assert not digits.versions
    (told,) = (each for each in digits.services.status.of(digits.project)["problems"] if "no tokenizer" in each)
    assert "ML_BACKEND_START_FROM_NAMES=no" in told
    digits.label(*digits.ids[20:40])
    digits.turn()
    assert [version.meta.mode for version in digits.versions] == ["head"]
    Reader.fails = ""
    digits.turn()
    assert not [each for each in digits.services.status.of(digits.project)["problems"] if "no tokenizer" in each]


def test_where_it_is_not_wanted_nothing_is_asked(digits: NamedDigits) -> None:
    digits.set(start_from_names="no")
    digits.turn()
    assert not digits.versions
    assert not Reader.asked


def test_nothing_that_was_only_guessed_can_be_accepted(digits: NamedDigits) -> None:
    digits.turn()
    with without_label_studio(digits), pytest.raises(InvalidInputError, match="has learned from no label"):
        digits.services.project_rest.plan(digits.project, [0.02], 0.95)


def test_the_status_says_that_no_label_has_taught_it(digits: NamedDigits) -> None:
    digits.turn()
    version = digits.services.status.of(digits.project)["version"]
    assert "guesses from the class names" in version["from_names_in_words"]
    digits.label(*digits.ids[20:40])
    digits.turn()
    assert digits.services.status.of(digits.project)["version"]["from_names_in_words"] is None


def test_several_labels_an_image_are_guessed_each_by_itself(tmp_path: Path) -> None:
    digits = NamedDigits(tmp_path, multiple=True)
    digits.turn()
    model = digits.services.predictor.current(digits.project)
    assert model is not None
    found = model.head.predict_proba(digits.rows[300:])
    assert model.head.multilabel
    assert 0.5 < np.maximum(found, 1 - found).mean() < 0.6
    assert (found.argmax(1) == digits.digits[300:]).mean() > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("lies", [False, True])
def test_after_fifty_labels_names_have_not_made_it_worse(tmp_path: Path, *, lies: bool) -> None:
    """Over five draws of projects and labels, on a thousand images; also where every name means another digit."""
    gains = []
    for seed in range(5):
        reached = []
        for wanted in ("yes", "no"):
            digits = NamedDigits(tmp_path / f"{seed}{wanted}", seed=seed, lies=lies)
            digits.set(start_from_names=wanted)
            digits.label(*digits.ids[10:60])
            digits.turn()
            reached.append(digits.accuracy())
        gains.append(reached[0] - reached[1])
    assert np.mean(gains) >= -0.005, gains


def test_a_project_of_a_thousand_classes_starts_from_names(tmp_path: Path) -> None:
    names = [*NUMBERS, *(f"kind_{number}" for number in range(990))]
    digits = NamedDigits(tmp_path, names=names)
    digits.turn()
    assert digits.versions[0].meta.mode == FROM_NAMES
    assert digits.accuracy() > 0.3

"""Advice over the turns: what is compared with what, and what keeps it silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.commands.sync import _status_text
from ml_backend.store.project_state import Advice
from tests.bench import Bench

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, tasks=200, measured=40)
    yield made
    made.services.database.close()


def advice(bench: Bench) -> Advice:
    assert bench.project.state.advice is not None
    return bench.project.state.advice


def labelled(bench: Bench, *upto: int) -> Advice:
    """Label up to each of these tasks, the held-out ones first, and run a turn each time."""
    for last in upto:
        bench.label(*range(1, last + 1))
        bench.turn()
    return advice(bench)


def test_versions_are_compared_once_there_are_a_tenth_more_labels(bench: Bench) -> None:
    first = labelled(bench, 100)
    same = labelled(bench, 102, 105)
    assert (same.version, same.latest, same.kappa) == (first.version, first.latest + 2, [])
    grown = labelled(bench, 120)
    assert (grown.version, len(grown.kappa)) == (grown.latest, 1)


def test_a_stable_model_of_known_balance_is_enough(bench: Bench) -> None:
    found = labelled(bench, 100, 120, 140, 165)
    assert min(found.kappa) > 0.99
    assert found.stop
    assert "more labels will change little" in found.stopping


def test_a_choice_that_nobody_has_given_yet_keeps_the_advice_back(bench: Bench) -> None:
    bench.configure(("cat", "dog", "owl", "fox"))
    found = labelled(bench, 100, 120, 140, 165)
    assert min(found.kappa) > 0.99
    assert not found.stop
    assert "no image is labelled 'fox'" in found.stopping


def test_the_version_that_is_compared_with_is_kept_however_many_come_after_it(bench: Bench) -> None:
    bench.set(keep_versions=2)
    labelled(bench, 100, *range(101, 105))
    kept = advice(bench)
    assert kept.version == 1
    assert len(labelled(bench, 120).kappa) == 1


def test_the_status_says_what_is_advised(bench: Bench) -> None:
    labelled(bench, 100)
    text = _status_text(bench.services.status.of(bench.project), "the store")  # type: ignore[arg-type]
    assert "  stop       too early to say: there is no second model" in text


def test_advice_of_an_earlier_release_does_not_stand(bench: Bench) -> None:
    """It was given on models a few labels apart, without a look at what is known of them."""
    labelled(bench, 100)
    former = {
        "version": 1,
        "kappa": [0.995, 0.995, 0.995],
        "stop": True,
        "stopping": "enough",
        "saved": "at least 1,800 labels saved",
    }
    bench.services.ledger.configure(bench.project, advice=Advice.model_validate(former))
    assert bench.turn().version == 1, "nothing is trained"
    found = advice(bench)
    assert (found.version, found.latest, list(found.kappa), found.stop) == (1, 1, [], False)
    assert "saved" not in found.as_json()
    assert len(labelled(bench, 120).kappa) == 1

"""Whether the model agrees with a label, asked of what has not learned from it, and of which tasks nothing is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.encoders.encoder import build_encoder
from ml_backend.errors import NotFoundError
from ml_backend.learning.record import Record
from ml_backend.learning.training import TrainedHead, train_head
from ml_backend.opinions import GUESS, KEPT, NOTHING, RIGHT, WRONG, Opinions, stays_blind
from ml_backend.project_encoders import ProjectEncoders
from ml_backend.records import BLIND, Query
from ml_backend.steps.corpus import Corpus
from ml_backend.steps.encode_images import corpus_of
from ml_backend.store.model_versions import Versions
from tests.bench import KINDS, Bench, Wider, without_label_studio

HELD_OUT = 20


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data", measured=HELD_OUT)
    yield made
    made.services.database.close()


def opinions(bench: Bench) -> Opinions:
    return bench.services.field_writer.judge.opinions(bench.project)


def status(bench: Bench, *tasks: int) -> list[int]:
    said = opinions(bench)
    return [int(said.status[np.searchsorted(said.ids, task)]) for task in tasks]


def guess(said: Opinions, task: int) -> str:
    return str(said.texts[said.guess[np.searchsorted(said.ids, task)]])


def other(bench: Bench, task: int) -> str:
    return KINDS[(KINDS.index(bench.truth[task]) + 1) % len(KINDS)]


def test_a_wrong_label_is_doubted_although_the_model_has_learned_from_it(bench: Bench) -> None:
    bench.label(*range(1, 81))
    for task in (30, 45, 60):
        bench.label(task, as_=other(bench, task))
    bench.turn()
    said = opinions(bench)
    assert status(bench, 30, 45, 60) == [WRONG] * 3
    assert [guess(said, task) for task in (30, 45, 60)] == [bench.truth[task] for task in (30, 45, 60)]
    assert np.mean(said.status[HELD_OUT:80] == RIGHT) > 0.85
    assert {guess(said, int(i)) for i in said.ids[said.status == RIGHT]} <= set(KINDS)


def test_a_label_does_not_speak_for_itself_however_odd_its_image_is(bench: Bench) -> None:
    """With random labels half of three kinds agree by chance alone; a head that had learned them would agree with more."""
    rng = np.random.default_rng(0)
    bench.label(*range(1, 81))
    for task in range(HELD_OUT + 1, 81):
        bench.label(task, as_=str(rng.choice(KINDS)))
    bench.turn()
    said = opinions(bench)
    learned = said.status[HELD_OUT:80]
    assert np.mean(learned == RIGHT) < 0.55


def test_copies_of_an_image_do_not_speak_for_each_others_labels(bench: Bench) -> None:
    """They are so many that whoever had learned from some of them would agree with the others."""
    copies = range(30, 56)
    bench.services.ledger.set_content_hash(bench.project, dict.fromkeys(copies, bench.hash_of(30)))
    bench.label(*range(1, 81))
    bench.label(*copies, as_=other(bench, 30))
    bench.turn()
    assert status(bench, *copies) == [WRONG] * len(copies)


def test_of_a_held_out_image_nothing_is_said_labelled_or_not(bench: Bench) -> None:
    bench.label(*range(4, 81))
    bench.label(5, as_=other(bench, 5))
    bench.turn()
    assert status(bench, *range(1, HELD_OUT + 1)) == [NOTHING] * HELD_OUT


def test_a_label_that_came_after_the_training_is_judged_by_the_version_in_service(bench: Bench) -> None:
    bench.label(*range(1, 61))
    bench.turn()
    bench.label(70)
    bench.label(71, as_=other(bench, 71))
    with without_label_studio(bench):
        bench.services.label_sync.sync(bench.project, full=False)
    assert status(bench, 70, 71) == [RIGHT, WRONG]


def test_what_is_held_out_is_blind_in_whatever_queue(bench: Bench) -> None:
    bench.label(*range(4, 61))
    bench.turn()
    rows = bench.services.ledger.pool(bench.project)
    assert rows.ids[stays_blind(rows, ())].tolist() == list(range(1, HELD_OUT + 1))


def test_of_a_label_that_no_other_image_has_nothing_is_said(bench: Bench) -> None:
    bench.label(*(i for i in range(1, 81) if bench.truth[i] != "owl"))
    only = next(i for i in range(30, 81) if bench.truth[i] == "owl")
    bench.label(only)
    bench.turn()
    assert status(bench, only) == [NOTHING]


def test_what_opens_without_a_guess_keeps_what_it_has_while_it_is_in_the_queue(bench: Bench) -> None:
    bench.label(*range(1, 61))
    bench.set(prelabels="never")
    bench.turn()
    round_ = bench.services.ledger.current_round(bench.project)
    assert round_ is not None
    queued = [q.task_id for q in bench.services.ledger.queries(round_) if q.arm not in BLIND]
    said = opinions(bench)
    assert queued
    assert status(bench, *queued) == [KEPT] * len(queued)
    rest = [i for i in bench.ids[60:] if i not in queued]
    assert set(said.status[np.searchsorted(said.ids, rest)].tolist()) == {GUESS}


def test_a_task_of_a_blind_arm_stays_blind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_backend.opinions.BLIND", frozenset({"holdout", "random"}))
    bench.label(*range(1, 61))
    bench.turn()
    rows = bench.services.ledger.pool(bench.project)
    queries = [Query(task, rank, "random", 0.0, "") for rank, task in enumerate((50, 70, 71))]
    blind = rows.ids[stays_blind(rows, [*queries, replace(queries[0], task_id=80, arm="strategy")])]
    assert blind.tolist() == [*range(1, HELD_OUT + 1), 50, 70, 71]


def test_several_labels_an_image_are_judged_as_a_set(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", multiple=True)
    bench.label(*range(1, 81))
    bench.label(50, as_=other(bench, 50))
    bench.turn()
    said = opinions(bench)
    assert status(bench, 50, 51) == [WRONG, RIGHT]
    assert guess(said, 50) == bench.truth[50]
    bench.services.database.close()


def test_asked_twice_it_says_the_same(bench: Bench) -> None:
    bench.label(*range(1, 81))
    bench.turn()
    first, second = opinions(bench), opinions(bench)
    for name in ("status", "guess", "confidence"):
        assert (getattr(first, name) == getattr(second, name)).all()
    assert first.texts == second.texts
    assert 0 <= first.confidence.min() <= first.confidence.max() <= 99


def test_without_a_model_it_says_what_is_missing(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="label two images of different classes"):
        opinions(bench)


def test_a_label_that_the_network_learned_from_is_judged_on_vectors_of_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.label(*range(1, 81))
    bench.label(30, as_=other(bench, 30))
    bench.turn()
    judge, before = bench.services.field_writer.judge, build_encoder("tests.bench:Wider", sample=lambda _: [])
    tuned = replace(bench.versions[0], meta=bench.versions[0].meta.model_copy(update={"mode": "finetune"}))
    dims: list[int] = []

    def trained(features: np.ndarray[Any, Any], *given: Any, **more: Any) -> TrainedHead:
        dims.append(features.shape[1])
        return train_head(features, *given, **more)

    monkeypatch.setattr(Versions, "version", lambda *_: tuned)
    monkeypatch.setattr(ProjectEncoders, "of", lambda *_: before)
    monkeypatch.setattr("ml_backend.opinions.train_head", trained)
    said = judge.opinions(bench.project)
    assert dims == [Wider.dim]
    assert said.status[29] == WRONG


def test_what_the_imported_model_had_learned_from_it_is_not_asked_about(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.label(*range(1, 81))
    bench.turn()
    corpus = bench.corpus()
    learned = corpus.images(corpus.all_examples)[40:50]
    none = np.zeros(len(learned))
    seen = Record(np.sort(learned), none.astype(np.uint32), none.astype(np.int8), none.astype(np.uint8))

    def with_import(*given: Any) -> Corpus | None:
        found = corpus_of(*given)
        return found and replace(found, imported=seen)

    monkeypatch.setattr("ml_backend.opinions.corpus_of", with_import)
    judged = status(bench, *range(31, 61))
    assert judged[10:20] == [NOTHING] * 10
    assert NOTHING not in judged[:10] + judged[20:]


def test_a_version_of_an_earlier_release_judges_labels(bench: Bench) -> None:
    bench.label(*range(1, 81))
    bench.turn()
    folder = bench.services.versions.folder(bench.versions[0])
    for name in ("record.safetensors", "fold_heads.safetensors"):
        (folder / name).unlink()
    assert NOTHING not in status(bench, *range(HELD_OUT + 1, 81))

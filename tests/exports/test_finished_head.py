"""A head for export that learned from accepted labels, too: on request, of no held-out image, and of people's answers first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.exports import finished_head
from ml_backend.exports.finished_head import FinishedHead
from ml_backend.learning.export_formats import load_bundle
from ml_backend.learning.record import Record, image_keys
from tests.acceptance.audited import trained
from tests.bench import KINDS, Bench

CERTIFICATE = "0123456789ab"


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = trained(tmp_path_factory.mktemp("finished") / "data")
    yield made
    made.services.database.close()


def accept(bench: Bench, *tasks: int, as_: str | None = None) -> None:
    bench.label(*tasks, as_=as_)
    bench.accepted |= dict.fromkeys(tasks, CERTIFICATE)
    bench.turn()


def finished(bench: Bench) -> FinishedHead:
    return bench.services.model_exporter.finished(bench.project, bench.versions[0])


def learned(bench: Bench, record: Record, *tasks: int) -> list[bool]:
    hashes = np.array([bench.hash_of(task).encode() for task in tasks], "S64")
    return [bool(has) for has in record.has(image_keys(hashes))]


def test_it_learns_from_accepted_labels_and_the_version_does_not(bench: Bench) -> None:
    cats = [task for task in range(61, 401) if bench.truth[task] == "cat"]
    accept(bench, *cats, as_="dog")
    assert bench.versions[0].meta.labels == 60
    vectors = bench.corpus().vectors(np.array(cats) - 1)
    own = bench.services.predictor.stored(bench.project, bench.versions[0].number).head
    assert (own.predict_proba(vectors).argmax(1) == KINDS.index("cat")).mean() > 0.9
    head = finished(bench)
    assert (head.head.predict_proba(vectors).argmax(1) == KINDS.index("dog")).mean() > 0.9
    assert (head.people, head.accepted) == (60, len(cats))


def test_it_learns_from_no_accepted_label_of_a_held_out_image(bench: Bench) -> None:
    del bench.answers[1]  # one of those held out
    accept(bench, 1, 61, 62)
    head = finished(bench)
    assert (head.people, head.accepted) == (59, 2)
    assert learned(bench, head.record, 1, 2, 61, 62, 63) == [False, True, True, True, False]


def test_what_a_person_answers_since_counts_as_theirs(bench: Bench) -> None:
    accept(bench, 61, 62, as_="owl")
    del bench.accepted[61]
    bench.turn()
    head = finished(bench)
    assert (head.people, head.accepted) == (61, 1)


def test_of_many_accepted_labels_some_are_drawn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(bench, *range(61, 161))
    monkeypatch.setattr(finished_head, "MOST", 40)
    one, again = finished(bench), finished(bench)
    assert (one.people, one.accepted) == (60, 40)
    assert sum(learned(bench, one.record, *range(61, 161))) == 40
    assert np.array_equal(one.head.weight, again.head.weight)


def test_without_an_accepted_label_the_sentence_names_the_fix(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="no accepted label to learn from: accept some"):
        finished(bench)


def test_where_several_labels_are_asked_for_by_now_the_sentence_names_the_fix(bench: Bench) -> None:
    accept(bench, 61, 62)
    bench.configure(KINDS, multiple=True)
    with pytest.raises(InvalidInputError, match=r"several labels an image by now.*export without --include accepted"):
        finished(bench)


def test_accepted_labels_of_a_class_that_is_gone_teach_nothing(bench: Bench) -> None:
    accept(bench, 61, as_="cat")
    accept(bench, 62, as_="owl")
    bench.configure(("cat", "dog"))
    head = finished(bench)
    assert (head.accepted, head.head.classes) == (1, ("cat", "dog"))


def test_a_bundle_says_what_its_head_is_and_what_it_has_learned_from(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_backend.exports import model_files

    monkeypatch.setattr(model_files, "sample_images", lambda *_: ["an image"])
    monkeypatch.setattr("ml_backend.learning.export_formats._compare", lambda *_: 0.0)
    accept(bench, 61, 62)
    head = finished(bench)
    bench.services.model_exporter.save(bench.project, bench.versions[0], "bundle", tmp_path / "all", head)
    _, kept, meta = load_bundle(tmp_path / "all", trusted=["tests.bench:Blobs"])
    assert meta["version"] == f"{bench.versions[0].name}-accepted"
    assert np.array_equal(kept.weight, head.head.weight)
    record = Record.load(tmp_path / "all")
    assert record is not None
    assert learned(bench, record, 61, 63) == [True, False]

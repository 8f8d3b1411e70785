"""Versions of two encoders: compared where they can be, and the old one goes on where the new one is worse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_backend.encoders.encoder import build_encoder
from ml_backend.manual_promotion import compare
from ml_backend.manual_queue import QueryOptions
from ml_backend.status import encoder_status
from ml_backend.store.project_state import ServingEncoder
from tests.bench import Bench, Blobs, without_label_studio

NOISE = "tests.steps.test_other_encoder:Noise"


class Noise(Blobs):
    """Vectors that say nothing of the images."""

    dim = 10


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "data", measured=40)
    bench.label(*range(1, 81))
    bench.turn()
    yield bench
    bench.services.database.close()


def changed_to_noise(bench: Bench) -> None:
    encoder = build_encoder(NOISE, sample=lambda _: [])
    vectors = np.random.default_rng(0).normal(size=(len(bench.ids), encoder.dim))
    bench.services.features.append(encoder.id, [bench.hash_of(i) for i in bench.ids], vectors)
    bench.set(encoder=NOISE, allowed_encoders=("tests.bench:Blobs",))
    bench.turn()  # notes the change, and finds all vectors
    bench.label(81)
    bench.turn()


def test_a_new_encoder_that_is_worse_trains_on_and_the_old_version_serves(bench: Bench) -> None:
    changed_to_noise(bench)
    newest, first = bench.versions
    assert (newest.meta.encoder.name, newest.state) == (NOISE, "rejected")
    assert "of 40 held-out tasks right, v1 has" in newest.reason
    current = bench.services.versions.current(bench.project)
    assert current is not None
    assert current.number == first.number
    guesses = bench.guesses()
    assert sum(guesses[task] == bench.truth[task] for task in guesses) > 0.9 * len(guesses)


def test_whoever_asks_the_old_version_meanwhile_is_answered_in_its_own_vectors(bench: Bench) -> None:
    changed_to_noise(bench)
    services, project = bench.services, bench.project
    newest, first = bench.versions
    with without_label_studio(bench):
        batch = services.manual_queue.query(project, QueryOptions(size=5))
        assert services.project_rest.plan(project, [0.05], 0.95) is not None
    assert (batch.version, len(batch.queries)) == (1, 5)
    opinions = services.field_writer.judge.opinions(project)
    guessed = np.flatnonzero(opinions.guess >= 0)
    assert opinions.version == 1
    assert len(guessed) > 40
    assert services.atlas.points(project).encoder_id == first.meta.encoder.id
    comparison = compare(project, first, newest, services.predictor, alpha=0.05)
    assert "v1 is better" in comparison.verdict


def test_a_version_without_vectors_is_compared_by_what_it_said_when_it_was_measured(bench: Bench) -> None:
    """By the labels of now: who changes one changes whether that was right."""
    first = bench.versions[0]
    before = bench.promotion.answers(bench.project, bench.corpus(), first)
    bench.set(encoder="tests.bench:Wider")
    bench.services.features.drop(first.meta.encoder.id)
    bench.label(1, as_="dog" if bench.truth[1] == "cat" else "cat")
    bench.turn()
    after = bench.promotion.answers(bench.project, bench.corpus(), first)
    assert after.tasks.tolist() == before.tasks.tolist()
    assert (after.right != before.right).tolist() == [task == 1 for task in before.tasks]


def test_an_imported_model_keeps_its_encoder_and_the_status_says_that_the_setting_is_not_used(bench: Bench) -> None:
    imported = ServingEncoder(choice="imported", name="theirs", id="theirs-1")
    project = bench.services.ledger.configure(bench.project, imported=1, encoder=imported)
    told = encoder_status(project, bench.settings)
    assert told["in_words"] == (
        "theirs, which came with the imported model, serves: ML_BACKEND_ENCODER=tests.bench:Blobs is not used"
    )
    assert not bench.services.encoder_change.is_outdated(project)

"""What becomes of a fine-tuned network: served where it beats the head alone, told without a quality that it has not."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

import pytest

from ml_backend.errors import ImageError
from ml_backend.learning.finetuning import Refitted
from ml_backend.learning.tuning_run import Recipe
from ml_backend.records import Task
from ml_backend.steps import tune_network
from ml_backend.store.version import Version
from tests.other_settings import use
from tests.slices import held_out
from tests.steps import test_large_projects as large
from tests.worker.test_tuning import Turn, turn  # noqa: F401 - a fixture
from tests.worker.tuning import LABELLED, network

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def shortly(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(tune_network, "Recipe", partial(Recipe, epochs=1, batch_size=16))


class Fading(large.Pictures):
    """Some images can be read once and no more."""

    def __init__(self, *tasks: int) -> None:
        self.fading, self.read_already = set(tasks), Counter[int]()

    def read(self, task: Task) -> bytes:
        self.read_already[task.id] += 1
        if task.id in self.fading and self.read_already[task.id] > 1:
            raise ImageError("It was deleted.")
        return super().read(task)


def newest(turn: Turn) -> Version:  # noqa: F811
    found = turn.services.versions.newest(turn.project)
    assert found is not None
    return found


def folders(turn: Turn) -> set[str]:  # noqa: F811
    """The encoders that vectors are kept of."""
    return {path.name for path in (turn.services.settings.data_dir / "features").iterdir()}


def test_a_network_that_is_no_better_is_not_served_but_the_head_alone_and_it_is_not_trained_again(
    turn: Turn,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Refitted, "better", False)
    caplog.set_level(logging.INFO)
    turn()
    served = newest(turn)
    assert "Fine-tuning makes it no better" in caplog.text
    assert turn.services.versions.current(turn.project) == served
    assert (served.meta.mode, served.meta.encoder.id) == ("head", network().id)
    assert folders(turn) == {network().id}
    assert served.meta.training is not None
    assert set(served.meta.training["finetuning"]["validation"]) == {"n", "finetuned", "head_alone"}
    turn()
    assert turn.tuned() == []
    assert newest(turn).number == served.number


def test_of_a_network_that_has_seen_the_labels_no_quality_is_told_but_that_of_unseen_ones(
    turn: Turn,  # noqa: F811
) -> None:
    use(turn.services, mode="head")
    turn()
    held_out(turn.services.ledger, turn.project, *range(1, 13))
    use(turn.services, mode="finetune")
    turn()
    made = newest(turn)
    told = made.meta.training
    assert told is not None
    assert made.meta.mode == "finetune"
    assert (told["accuracy"], told["log_loss"], told["folds"]) == (None, None, 0)
    assert told["finetuning"]["validation"]["n"] > 0
    assert made.meta.metrics.holdout is not None
    assert made.meta.metrics.holdout["n"] == 12
    assert told["n"] <= LABELLED - 12


def test_an_image_that_went_away_is_left_out_with_a_word_and_its_label_begins_no_training_anew(
    turn: Turn,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    labelled_only = [7, 8, 9, 11]
    turn.services.hosts._readers[large.HOST] = Fading(*labelled_only)  # type: ignore[assignment]
    turn()
    made = newest(turn)
    assert "images are left out of training: It was deleted." in caplog.text
    assert made.meta.training is not None
    assert made.meta.labels is not None
    assert 0 < made.meta.training["n"] < made.meta.labels
    turn()
    assert turn.tuned() == []

"""What is told of the answers that measure, before and while they are given."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_backend.commands import held_out
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from tests import slices

HOST = "http://127.0.0.1:9"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


@pytest.mark.parametrize(("tasks", "first"), [(0, 20), (44, 8), (300, 20)])
def test_the_first_answers_that_measure_are_told_as_they_are_drawn(tasks: int, first: int) -> None:
    assert held_out.first_answers(Settings(), tasks).startswith(
        f"Of the first labels, {first} are held out to measure the accuracy"
    )


def test_a_project_without_held_out_answers_is_told_that_nothing_is_measured() -> None:
    assert "not measured" in held_out.first_answers(Settings(holdout_share=0.0), 300)


def test_it_is_told_which_imported_labels_measure(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", label_studio_url=HOST, label_studio_api_key="k" * 40)
    assert held_out.imported(settings, HOST, 1, 88) == (
        "88 labels; those on the tasks drawn at random to be held out measure the accuracy, 0 so far."
    )
    assert "all used for training" in held_out.imported(settings.model_copy(update={"holdout_share": 0.0}), HOST, 1, 88)
    assert not settings.data_dir.exists(), "telling makes no store"
    services = Services.open(settings)
    project = services.registry.register(HOST, 1, CONFIG, created=None)
    task = Task(1, "/1.png", {"image": "/1.png"}, datetime.now(UTC))
    services.ledger.reconcile(project, [(task, [])], full=True)
    project = slices.held_out(services.ledger, project, 1)
    now = datetime.now(UTC)
    services.ledger.reconcile(project, [(task, [Annotation(1, 1, ("cat",), False, False, 1, now, now)])], full=False)
    assert held_out.imported(settings, HOST, 1, 1).endswith("accuracy, 1 so far.")
    services.database.close()


def counts(
    labelled: int,
    measured: int,
    *,
    found: int = 0,
    open_: int = 0,
    accepted: int = 0,
    undecided: int = 0,
    unreadable: int = 0,
) -> dict[str, int]:
    return {
        "holdout_labelled": labelled,
        "holdout_measured": measured,
        "holdout_found": found,
        "holdout_open": open_,
        "holdout_accepted": accepted,
        "holdout_undecided": undecided,
        "holdout_unreadable": unreadable,
    }


def test_it_is_told_how_many_held_out_labels_wait_for_images_that_are_open_or_have_no_label() -> None:
    assert held_out.described(counts(20, 20)) is None
    assert held_out.described(counts(37, 3, open_=12)) == (
        "3 labels measured; 34 not yet: 12 open images come before or with them, so label or skip them"
    )
    assert held_out.described(counts(5, 1, open_=1)) == (
        "1 label measured; 4 not yet: 1 open image comes before or with them, so label or skip it"
    )
    assert held_out.described(counts(37, 3, open_=12, accepted=9)) == (
        "3 labels measured; 34 not yet: 12 open images come before or with them, so label or skip them (9 with an accepted "
        "label, which measures nothing: `ml-backend accept undo CERTIFICATE --held-out` has people asked instead)"
    )
    assert held_out.described(counts(20, 20, undecided=1)) == "20 labels measured; 1 image among them without a label"
    assert held_out.described(counts(21, 19, unreadable=1)) == (
        "19 labels measured; 1 not, as its image cannot be read; 1 not yet: their turn is still to come"
    )
    assert held_out.described(counts(8, 5, found=2)) == (
        "5 labels measured, 2 of them given before asked for; 3 not yet: their turn is still to come"
    )

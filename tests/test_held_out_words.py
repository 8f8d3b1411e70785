"""What is told of the answers that measure, before and while they are given."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_backend.commands import held_out
from ml_backend.records import Annotation, Task
from ml_backend.services import Services
from ml_backend.settings import Settings

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


def test_imported_labels_are_told_to_measure_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", label_studio_url=HOST, label_studio_api_key="k" * 40)
    assert held_out.imported(settings, HOST, 1, 88, onto_old_tasks=False) == (
        "88 labels, all used for training: the accuracy is measured on tasks drawn at random and labelled here, 0 "
        "so far."
    )
    assert not settings.data_dir.exists(), "telling makes no store"
    services = Services.open(settings)
    project = services.register(HOST, 1, CONFIG, created=None)
    task = Task(1, "/1.png", {"image": "/1.png"}, datetime.now(UTC))
    services.ledger.reconcile(project, [(task, [])], full=True)
    services.ledger.draw_holdout(project, [1])
    now = datetime.now(UTC)
    services.ledger.reconcile(project, [(task, [Annotation(1, 1, ("cat",), False, False, 1, now, now)])], full=False)
    assert held_out.imported(settings, HOST, 1, 1, onto_old_tasks=True).endswith("labelled here, 1 so far.")
    services.database.close()

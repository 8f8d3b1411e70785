"""Submit with nothing ticked, in a real browser: where several choices may be ticked it is an answer, none of them."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import prediction_result
from tests.e2e.annotator import annotator, find_chromium

LABELS = ("0", "1", "2")
IMAGE = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw=="


@pytest.mark.browser
def test_nothing_ticked_can_be_submitted_where_several_choices_may_be(
    label_studio: EmbeddedLabelStudio, client: LabelStudio
) -> None:
    find_chromium()
    project = int(client.create_project("several", label_config(LABELS, multiple=True))["id"])
    client.import_tasks(project, [{"image": IMAGE}] * 3)
    with annotator(label_studio.url, project, label_studio.username, label_studio.password) as person:
        person.open_stream()
        person.submit_nothing()
        assert person.diary.troubles == []
    ((_, answers),) = client.annotated(project, schema=client.schema(project))
    assert [answer.labels for answer in answers] == [()]


@pytest.mark.browser
def test_a_guess_that_is_taken_back_leaves_an_answer_that_says_nothing(
    label_studio: EmbeddedLabelStudio, client: LabelStudio
) -> None:
    find_chromium()
    project = int(client.create_project("guessed", label_config(LABELS, multiple=True))["id"])
    client.import_tasks(project, [{"image": IMAGE}] * 2)
    schema = client.schema(project)
    guess = {"result": prediction_result(schema, ("1",), 0.9), "score": 0.9, "model_version": "v1"}
    client.import_predictions(project, [{"task": task.id, **guess} for task in client.tasks(project, schema=schema)])
    client.update_project(project, model_version="v1", show_collab_predictions=True)
    with annotator(label_studio.url, project, label_studio.username, label_studio.password) as person:
        person.open_stream()
        assert person.chosen == ("1",)
        person.page.keyboard.press("1")
        expect(person.choice("1")).not_to_be_checked()
        person.submit_nothing()
    ((_, (answer,)),) = client.annotated(project, schema=schema)
    assert (answer.labels, answer.none_of) == ((), schema.from_name)

"""Submit with nothing ticked, in a real browser: where several choices may be ticked it is an answer, none of them."""

from __future__ import annotations

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
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

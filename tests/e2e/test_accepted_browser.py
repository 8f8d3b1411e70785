"""What a person does to an accepted label on Label Studio's own page makes it theirs, also as the user who wrote it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.bulk_annotations import write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.results import marked_with
from ml_backend.labelstudio.storage import add_local_storage
from ml_backend.labelstudio.withdrawing import withdraw
from tests.e2e.annotator import Annotator, annotator, find_chromium
from tests.e2e.stack import digits

CERTIFICATE = "0f3a9c5512de"


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    return find_chromium()


def change(person: Annotator, task: int, *labels: str) -> None:
    """Open the task, choose one label after the other, and press Update: it is grey until the page notices a change.

    The page draws the answer once more when it has read all of it; what was chosen before is gone then.
    """
    person.open_task(task)
    person.page.wait_for_load_state("networkidle")
    button = person.page.get_by_test_id("bottombar-update-button")

    def choose_and_press() -> None:
        for _ in range(20):
            for label in labels:
                person.choose(label)
            with suppress(BrowserError):
                button.click(timeout=5_000)
                return

    person._answered("PATCH", r"/api/annotations/\d+", choose_and_press)


def copy(person: Annotator) -> None:
    """Press "Duplicate Annotation", and submit the copy."""
    person.page.wait_for_load_state("networkidle")
    person.page.locator(".lsf-annotation-button_selected .lsf-annotation-button__trigger").click()
    person.page.get_by_text("Duplicate Annotation", exact=True).click()
    button = person.page.get_by_test_id("bottombar-submit-button")
    expect(button).to_be_enabled()
    person._answered("POST", rf"/api/tasks/{person.task}/annotations", button.click)


@pytest.mark.browser
def test_what_is_changed_changed_back_or_copied_on_the_page_is_a_persons_and_stays_when_the_rest_is_taken_back(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, three_users: list[LabelStudio]
) -> None:
    assert label_studio.document_root is not None
    truth = digits(label_studio, 12)
    project_id = int(client.create_project("accepted", label_config(("0", "1")))["id"])
    add_local_storage(client, project_id, label_studio.document_root / "samples" / "digits")
    client.import_tasks(
        project_id, [{"image": f"/data/local-files/?d=samples/digits/{name}", "filename": name} for name in truth]
    )
    schema, ids = client.schema(project_id), [task.id for task in client.tasks(project_id)]
    write_annotations(project_id, schema, dict.fromkeys(ids, ("0",)), client, certificate=CERTIFICATE)
    changed, confirmed, copied, own = ids[:4]
    with annotator(label_studio.url, project_id, "annotator-0@example.com", "pass12345") as person:
        change(person, changed, "1")
        change(person, confirmed, "1", "0")
        person.open_task(copied)
        copy(person)
    with annotator(label_studio.url, project_id, label_studio.username, label_studio.password) as writer:
        change(writer, own, "1", "0")
    people = {task.id: [(a.labels, a.accepted) for a in given] for task, given in client.annotated(project_id)}
    accepted = (("0",), CERTIFICATE)
    theirs = {
        changed: [(("1",), None)],
        confirmed: [(("0",), None)],
        copied: [accepted, (("0",), None)],
        own: [(("0",), None)],
    }
    assert people == {**{task: [accepted] for task in ids}, **theirs}
    marks = [marked_with(annotation) for annotation in client.task(changed)["annotations"]]
    assert marks == [CERTIFICATE], "the page keeps the id of a region"
    done = withdraw(project_id, schema, CERTIFICATE, client)
    assert (sorted(done.kept), len(done.withdrawn)) == ([changed, confirmed, copied, own], 8)
    left = {task.id: [a.labels for a in given] for task, given in client.annotated(project_id)}
    assert left == {changed: [("1",)], confirmed: [("0",)], copied: [("0",)], own: [("0",)]}

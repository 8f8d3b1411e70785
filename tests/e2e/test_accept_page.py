"""The page for accepting the rest in a real browser, by keyboard alone, against a real Label Studio and a running service."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import expect

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.bulk_annotations import MARK
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.web.persons import TOKEN_HEADER
from tests.e2e.finishing import Annotators, at_rest, given_in
from tests.e2e.helpers import sign_up
from tests.e2e.signed_in import confirm, press, signed_in
from tests.e2e.stack import PATIENCE, Stack, running, wait_until

MEASURED = 25
"""Held-out answers, of which a plan needs 20."""


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    """A project of digits whose queue was answered until an audit can be had."""
    with running(label_studio, client, tmp_path, tasks=400, ML_BACKEND_HOLDOUT_SHARE="0.3") as stack:
        wait_until(lambda: stack.services.ledger.counts(stack.project).tasks == 400, "project that was read")
        at_rest(stack)
        people = Annotators(stack, [client])
        while stack.services.ledger.counts(stack.project).holdout_measured < MEASURED:
            many = people.looks + 20
            assert people.answer(lambda many=many: people.looks >= many), "there is something to answer"  # type: ignore[misc]
            at_rest(stack)
        yield stack


def killed(stack: Stack) -> None:
    """Kill the web process as soon as it writes; another one comes in its place."""

    def writing() -> str | None:
        running = stack.services.jobs.status(stack.project).running
        return running.worker if running is not None and running.reason == "accept write" else None

    os.kill(int(wait_until(writing, "writing").rpartition(":")[2]), signal.SIGKILL)


def answered(stack: Stack, person: LabelStudio) -> None:
    """What the audit asks for, by the same routes as the grid, to the end."""
    address = f"{stack.settings.url}/projects/{stack.project.id}/grid"
    headers = {TOKEN_HEADER: person.transport.auth.api_key}
    names = {task.id: task.data["filename"] for task in stack.client.tasks(stack.project_id)}

    def ask(what: str, body: object) -> dict[str, object]:
        answer = requests.post(f"{address}/{what}", json=body, headers=headers, timeout=PATIENCE)
        assert answer.ok, answer.text
        return dict(answer.json())

    while True:
        page = ask("page", {"label": None})
        tasks: list[int] = [task["id"] for task in page["tasks"]]  # type: ignore[attr-defined]
        if not tasks:
            at_rest(stack)
            acceptance = stack.services.acceptances.auditing(stack.project)
            assert acceptance is not None
            if acceptance.complete:
                return
            continue
        given = [{"task": task, "label": stack.truth[names[task]]} for task in tasks]
        assert ask("answers", {"answers": given, "seconds": 30})["written"] == len(tasks)


@pytest.mark.browser
def test_the_rest_is_planned_audited_certified_written_though_killed_and_taken_back_by_keyboard_alone(
    stack: Stack, label_studio: EmbeddedLabelStudio
) -> None:
    person = sign_up(label_studio, "manager@example.com")
    address = f"{stack.settings.url}/projects/{stack.project.id}/accept"
    with signed_in(address, person.transport.auth.api_key) as page:
        press(page, "work-out")
        expect(page.locator("#plan table")).to_contain_text("looks in all")
        page.locator("#error").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("20")
        page.keyboard.press("Enter")
        confirm(page, re.compile("People will be asked for [0-9]+ labels"))
        expect(page.locator("#audit")).to_contain_text("0 of ")
        acceptance = stack.services.acceptances.auditing(stack.project)
        assert acceptance is not None
        assert (acceptance.created_by, acceptance.error) == ("manager@example.com", 0.2)
        at_rest(stack)
        answered(stack, person)
        page.evaluate("look()")
        expect(page.locator("#audit-next")).to_contain_text("All is answered: certify it")
        press(page, "certify")
        confirm(page, "Ends the audit with a certificate")
        expect(page.locator("#ended-said")).to_contain_text("Certificate ")
        (made,) = stack.services.acceptances.vouched(stack.project)
        name, document = made.certificate_id, made.certificate or {}
        assert document["certified_by"] == "manager@example.com"
        expect(page.locator(f"#certificate-{name}")).to_contain_text(document["promise"])
        with page.expect_download() as told:
            press(page, f"json-{name}")
        assert json.loads(Path(told.value.path()).read_text(encoding="utf-8")) == document
        at_rest(stack)
        people = given_in(stack)
        press(page, f"write-{name}")
        confirm(page, re.compile("Labels [0-9]+ tasks in Label Studio"))
        killed(stack)
        expect(page.locator("#ended-said")).to_contain_text("Writing accepted labels was interrupted")
        at_rest(stack)
        page.evaluate("look()")
        press(page, f"write-{name}")
        confirm(page, re.compile("Labels [0-9]+ tasks in Label Studio"))
        expect(page.locator("#ended-said")).to_contain_text(f"labelled by certificate {name}")
        written = {number: given for number, given in given_in(stack).items() if number not in people}
        assert len({given.task for given in written.values()}) == len(written) == document["accepted_unseen"]
        assert not [each for each in stack.client.model_versions(stack.project_id) if each.startswith(MARK)]
        assert {given.accepted for given in written.values()} == {name}
        at_rest(stack)
        page.evaluate("look()")
        expect(page.locator(f"#certificate-{name}")).to_contain_text(f"written: {len(written)} labels stand")
        press(page, f"undo-{name}")
        confirm(page, f"Takes {len(written)} labels of certificate {name} out")
        expect(page.locator("#ended-said")).to_contain_text(f"{len(written)} labels of certificate {name} taken back")
        assert given_in(stack) == people

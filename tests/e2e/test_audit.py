"""An audit on a real Label Studio: what people are served is the sample, without a guess anywhere, and ends in a certificate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli
from ml_backend.acceptance import auditing
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.web.grid_work import GridWork
from ml_backend.web.persons import Persons
from tests.e2e.helpers import sign_up
from tests.e2e.stack import Stack, inline, tell_commands
from tests.other_settings import use

pytestmark = pytest.mark.e2e

ERROR = "10%"


@pytest.fixture
def stack(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    tell_commands(monkeypatch, label_studio, tmp_path / "backend", ML_BACKEND_PRELABELS="always")
    monkeypatch.setattr(auditing, "drawn_seed", lambda: 1)
    with inline(label_studio, client, tmp_path, tasks=300, prelabels="always") as stack:
        yield stack


def accept(stack: Stack, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    code = cli.main(["accept", *words, "--project", str(stack.project_id), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err + said.out
    return dict(json.loads(said.out))


def guessed(stack: Stack, tasks: list[int]) -> set[int]:
    """Those of the tasks of which Label Studio has a guess, of whatever queue: the list of tasks shows them all."""
    kept = stack.client.predictions_of(stack.project_id, tasks)
    return {task for task, predictions in kept.items() if any(found["result"] for found in predictions)}


def label_until(stack: Stack, many: int) -> None:
    """Label what is served, a batch at a time, until so many tasks have a label."""
    while (done := stack.services.ledger.counts(stack.project).labelled) < many:
        for _ in range(min(20, many - done)):
            stack.label_next()
        stack.turn()


def annotated(stack: Stack) -> dict[int, str]:
    """Each labelled task's label, by Label Studio."""
    rows = stack.client.listing(stack.project_id, "id,annotations,result", {}, fields="all", size=1_000)["tasks"]
    return {raw["id"]: raw["annotations"][0]["result"][0]["value"]["choices"][0] for raw in rows if raw["annotations"]}


def _written_and_taken_back(
    stack: Stack, capsys: pytest.CaptureFixture[str], certificate: str, labels: dict[int, str]
) -> None:
    human = annotated(stack)
    assert accept(stack, capsys, "write", "--dry-run")["to_write"] == len(labels)
    assert annotated(stack) == human
    assert accept(stack, capsys, "write")["written"] == len(labels)
    assert {task: chosen for task, chosen in annotated(stack).items() if task not in human} == labels
    assert {task: annotated(stack)[task] for task in human} == human
    assert stack.services.ledger.counts(stack.project).accepted == len(labels)
    assert accept(stack, capsys, "write")["written"] == 0, "there is nothing left to write"
    assert accept(stack, capsys, "undo", certificate)["taken_back"] == len(labels)
    assert annotated(stack) == human


def test_the_sample_is_served_blind_to_the_last_task_and_certifies_what_is_true(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.turn()
    label_until(stack, 80)
    use(stack.services, batch_size=120)
    stack.turn()  # many tasks get a guess, which stays in Label Studio when the next queue comes
    use(stack.services, batch_size=20)
    stack.turn()

    begun = accept(stack, capsys, "audit", "--error", ERROR)
    acceptance = stack.services.acceptances.auditing(stack.project)
    assert acceptance is not None
    frozen = stack.services.acceptances.frozen(acceptance)
    waiting = set(frozen.ids.tolist())
    sample = frozen.ids[acceptance.order[: begun["drawn"]]].tolist()
    assert guessed(stack, sorted(waiting - set(sample))), "there are guesses of former queues"
    assert guessed(stack, sample) == set()

    seen = []
    while (round_ := stack.services.ledger.last_round(stack.project)) is not None and round_.strategy == "audit":
        for expected in [task for task in stack.ranking(round_) if task not in seen]:
            task = next_task(stack.client, stack.project_id)
            assert task is not None
            assert (task["id"], [found["result"] for found in task["predictions"]]) == (expected, [[]])
            told = stack.services.predictor.predict(stack.project, [task])
            assert told[0]["result"] == []
            submit(stack.client, task, annotation_result(stack.schema, [stack.truth[task["data"]["filename"]]]))
            seen.append(expected)
        stack.turn()
    assert len(seen) >= begun["drawn"]

    status = accept(stack, capsys, "status")
    assert (status["acceptance"]["to_look_at"], status["acceptance"]["complete"]) == (0, True)
    document = accept(stack, capsys, "certify", "--out", str(tmp_path / "certificate"))
    (made,) = stack.services.acceptances.vouched(stack.project)
    labels = stack.services.certifying.labels_to_write(stack.project, made)
    names = {task.id: task.data["filename"] for task in stack.client.tasks(stack.project_id)}
    wrong = sum(stack.truth[names[task]] != label for task, label in labels.items())
    assert len(labels) == document["accepted_unseen"] > 0
    assert wrong <= document["wrong_among_these_at_most"]
    assert document["looked_at"] == len(seen)
    assert all(Path(path).is_file() for path in document["files"])
    assert all(stack.truth[each["filename"]] == each["people"] for each in document["found_wrong"])

    last = stack.services.ledger.last_round(stack.project)
    assert last is not None
    assert (last.strategy, last.state) == ("auto", "verified")
    assert guessed(stack, stack.ranking(last)), "guesses are shown again"

    _written_and_taken_back(stack, capsys, made.certificate_id, labels)


def test_the_sample_is_answered_in_the_grid_under_the_persons_name_turn_by_turn_to_the_end(
    stack: Stack, label_studio: EmbeddedLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.turn()
    label_until(stack, 80)
    before = set(annotated(stack))
    accept(stack, capsys, "audit", "--error", ERROR)
    person, grid = sign_up(label_studio, "auditor@example.com"), GridWork(stack.services, Persons())
    token = person.transport.auth.api_key
    truth = {task.id: stack.truth[task.data["filename"]] for task in stack.client.tasks(stack.project_id)}
    given: dict[int, str] = {}
    while "accept certify" not in (page := grid.page(stack.project, token, None))["next"]:
        answers = [(task["id"], truth[task["id"]]) for task in page["tasks"]]
        if answers:
            first, again = (grid.answer(stack.project, token, answers, [], 30.0) for _ in range(2))
            assert (first["written"], again["written"], again["answered"]) == (len(answers), 0, len(answers))
            given |= dict(answers)
        else:
            assert "next turn" in page["next"]
            stack.turn()
    assert {task: label for task, label in annotated(stack).items() if task not in before} == given
    found = stack.client.annotated(stack.project_id, schema=stack.schema)
    assert {a.annotator for task, those in found for a in those if task.id in given} == {person.whoami()["id"]}
    status = accept(stack, capsys, "status")["acceptance"]
    assert (status["to_look_at"], status["complete"]) == (0, True)
    assert status["progress"]["looked"] == len(given)

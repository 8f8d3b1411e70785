"""People labelling at once in real browsers while the queue turns over beneath them, and what must be there afterwards.

One harness for every size: a `Cell` says how many people, how many images, how fast, and what happens in between.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import expect

from ml_backend.demo.digits import CLASSES
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task
from ml_backend.labelstudio.queue import TAB
from ml_backend.labelstudio.results import annotation_result
from tests.e2e.annotator import Annotator, Diary, annotator
from tests.e2e.helpers import sign_up
from tests.e2e.stack import Stack, running, service, wait_until

PASSWORD = "pass12345"  # of everybody whom sign_up makes
COLLEAGUE = "colleague@example.com"


@dataclass(frozen=True)
class Cell:
    """One afternoon. `events`: what the first person does (a method of `Afternoon`) before their n-th image.

    images: that everybody labels; more where the queue has then not turned over `turnovers` times. pace: seconds a person looks at an image. overlap: people asked for each image. breaks: seconds for which an image left
    open stays open at least; three turnovers go by in any case. displayed: open the queue's tab and choose "Label Tasks As
    Displayed" instead of "Label All Tasks".
    """

    images: int
    pace: float
    browsers: int = 1
    overlap: int = 1
    turnovers: int = 5
    displayed: bool = False
    breaks: float = 0.0
    events: dict[int, str] = field(default_factory=dict)
    tasks: int = 200
    batch: int = 12
    train_after: int = 5


class Afternoon:
    """The people of one cell at work on one project."""

    def __init__(self, server: EmbeddedLabelStudio, stack: Stack, cell: Cell, pictures: Path) -> None:
        self.server, self.stack, self.cell, self.pictures = server, stack, cell, pictures
        self.colleague = sign_up(server, COLLEAGUE)
        self.diaries = [Diary(COLLEAGUE)]

    @property
    def project_id(self) -> int:
        return self.stack.project_id

    def work(self) -> None:
        """Everybody labels; returns when the last one is done."""
        enough = self.stack.round_after(0).number + self.cell.turnovers
        with ThreadPoolExecutor(self.cell.browsers) as people:
            at_work = [people.submit(self._person, number, enough) for number in range(self.cell.browsers)]
            for person in at_work:
                person.result()

    def _person(self, number: int, enough: int) -> None:
        email = f"annotator-{number}@example.com"
        with annotator(self.server.url, self.project_id, email, PASSWORD, pictures=self.pictures) as person:
            self.diaries.append(person.diary)
            self._open(person)
            for image in range(self.cell.images):
                person.page.wait_for_timeout(self.cell.pace * 1_000)
                if number == 0 and image in self.cell.events:
                    getattr(self, self.cell.events[image])(person)
                    person.page.wait_for_timeout(self.cell.pace * 1_000)
                person.submit(self.truth(person), by_button=image % 2 == 1)
            while self._round_number() < enough:  # however slow this machine is
                person.page.wait_for_timeout(100)
                if not self._turn_is_coming():
                    person.submit(self.truth(person))

    def truth(self, person: Annotator) -> str:
        return self.stack.truth[person.data["filename"]]

    def _open(self, person: Annotator) -> None:
        if self.cell.displayed:
            tab = next(tab["id"] for tab in self.stack.client.tabs(self.project_id) if tab["data"].get("title") == TAB)
            person.open_displayed(int(tab))
        else:
            person.open_stream()

    # -- what happens in between --------------------------------------------------------------------------------------

    def leave_open(self, person: Annotator) -> None:
        """A coffee: the image stays as it is while the queue turns over three times."""
        back_at = time.monotonic() + self.cell.breaks
        self._turn_over(person, 3)
        while time.monotonic() < back_at:
            person.page.wait_for_timeout(500)

    def leave_open_with_a_draft(self, person: Annotator) -> None:
        """The same with a label typed, and saved as a draft by the page."""
        wrong = self._wrong(person)
        typed = wrong if person.chosen != (wrong,) else self.truth(person)
        person.await_draft(lambda: person.choose(typed))
        self.leave_open(person)

    def skip(self, person: Annotator) -> None:
        person.skip()

    def go_back_and_update(self, person: Annotator) -> None:
        """Submit a wrong label, notice it, press `<`, correct it, and press `>`."""
        here = person.task
        person.submit(self._wrong(person))
        there = person.task
        person.back()
        assert person.task == here, f"`<` leads from task {there} to {person.task} instead of {here}"
        self._turn_over(person, 1)
        person.update(self.truth(person))
        person.forward()
        assert person.task == there, f"`>` leads to task {person.task} instead of {there}"

    def delete_in_quick_view(self, person: Annotator) -> None:
        """Open the last answer from the Data Manager and delete it; then go on labelling."""
        label = self.truth(person)
        task = person.task
        person.submit(label)
        person.open_task(task)
        person.delete()
        self._open(person)

    def answer_in_quick_view(self, person: Annotator) -> None:
        """Open a task of the batch from the Data Manager, have the queue turn over, and submit it there."""
        last = self.stack.services.ledger.last_round(self.stack.project)
        assert last is not None
        free = self._free_tasks(person)
        person.open_task(next((task for task in reversed(self.stack.ranking(last)) if task in free), free[-1]))
        self._turn_over(person, 1)
        person.submit(self.truth(person))
        self._open(person)

    def reload(self, person: Annotator) -> None:
        """Type a label, which the page saves as a draft; reload the window after a turnover, and find both again."""
        task, wrong = person.task, self._wrong(person)
        typed = wrong if person.chosen != (wrong,) else self.truth(person)
        person.await_draft(lambda: person.choose(typed))
        self._turn_over(person, 1)
        person.reload()
        assert person.task == task, f"task {person.task} after the reload instead of {task}"
        expect(person.choice(typed)).to_be_checked()

    def undo(self, person: Annotator) -> None:
        """Type a label and take it back with Ctrl+Z, before and after a turnover."""
        person.choose(self._wrong(person) if person.chosen == (self.truth(person),) else self.truth(person))
        person.undo()
        self._turn_over(person, 1)

    def second_tab(self, person: Annotator) -> None:
        """The same person opens the label stream in a second window: both show the image, the second one answers it."""
        with person.another_window() as second:
            self._open(second)
            assert second.task == person.task, "the second window does not show the image that is locked"
            self._turn_over(person, 1)
            second.submit(self.truth(second))
        person.reload()

    def roll_back(self, person: Annotator) -> None:
        """Serve the former version while an image of the present one is open; then let the service go on."""
        before = self._round_number()
        self._operation("roll-back")

        def served() -> bool:
            person.page.wait_for_timeout(100)
            return self._round_number() > before

        wait_until(served, "new queue after the roll-back")
        self._operation("unpin")

    def prioritize(self, person: Annotator) -> None:
        """`ml-backend sync prioritize`: the image that is open and three others are the queue now."""
        chosen = [person.task, *self._free_tasks(person)[-3:]]
        self.command("sync", "prioritize", "--tasks", ",".join(map(str, chosen)))

    def retrieve_predictions(self, person: Annotator) -> None:
        """The Data Manager's "Retrieve predictions" on the open image and others: Label Studio calls /predict."""
        chosen = [person.task, *self._free_tasks(person)[-20:]]
        self.stack.client.transport.call(
            "POST",
            f"/api/dm/actions?id=retrieve_tasks_predictions&project={self.project_id}",
            json={"selectedItems": {"all": False, "included": chosen}},
        )

    def correction_by_another(self, person: Annotator) -> None:
        """A colleague changes an answer through the API; the answer is theirs from then on."""
        task, label = next((t, a) for t, a in person.diary.answers.items() if a is not None)
        other = next(name for name in CLASSES if name != label)
        mine = _annotation_of(self.stack.client, task, self._user_id(person.diary.name))
        self.colleague.update_annotation(mine["id"], result=annotation_result(self.stack.schema, [other]))
        person.diary.answers[task] = other

    # -- helpers ------------------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> str:
        """Run `ml-backend ...` for the project, beside the service; returns what it printed."""
        command = [sys.executable, "-m", "ml_backend.cli", *arguments, "--project", str(self.project_id)]
        environment = os.environ | self.stack.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _turn_over(self, person: Annotator, times: int) -> None:
        """A colleague labels through the API, whenever no turn is on its way, until the queue has turned over so often."""
        for _ in range(times):
            before = self._round_number()
            while self._round_number() == before:
                if not self._turn_is_coming():
                    self._colleague_labels()
                person.page.wait_for_timeout(100)  # with the browser alive: its timers run, its messages arrive

    def _colleague_labels(self) -> None:
        task = next_task(self.colleague, self.project_id)
        assert task is not None, "nothing is left for the colleague"
        label = self.stack.truth[task["data"]["filename"]]
        self.colleague.create_annotation(task["id"], annotation_result(self.stack.schema, [label]))
        self.diaries[0].answers[int(task["id"])] = label

    def _round_number(self) -> int:
        """The last round that is served for certain."""
        rounds = self.stack.services.ledger.rounds(self.stack.project)
        return max(round_.number for round_ in rounds if round_.verified_at)

    def _turn_is_coming(self) -> bool:
        status = self.stack.services.jobs.status(self.stack.project)
        assert status.stopped is None, status.stopped
        due = status.due
        return status.running is not None or (
            due is not None and (due.immediate or due.labels >= self.cell.train_after)
        )

    def _operation(self, name: str) -> None:
        answer = requests.post(f"{self.stack.settings.url}/projects/{self.stack.project.id}/{name}", timeout=30)
        assert answer.ok, answer.text

    def _wrong(self, person: Annotator) -> str:
        return CLASSES[(CLASSES.index(self.truth(person)) + 1) % len(CLASSES)]

    def _free_tasks(self, person: Annotator) -> list[int]:
        """Tasks that nobody has answered, save the one on the page."""
        rows = self.stack.client.listing(self.project_id, "id,is_labeled", {})
        return [raw["id"] for raw in rows["tasks"] if not raw["is_labeled"] and raw["id"] != person.task]

    def _user_id(self, email: str) -> int:
        return int(sign_up(self.server, email).whoami()["id"])

    # -- what must be there afterwards --------------------------------------------------------------------------------

    def check(self) -> None:
        """Nobody was told of an error; every answer, and nothing else, is in Label Studio and in the CSV."""
        assert not [trouble for diary in self.diaries for trouble in diary.troubles]
        self._check_label_studio()
        self._check_csv()
        if self.cell.overlap > 1:
            self._check_same_guess()

    def _check_label_studio(self) -> None:
        ids = {diary.name: self._user_id(diary.name) for diary in self.diaries}
        expected = {(task, ids[diary.name]): answer for diary in self.diaries for task, answer in diary.answers.items()}
        found: dict[tuple[int, int], list[str | None]] = {}
        for task, given in self.stack.client.annotated(self.project_id, schema=self.stack.schema):
            for one in given:
                label = None if one.was_cancelled else "|".join(one.labels)
                found.setdefault((task.id, int(one.annotator or 0)), []).append(label)
        assert found == {key: [answer] for key, answer in expected.items()}

    def _check_csv(self) -> None:
        """One row a task that somebody answered: everybody's last answer is the truth, save what a colleague changed."""
        rows = csv.DictReader(io.StringIO(self.command("export", "labels", "--out", "-")))
        found = {int(row["task_id"]): row["label"] for row in rows}
        expected = {t: a for diary in self.diaries for t, a in diary.answers.items() if a is not None}
        assert found == expected

    def _check_same_guess(self) -> None:
        shown: dict[int, set[tuple[str, ...]]] = {}
        for diary in self.diaries[1:]:
            for task, guess in diary.guesses.items():
                shown.setdefault(task, set()).add(guess)
        twice = [task for task in shown if sum(task in diary.guesses for diary in self.diaries[1:]) > 1]
        assert twice, "no image was shown to two people"
        assert not {task: shown[task] for task in twice if len(shown[task]) > 1}, "two people saw different guesses"


def _annotation_of(client: LabelStudio, task_id: int, user: int) -> dict[str, Any]:
    def author(raw: dict[str, Any]) -> int:
        by = raw["completed_by"]
        return int(by["id"] if isinstance(by, dict) else by)

    return next(raw for raw in client.task(task_id)["annotations"] if author(raw) == user)


@contextmanager
def afternoon(
    server: EmbeddedLabelStudio, client: LabelStudio, folder: Path, cell: Cell, **environment: str
) -> Iterator[Afternoon]:
    """A fresh project with the service beside it, and the people of this cell; nobody works yet."""
    settings = {
        "ML_BACKEND_BATCH_SIZE": str(cell.batch),
        "ML_BACKEND_TRAIN_AFTER_LABELS": str(cell.train_after),
        "ML_BACKEND_HOLDOUT_FIRST": "4",
        "ML_BACKEND_PRELABELS": "always",  # a guess on the page is what turnovers endanger
    }
    for number in range(cell.browsers):
        sign_up(server, f"annotator-{number}@example.com")
    with running(server, client, folder, tasks=cell.tasks, **settings | environment) as stack:
        if cell.overlap > 1:
            client.update_project(stack.project_id, maximum_annotations=cell.overlap)
        yield Afternoon(server, stack, cell, folder)


def check_nothing_piles_up(stack: Stack) -> None:
    """With nobody at work any more and the grace period over, only predictions of the queue in service are left.

    Call it when the service of the afternoon has ended: it starts one that is less patient, and nobody labels.
    """
    impatient = {
        "ML_BACKEND_PREDICTION_GRACE_SECONDS": "1",
        "ML_BACKEND_POLL_SECONDS": "1",
    }

    def clean() -> bool:
        counts = stack.client.model_versions(stack.project_id)
        return {name for name, count in counts.items() if count} == {
            stack.client.get_project(stack.project_id)["model_version"]
        }

    with service(stack.environment | impatient, stack.settings):
        wait_until(clean, "end of old predictions", patience=900)  # 200 a turn


def spread(names: Sequence[str], images: int, *, start: int = 4) -> dict[int, str]:
    """These events, evenly over the images."""
    step = max((images - start) // len(names), 1)
    return {start + place * step: name for place, name in enumerate(names)}

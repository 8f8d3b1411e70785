"""A person's own queue: which tasks are meant, in which order, and how long it stays."""

import io
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from ml_backend.encoding import LOGGED
from ml_backend.errors import InvalidInputError, NothingToAskError
from ml_backend.learning.training import train_head
from ml_backend.manual_queue import MANUAL, Batch, priorities_from_csv, resolve
from ml_backend.records import Annotation, Query, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.steps.choose import BY_HAND, choose
from ml_backend.steps.push_queue import QueuePusher
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from tests.slices import held_out

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 255, (24, 24), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


class Files:
    """An image a task, in memory; those of `cut` end too early."""

    def __init__(self, *cut: int) -> None:
        self.cut = cut

    def read(self, task: Task) -> bytes:
        return png(task.id)[: 60 if task.id in self.cut else None]


def serve(services: Services, *cut: int) -> None:
    services.hosts._readers["http://localhost:8080"] = cast("Any", Files(*cut))


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(data_dir=tmp_path, label_studio_api_key="k", holdout_share=0.0))
    serve(opened)
    yield opened
    opened.database.close()


def known(services: Services, project: Project, labelled: int) -> None:
    """Ten tasks, the first `labelled` of them labelled."""
    rows = []
    for i in range(1, 11):
        task = Task(i, f"/i/{i}.png", {"image": f"/i/{i}.png", "filename": f"{i}.png", "path": f"sub/{i % 5}.png"}, NOW)
        answers = [Annotation(i, i, ("cat",), False, False, 1, NOW, NOW)] if i <= labelled else []
        rows.append((task, answers))
    services.ledger.reconcile(project, rows, full=True)


@pytest.fixture
def project(services: Services) -> Project:
    project = services.registry.register("http://localhost:8080", 1, CONFIG, created=1)
    known(services, project, labelled=2)
    return project


def order(batch: Batch) -> list[int]:
    return [query.task_id for query in sorted(batch.queries, key=lambda query: query.rank)]


def test_tasks_are_named_by_number_filename_path_or_address(services: Services, project: Project) -> None:
    assert resolve(project, ["4", "3.png", "/i/5.png"], services.ledger) == [4, 3, 5]


def test_unknown_and_ambiguous_names_are_all_told_and_nothing_is_done(services: Services, project: Project) -> None:
    with pytest.raises(InvalidInputError) as told:
        resolve(project, ["3.png", "nobody.png", "sub/1.png", "99"], services.ledger)
    assert "'nobody.png', '99'" in str(told.value)
    assert "several tasks are called 'sub/1.png'" in str(told.value)


def test_the_highest_priority_comes_first_and_ties_as_given(services: Services, project: Project) -> None:
    batch = services.manual_queue.batch(project, {5: 1.0, 6: 3.0, 7: 1.0})
    assert order(batch) == [6, 5, 7]
    assert batch.strategy == MANUAL


def test_labelled_and_missing_tasks_are_left_out_with_the_reason(services: Services, project: Project) -> None:
    batch = services.manual_queue.batch(project, {1: 9.0, 5: 1.0, 77: 5.0})
    assert order(batch) == [5]
    assert batch.skipped == {1: "already labelled", 77: "not in this project"}
    with pytest.raises(NothingToAskError):
        services.manual_queue.batch(project, {1: 9.0})


def test_a_task_whose_label_was_accepted_is_left_out_for_label_studio_serves_it_no_more(
    services: Services, project: Project
) -> None:
    (task,) = services.ledger.tasks(project, [5])
    accepted = Annotation(5, 5, ("cat",), False, False, 1, NOW, NOW, accepted="c1")
    services.ledger.reconcile(project, [(task, [accepted])], full=False)
    batch = services.manual_queue.batch(project, {5: 9.0, 6: 1.0})
    assert order(batch) == [6]
    assert batch.skipped == {5: "its label was accepted of the model: change it in Label Studio"}


def test_an_image_that_cannot_be_read_is_left_out_with_its_reason_and_the_rest_is_queued(
    services: Services, project: Project
) -> None:
    """Whether the service has read it before, or nobody has."""
    serve(services, 5, 6)
    services.encoding.look_at(project, list(services.ledger.tasks(project, [6])))
    batch = services.manual_queue.batch(project, {4: 4.0, 5: 3.0, 6: 2.0, 7: 1.0})
    assert order(batch) == [4, 7]
    assert set(batch.skipped) == {5, 6}
    assert all("cannot be read: The image is truncated" in why for why in batch.skipped.values())
    with pytest.raises(NothingToAskError, match=r"5\.png \(task 5\): its image cannot be read: The image is truncated"):
        services.manual_queue.batch(project, {5: 1.0})


def test_tasks_that_are_held_out_or_not_encoded_yet_are_queued_beside_a_model(
    services: Services, project: Project
) -> None:
    """Their content is not in the feature store, and for some it is not even known."""
    corpus = services.corpus_builder.encode_missing(project, lambda *_: None)
    assert corpus is not None
    head = train_head(corpus.vectors(np.arange(2)), np.array([0, 1]), corpus.classes, seed=0).head

    def write(folder: Path) -> None:
        corpus.encoder.save(folder)
        head.save(folder)

    services.versions.publish(project, 1, write)
    services.versions.promote(project, 1)
    new = Task(11, "/i/11.png", {"image": "/i/11.png"}, NOW)
    services.ledger.reconcile(project, [(new, [])], full=False)
    project = held_out(services.ledger, project, 8)
    batch = services.manual_queue.batch(project, {11: 3.0, 8: 2.0, 9: 1.0})
    assert order(batch) == [11, 8, 9]
    assert [bool(query.prediction) for query in batch.queries] == [False, False, True]


def test_each_newly_unreadable_image_is_logged_once_and_the_log_is_bounded(
    services: Services, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ml_backend")
    broken: list[tuple[Task, list[Annotation]]] = [
        (Task(i, f"/i/{i}.png", {"image": "x", "filename": "two\nlines.png"}, NOW), [])
        for i in range(20, 20 + 2 * LOGGED)
    ]
    services.ledger.reconcile(project, broken, full=False)
    serve(services, *range(20, 20 + 2 * LOGGED))
    for _ in range(2):
        services.encoding.look_at(project, list(services.ledger.tasks(project)))
    assert len(caplog.messages) == LOGGED + 1
    assert "two\\nlines.png (task 20) cannot be read: The image is truncated" in caplog.messages[0]
    assert f"{LOGGED} more images cannot be read" in caplog.messages[-1]


def test_a_held_out_task_stays_held_out_and_gets_no_prelabel(services: Services, project: Project) -> None:
    services.encoding.look_at(project, list(services.ledger.tasks(project)))
    project = held_out(services.ledger, project, 8)
    batch = services.manual_queue.batch(project, {8: 2.0, 9: 1.0})
    assert [query.arm for query in batch.queries] == ["holdout", "strategy"]


def test_a_csv_may_have_priorities_or_only_an_order(services: Services, project: Project, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filename,priority\n5.png,1\n6.png,2.5\n")
    (tmp_path / "b.csv").write_text("task_id\n5\n6\n")
    (tmp_path / "c.csv").write_text("filename,priority\n5.png,soon\n")
    assert order(
        services.manual_queue.batch(project, priorities_from_csv(project, tmp_path / "a.csv", services.ledger))
    ) == [6, 5]
    assert order(
        services.manual_queue.batch(project, priorities_from_csv(project, tmp_path / "b.csv", services.ledger))
    ) == [5, 6]
    with pytest.raises(InvalidInputError, match="row 1: the priority 'soon'"):
        priorities_from_csv(project, tmp_path / "c.csv", services.ledger)


def test_a_queue_made_by_hand_stays_until_half_of_it_is_answered(services: Services, project: Project) -> None:
    queries = [Query(task, rank, "strategy", 1.0, "chosen by hand") for rank, task in enumerate([3, 4, 5, 6])]
    mine = services.ledger.open_round(
        project, version=0, strategy=MANUAL, seed=0, queries=queries, params={BY_HAND: True}
    )
    known(services, project, labelled=3)
    assert choose(project, None, None, services.ledger, services.settings).number == mine.number
    known(services, project, labelled=4)
    with pytest.raises(NothingToAskError):  # no vectors in this test: there is nothing to make a new queue from
        choose(project, None, None, services.ledger, services.settings)


def test_there_are_tasks_in_reserve_for_who_asks_while_a_colleague_has_the_only_one_of_a_queue_open(
    services: Services, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserves: list[list[int]] = []

    def serve(_pusher: QueuePusher, _project: Project, round_: Round, spare: list[int]) -> Round:
        reserves.append(spare)
        return round_

    monkeypatch.setattr(QueuePusher, "serve", serve)
    services.manual_queue.push(project, services.manual_queue.batch(project, {5: 1.0}))
    (reserve,) = reserves
    assert sorted(reserve) == [3, 4, 6, 7, 8, 9, 10]


def test_raising_the_overlap_replaces_a_queue_whose_guesses_are_ticked(services: Services, project: Project) -> None:
    corpus = services.corpus_builder.encode_missing(project, lambda _done, _total: None)
    first = choose(project, corpus, None, services.ledger, services.settings)
    assert choose(project, corpus, None, services.ledger, services.settings) == first
    project = services.ledger.configure(project, overlap=2)
    assert choose(project, corpus, None, services.ledger, services.settings).number == first.number + 1

"""Guesses of former queues on tasks that are to be answered blindly: emptied, and not deleted."""

from __future__ import annotations

from typing import Any, cast

from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.queue import hide_guesses

GUESS = [{"type": "choices", "value": {"choices": ["cat"]}}]


class Predictions:
    """Predictions by task, as Label Studio keeps them."""

    def __init__(self, of_tasks: dict[int, list[dict[str, Any]]]) -> None:
        self.of_tasks = of_tasks
        self.written: list[int] = []

    def predictions_of(self, _project: int, task_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
        return {task: self.of_tasks[task] for task in task_ids if task in self.of_tasks}

    def update_prediction(self, number: int, **fields: Any) -> None:
        self.written.append(number)
        for found in (each for all_ in self.of_tasks.values() for each in all_ if each["id"] == number):
            found.update(fields)


def kept(number: int, version: str | None, result: list[Any]) -> dict[str, Any]:
    return {"id": number, "model_version": version, "score": 0.5, "result": result}


def test_guesses_of_our_former_queues_are_emptied_in_place_and_nothing_else_is_touched() -> None:
    client = Predictions(
        {
            1: [kept(10, "v1-r1", GUESS), kept(11, "v2-r2", GUESS)],
            2: [kept(12, "v2-r2", [])],
            3: [kept(13, "somebody's model", GUESS), kept(14, None, GUESS)],
            4: [kept(15, "v2-r2", GUESS)],
        }
    )
    hide_guesses(cast("LabelStudio", client), 1, [1, 2, 3])
    assert client.written == [10, 11]
    assert [found["result"] for found in client.of_tasks[1]] == [[], []]
    assert {found["score"] for found in client.of_tasks[1]} == {0.5}, "whoever has it open can still submit"
    hide_guesses(cast("LabelStudio", client), 1, [1, 2, 3])
    assert client.written == [10, 11]

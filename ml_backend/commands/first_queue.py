"""What a person is told of the first queue: whether there is something to label already, and what comes next."""

from __future__ import annotations

import time
from typing import Any

from ml_backend.labelstudio.checks import MARK
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.queue import (
    EVERYTHING,
    FIRST_ORDER,
    OUR_VERSION,
    TAB,
    renew_columns,
    show_everything,
    show_tab,
)

PATIENCE_SECONDS = 15.0
LOOK_SECONDS = 0.25
HOW_LONG = "this takes seconds for a few hundred images, minutes for many thousands"


def make_tabs(client: LabelStudio, project: dict[str, Any]) -> list[str]:
    """Give a project that has no tab of the queue one, and one of all tasks; says what was made.

    Where there are tabs of an earlier version, they get the columns of this one, unless a person has chosen others. Done before
    connecting, after which the service looks for them, too.
    """
    number, served = int(project["id"]), project["model_version"] or ""
    if any(tab["data"].get("title") == TAB for tab in client.tabs(number)):
        return [f"set the columns of the tab {title!r}" for title in renew_columns(client, number)]
    show_tab(client, number, served if OUR_VERSION.fullmatch(served) else FIRST_ORDER)
    made = [f"created the tab {TAB!r}"]
    return [*made, f"created the tab {EVERYTHING!r}"] if show_everything(client, number) else made


def after_import(client: LabelStudio, number: int) -> str:
    """A sentence on when the images just imported can be labelled; waits for a first order, if one is to come."""
    served = client.get_project(number)["model_version"] or ""
    if OUR_VERSION.fullmatch(served) and served != FIRST_ORDER:
        return "They will appear in the next queues, once the service has read them."
    if any(MARK in (hook.get("headers") or {}) for hook in client.webhooks(number)):
        return await_order(client, number)[1]
    return f"To label in the model's order, connect the project: `ml-backend setup-project --project {number}`."


def await_order(client: LabelStudio, number: int, patience: float = PATIENCE_SECONDS) -> tuple[str | None, str]:
    """The queue that Label Studio serves and a sentence on it; waits for the first order, which takes seconds.

    None where there is no queue: nothing to label, or the service has not come to it yet.
    """
    deadline = time.monotonic() + patience
    while True:
        project = client.get_project(number)
        served, tasks = project["model_version"] or "", project["task_number"]
        if OUR_VERSION.fullmatch(served):
            return served, _served(served, tasks)
        if not tasks:
            return None, (
                "The project has no images yet: import some with `ml-backend import-images FOLDER --project "
                f"{number}`. You can start labelling seconds after that."
            )
        if tasks == project["num_tasks_with_annotations"]:
            return None, "Every task is labelled: import more images to continue."
        if time.monotonic() > deadline:
            return None, (f"No queue yet: `ml-backend sync status --project {number}` shows what the service is doing.")
        time.sleep(LOOK_SECONDS)


def _served(served: str, tasks: int) -> str:
    if served != FIRST_ORDER:
        return f"The queue is {served}."
    images = "the image has" if tasks == 1 else f"all {tasks:,} images have"
    return (
        f"You can start labelling now, in random order. The model's own queue follows once {images} been read "
        f"({HOW_LONG}); `ml-backend sync status` shows the progress."
    )

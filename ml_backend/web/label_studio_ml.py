"""The two verbs `predict` and `fit`, for those who serve models with the upstream `label-studio-ml` server.

`pip install label-studio-ml==1.0.9 redis rq` (the last two are imported by it, but not declared), point its server at
`ActiveLearningModel`, and run `ml-backend serve --only worker` beside it: `fit` only notes that something happened, and
the worker trains. Our own server needs none of this; use upstream's where other models are served by it already.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_backend.errors import InvalidInputError
from ml_backend.services import Services
from ml_backend.settings import Settings

if TYPE_CHECKING or importlib.util.find_spec("label_studio_ml") is None:
    Host = object
else:
    from label_studio_ml.model import LabelStudioMLBase as Host


@functools.cache
def services() -> Services:
    """The stores named by the environment, opened once a process."""
    return Services.open(Settings.from_environ(os.environ))


class ActiveLearningModel(Host):
    """A `LabelStudioMLBase`, where that is installed; works for upstream's 1.0.9 and 2.x signatures alike."""

    def __init__(self, label_config: str | None = None, train_output: Any = None, **kwargs: Any) -> None:
        if Host is not object:
            super().__init__(label_config=label_config, train_output=train_output, **kwargs)  # type: ignore[call-arg]
        self.label_config = label_config
        self.hostname = str(kwargs.get("hostname") or "")

    def predict(
        self,
        tasks: Sequence[Mapping[str, Any]],
        context: Any = None,  # noqa: ARG002 - upstream's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """One Label Studio prediction a task, in order. Raises InvalidInputError for tasks that name no project."""
        if not tasks:
            return []
        number = tasks[0].get("project")
        if not isinstance(number, int):
            raise InvalidInputError("The tasks do not name a `project`: send them the way Label Studio calls /predict.")
        opened = services()
        if self.label_config:
            opened.registry.register(opened.hosts.named(None, self.hostname), number, self.label_config, created=None)
        return opened.predictor.predict(opened.registry.find_project(None, number, None), tasks)

    def fit(self, *tasks: Any, event: str = "", data: Mapping[str, Any] | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Note the event and make a training due; takes milliseconds. 2.x calls `fit(event, data)`."""
        if tasks and isinstance(tasks[0], str):
            event, data = tasks[0], tasks[1] if len(tasks) > 1 else data
        project = (data or {}).get("project")
        if not isinstance(project, Mapping) or "id" not in project:
            raise InvalidInputError(
                f"The event {event} does not name a project: turn on the webhook's payload in Label Studio."
            )
        opened = services()
        config = str(project.get("label_config") or self.label_config or "")
        known = opened.registry.register(
            opened.hosts.named(None, self.hostname), int(project["id"]), config, created=None
        )
        opened.inbox.record(known.key, event, data or {})

"""The requests Label Studio sends, as it sends them, with sentences for what is missing."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from ml_backend.errors import InvalidInputError

_NUMBER = re.compile("[0-9]{1,18}")
NEEDED = {
    "tasks": "a list of Label Studio tasks, each with `id` and `data`",
    "project": "Label Studio's project, as `<id>.<created>` or an object with `id`",
    "schema": "the project's label config as XML",
    "action": "the name of the event, such as ANNOTATION_CREATED",
    "id": "the id of the task",
    "data": "the task's data, with the image in it",
}


LARGEST_ID = 2**63 - 1
"""What a column of the store holds."""
Id = Annotated[int, Field(ge=0, le=LARGEST_ID)]


class Refusal(BaseModel):
    """Every answer but a good one: a sentence that says what to change."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": description}
    for status, description in {
        400: "The body is not JSON, or the Host header no name.",
        401: "User and password are missing or wrong.",
        403: "A page of another site called, or Label Studio does not let the person's own token see the project.",
        404: "There is no such project, version or host.",
        408: "The body did not come in within a minute.",
        409: "The present state does not allow it.",
        413: "The body, or a part of it, is too large.",
        421: "The service is not known by the name it was called by.",
        422: "Something is missing or wrong; the sentence names it.",
        429: "Too many projects were connected that could not be read yet.",
        502: "Label Studio refused.",
        503: "Label Studio is away, or other large requests are under way.",
    }.items()
}
"""What any route may answer beside what it is for. 500 is not among them: that would be a fault of ours."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def as_sent(self) -> dict[str, Any]:
        """The fields that were sent, as they were: nothing is copied, however deep it goes."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class SetupRequest(_Message):
    project: str
    label_config: str = Field(alias="schema")
    hostname: str | None = None
    access_token: str | None = None
    extra_params: Any = None


class TaskMessage(_Message):
    id: Id
    data: dict[str, Any]


class PredictRequest(_Message):
    tasks: list[TaskMessage]
    project: str
    label_config: str | None = None
    params: dict[str, Any] | None = None


class JobRequest(_Message):
    job: str | int | None = ""


class ProjectRequest(_Message):
    project: str | None = None


class WebhookRequest(_Message):
    action: str
    project: dict[str, Any] | int | str | None = None

    def project_id(self, named: str | None = None) -> int:
        """Return the id of the project that the event is about; `named` in the address where it has no payload."""
        project = self.project.get("id") if isinstance(self.project, dict) else self.project
        project = named if project is None else project
        if project is None:
            raise InvalidInputError(
                f"The event {self.action} does not name a project. Create the webhook with `send_payload` on, or "
                "with ?project=<id> at the end of its address; `ml-backend setup-project` does that."
            )
        return parse_project(str(project))[0]


class GridPageRequest(_Message):
    """label: the class to look at; None: the one that most tasks are taken for."""

    label: str | None = Field(None, max_length=10_000)


class GridLabelsRequest(_Message):
    """tasks: to be labelled; unticked: said not to be of the class. seconds: how long the page was looked at."""

    label: str = Field(max_length=10_000)
    tasks: list[Id] = Field(max_length=1_000)
    unticked: list[Id] = Field([], max_length=1_000)
    seconds: float = Field(0.0, ge=0, le=86_400)


class GridAnswer(BaseModel):
    """A task and its class."""

    task: Id
    label: str = Field(max_length=10_000)


class GridAnswersRequest(_Message):
    """answers: to be written, one for each task; passed: tasks that were shown and got no class. seconds: as with labels."""

    answers: list[GridAnswer] = Field(max_length=1_000)
    passed: list[Id] = Field([], max_length=1_000)
    seconds: float = Field(0.0, ge=0, le=86_400)


class AcceptRequest(_Message):
    """An act of the page for accepting the rest. error, confidence: of an audit. certificate: to be written or taken back."""

    act: Literal["audit", "certify", "stop", "write", "undo"]
    error: float = Field(0.02, gt=0, lt=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    certificate: str | None = Field(None, max_length=100)


class PageActRequest(_Message):
    """An act of a project's page, by its name. given: what it is asked for with."""

    act: str = Field(max_length=100)
    given: dict[str, Any] = Field({}, max_length=100)


class FindRequest(_Message):
    """Images, by one of: places on the map of this `key`; ids; one image that they are like; words; or all else together.

    name: a part of the filename. least, most: of the guess's confidence, in per cent. kind: as `store.map_rows`. after: ids above this.
    """

    key: str = Field("", max_length=100)
    places: list[Id] | None = Field(None, max_length=100_000)
    ids: list[Id] | None = Field(None, max_length=5_000)
    like: Id | None = None
    words: str = Field("", max_length=1_000)
    name: str = Field("", max_length=1_000)
    label: str | None = Field(None, max_length=10_000)
    guess: str | None = Field(None, max_length=10_000)
    least: int | None = Field(None, ge=0, le=100)
    most: int | None = Field(None, ge=0, le=100)
    kind: int | None = Field(None, ge=0, le=7)
    after: Id = 0


class ChosenLabelRequest(_Message):
    """A label for chosen tasks. seconds: how long they were looked at."""

    label: str = Field(max_length=10_000)
    tasks: list[Id] = Field(max_length=1_000)
    seconds: float = Field(0.0, ge=0, le=86_400)


def parse_project(text: str) -> tuple[int, int | None]:
    """Split `<id>.<created>` into the id and the time of creation in seconds, None where it is not given."""
    number, _, created = text.partition(".")
    if not _NUMBER.fullmatch(number):
        raise InvalidInputError(
            f"`project` is {text[:100]!r}; it must be Label Studio's project id, such as 1 or 1.1700000000"
        )
    return int(number), int(created) if _NUMBER.fullmatch(created) else None


def explain(error: RequestValidationError) -> tuple[int, str]:
    """Turn a validation error into a status and one sentence that names the fix."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", "")
        return 400, f"The body is not valid JSON ({detail}). Send a JSON object with Content-Type: application/json."
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    name = str(first["loc"][-1])
    need = NEEDED.get(name)
    if first["type"] == "missing":
        return 422, f"`{where or 'body'}` is missing" + (f": send {need}." if need else ".")
    return 422, f"`{where or 'body'}` is wrong: {first['msg']}" + (f". It must be {need}." if need else ".")


def host_of(request: Request) -> str | None:
    """Return the host's slug from the address Label Studio was given, None for the plain address."""
    slug = request.path_params.get("host")
    return str(slug) if slug is not None else None

"""Tasks, annotations and predictions as Label Studio writes them <-> labels. Pure: no network, no state."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.config import GUESS
from ml_backend.records import Annotation, LabelSchema, Task
from ml_backend.wording import encodable, shortened

LONGEST_S = 1e9
LONGEST_REASON = 160
_ASKED = ". Asked because: "
_MARK = re.compile(r"accepted-([A-Za-z0-9._]{1,64})-([0-9a-f]{12})")
"""The id of the region of an accepted label: the certificate, and a seal over what it says."""


def task_from_json(schema: LabelSchema, raw: dict[str, Any]) -> Task:
    """A task as Label Studio lists, predicts or sends it. `image` is None where the data has no such key."""
    data = raw.get("data") or {}
    # Tasks imported as bare strings before the config was set keep them under this key.
    image = data.get(schema.image_key, data.get("$undefined$"))
    return Task(
        id=int(raw["id"]),
        image=encodable(image).replace("\0", "\\0") if isinstance(image, str) and image else None,
        data=data,
        updated_at=parse_time(raw["updated_at"]) if raw.get("updated_at") else None,
    )


def annotation_from_json(schema: LabelSchema, raw: dict[str, Any], *, task_id: int | None = None) -> Annotation:
    """One annotation of the API or of a webhook. Labels are kept as given, also those the config no longer has."""
    cancelled = bool(raw.get("was_cancelled"))
    task = raw.get("task", task_id) if task_id is None else task_id
    if task is None:
        raise InvalidInputError(f"Annotation {raw.get('id')} does not name a task.")
    result = raw.get("result") or []
    labels = () if cancelled else _chosen(schema, result)
    return Annotation(
        id=int(raw["id"]),
        task_id=int(task["id"] if isinstance(task, dict) else task),
        labels=labels,
        was_cancelled=cancelled,
        ground_truth=bool(raw.get("ground_truth")),
        annotator=_user(raw.get("completed_by")),
        editor=_user(raw.get("updated_by")),
        created_at=parse_time(raw["created_at"]),
        updated_at=parse_time(raw["updated_at"]),
        none_of=schema.from_name if not cancelled and _says_nothing(schema, result) else None,
        accepted=_certificate(raw) if labels else None,
        seconds=_seconds(raw.get("lead_time")),
    )


def _seconds(given: Any) -> float | None:
    """A time that a page has measured. Anybody with a token may send any; of what is no time, nothing is kept."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < LONGEST_S:
        return None
    return float(given)


def marked_with(raw: Mapping[str, Any]) -> str | None:
    """The certificate under which an annotation of the API was once accepted, whatever was made of it since."""
    mark = _mark(raw)
    return mark[1] if mark else None


def _mark(raw: Mapping[str, Any]) -> re.Match[str] | None:
    """The mark of the first region that has one."""
    result = raw.get("result")
    ids = (str(item.get("id")) for item in result if isinstance(item, dict)) if isinstance(result, list) else iter(())
    return next(filter(None, map(_MARK.fullmatch, ids)), None)


def _certificate(raw: Mapping[str, Any]) -> str | None:
    """The certificate under which what an annotation says was accepted, if nobody has touched it since.

    The labelling page keeps the id of a region whose choice is changed, and what is submitted there takes time
    (`lead_time`): an annotation with other labels, other regions, another editor, or time spent on it is a person's.
    """
    result, mark = raw.get("result"), _mark(raw)
    if mark is None or len(result or ()) != 1 or raw.get("ground_truth") or raw.get("lead_time"):
        return None
    labels, editor = _ticked(result), _user(raw.get("updated_by"))
    mine = editor in {None, _user(raw.get("completed_by"))} and mark[2] == _seal(labels)
    return mark[1] if mine or mark[2] == _seal(labels, editor) else None


def _ticked(result: Any) -> list[str]:
    """What the only region of an annotation says."""
    value = result[0].get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    return [str(name) for name in choices] if isinstance(choices, list) else []


def _user(given: Any) -> int | None:
    """A user of the API, which names or describes one."""
    found = given.get("id") if isinstance(given, dict) else given
    return found if isinstance(found, int) else None


def _chosen(schema: LabelSchema, result: Any) -> tuple[str, ...]:
    """The distinct choices made under the schema's `Choices`, in the order given.

    A person with a token may store any JSON as a result: what does not have the form of choices holds none.
    """
    chosen: dict[str, None] = {}
    for item in result if isinstance(result, list) else ():
        if not isinstance(item, dict) or (item.get("from_name"), item.get("type")) != (schema.from_name, "choices"):
            continue
        value = item.get("value")
        choices = value.get("choices") if isinstance(value, dict) else None
        if isinstance(choices, list):
            chosen.update(
                dict.fromkeys(encodable(str(name)) for name in choices if isinstance(name, str | int | float))
            )
    return tuple(chosen)


def _says_nothing(schema: LabelSchema, result: Any) -> bool:
    """Whether nothing is answered, here or to another control. The model's guess comes back with an answer and is none."""
    guess, here = (GUESS, "textarea"), (schema.from_name, "choices")
    return isinstance(result, list) and all(
        isinstance(item, dict)
        and (
            (of := (item.get("from_name"), item.get("type"))) == guess
            or (of == here and item.get("value") == {"choices": []})
        )
        for item in result
    )


def prediction_result(
    schema: LabelSchema, labels: Sequence[str], confidence: float, reason: str = ""
) -> list[dict[str, Any]]:
    """The `result` of a Label Studio prediction; `confidence` in 0..1 goes into its own score. [] for no labels.

    Where the label config has a place for it, the guess stands beside the choices in words, too, with the reason why the
    task is asked for, if there is one.
    """
    if not labels:
        return []
    ticked = annotation_result(schema, labels)[0] | {"score": float(confidence)}
    if not schema.guess:
        return [ticked]
    text = f"Model's guess: {', '.join(labels)}, {min(int(100 * confidence), 99)}% sure"
    text += _ASKED + shortened(reason, LONGEST_REASON) if reason else ""
    return [
        ticked,
        {"from_name": schema.guess, "to_name": schema.to_name, "type": "textarea", "value": {"text": [text]}},
    ]


def without_reason(result: Any) -> Any:
    """What `prediction_result` made, with a reason or without one, as it is without one. Anything else comes back equal."""
    if not isinstance(result, list) or len(result) != 2 or not isinstance(result[1], dict):
        return result
    match result[1].get("value"):
        case {"text": [str(text)], **rest} if not rest:
            return [result[0], {**result[1], "value": {"text": [text.partition(_ASKED)[0]]}}]
    return result


def annotation_result(schema: LabelSchema, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The `result` of an annotation with these labels, as the labelling page would send it: [] where none is ticked."""
    if not labels:
        return []
    value = {"choices": list(labels)}
    return [{"from_name": schema.from_name, "to_name": schema.to_name, "type": "choices", "value": value}]


def accepted_result(schema: LabelSchema, labels: Sequence[str], certificate: str) -> list[dict[str, Any]]:
    """The `result` of an annotation whose labels are accepted under this certificate: `annotation_from_json` tells them.

    Raises InvalidInputError for no labels at all, of which nothing could be marked, and for what is no certificate's id.
    """
    if not labels:
        raise InvalidInputError("None of the labels cannot be accepted: leave such tasks to people.")
    mark = f"accepted-{certificate}-{_seal(labels)}"
    if not _MARK.fullmatch(mark):
        raise InvalidInputError(f"{certificate!r} is no certificate's id: give letters, digits, dots and underscores.")
    return [annotation_result(schema, labels)[0] | {"id": mark}]


def marked_anew(raw: Mapping[str, Any], result: Any, editor: int) -> Any:
    """`result`, which is to take the place of that of an annotation of the API: marked as before, where it was accepted.

    editor: the user who writes it; for it is not their answer.
    """
    certificate = _certificate(raw)
    if certificate is None:
        return result
    return [result[0] | {"id": f"accepted-{certificate}-{_seal(_ticked(result), editor)}"}]


def _seal(labels: Sequence[str], editor: int | None = None) -> str:
    """12 hex digits over the labels, and over the user who saved them where that is not who annotated."""
    told = sorted(labels) if editor is None else [sorted(labels), editor]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def parse_time(text: str) -> datetime:
    """A time of the API, aware, in UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

"""Label configs and annotation results <-> labels. Pure: no network, no state."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import quoteattr

from ml_backend.errors import InvalidInputError
from ml_backend.records import Annotation, LabelSchema, Task

_VARIABLE = re.compile(r"\$(\S+)")
_EXAMPLE = (
    '<View><Image name="image" value="$image"/><Choices name="choice" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)


def parse_label_config(xml: str, *, choices: str | None = None) -> LabelSchema:
    """What a label config asks: one `Choices` about one `Image`.

    `choices` names the `Choices` tag to learn where the config has several about images.
    Raises InvalidInputError, naming the fix: malformed XML, no usable Image or Choices, several and none named.
    """
    root = _parse(xml)
    images = {tag.get("name", ""): tag for tag in root.iter("Image") if tag.get("name")}
    if not images:
        raise InvalidInputError(
            f"The label config has no <Image>: it needs one image and one choice, such as {_EXAMPLE}"
        )
    usable = [tag for tag in root.iter("Choices") if _about_an_image(tag, images)]
    if choices is not None:
        usable = [tag for tag in usable if tag.get("name") == choices]
    if not usable:
        wanted = f' named "{choices}"' if choices else ""
        raise InvalidInputError(
            f"The label config has no <Choices>{wanted} about an image (with a name, toName pointing at the <Image>, not "
            f"perRegion): it needs one image and one choice, such as {_EXAMPLE}"
        )
    if len(usable) > 1:
        names = ", ".join(tag.get("name", "") for tag in usable)
        raise InvalidInputError(
            f"The label config has several <Choices> about images ({names}): say which one is to be learned."
        )
    tag = usable[0]
    image = images[_about_an_image(tag, images)]
    return LabelSchema(
        from_name=tag.get("name", ""),
        to_name=image.get("name", ""),
        image_key=_image_key(image),
        labels=_labels(tag),
        multiple=tag.get("choice", "single") == "multiple",
    )


def label_config(labels: Sequence[str], *, multiple: bool = False, image_key: str = "image") -> str:
    """A label config for these labels; `parse_label_config` of it gives them back."""
    items = "".join(f"\n    <Choice value={quoteattr(label)}/>" for label in labels)
    choice = "multiple" if multiple else "single"
    return (
        f'<View>\n  <Image name="image" value={quoteattr("$" + image_key)}/>\n'
        f'  <Choices name="choice" toName="image" choice="{choice}">{items}\n  </Choices>\n</View>'
    )


def _parse(xml: str) -> ET.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise InvalidInputError("The label config declares a DOCTYPE or an entity: remove it, a config needs none.")
    try:
        return ET.fromstring(xml)  # noqa: S314 - entities are refused above
    except ET.ParseError as error:
        raise InvalidInputError(f"The label config is no valid XML ({error}): correct it in Label Studio.") from None


def _about_an_image(tag: ET.Element, images: dict[str, ET.Element]) -> str:
    """The image this `Choices` is about, or "" where it is unnamed, about regions, or about something else."""
    if not tag.get("name") or tag.get("perRegion", "").lower() == "true":
        return ""
    targets = [name.strip() for name in tag.get("toName", "").split(",")]
    return next((name for name in targets if name in images), "")


def _image_key(image: ET.Element) -> str:
    if image.get("valueList"):
        raise InvalidInputError("The label config shows several images at once (valueList): use value with one image.")
    match = _VARIABLE.fullmatch(image.get("value", ""))
    if match is None:
        raise InvalidInputError(f'<Image name="{image.get("name")}"> needs value="$image", the key of the task data.')
    return match[1]


def _labels(tag: ET.Element) -> tuple[str, ...]:
    if tag.find("Choice/Choice") is not None:
        raise InvalidInputError(f'<Choices name="{tag.get("name")}"> is nested: list its choices on one level.')
    # An alias takes the place of the value in what Label Studio stores.
    values = [choice.get("alias") or choice.get("value") or "" for choice in tag.iter("Choice")]
    if len(values) < 2 or not all(value.strip() for value in values):
        raise InvalidInputError(
            f'<Choices name="{tag.get("name")}"> needs at least two <Choice value="..."/> inside, each with a value '
            "(choices taken from the task data cannot be learned)."
        )
    if len(set(values)) != len(values):
        raise InvalidInputError(f'<Choices name="{tag.get("name")}"> names a choice twice: make them distinct.')
    return tuple(values)


def task_from_json(schema: LabelSchema, raw: dict[str, Any]) -> Task:
    """A task as Label Studio lists, predicts or sends it. `image` is None where the data has no such key."""
    data = raw.get("data") or {}
    # Tasks imported as bare strings before the config was set keep them under this key.
    image = data.get(schema.image_key, data.get("$undefined$"))
    return Task(
        id=int(raw["id"]),
        image=image if isinstance(image, str) and image else None,
        data=data,
        updated_at=parse_time(raw["updated_at"]) if raw.get("updated_at") else None,
    )


def annotation_from_json(schema: LabelSchema, raw: dict[str, Any], *, task_id: int | None = None) -> Annotation:
    """One annotation of the API or of a webhook. Labels are kept as given, also those the config no longer has."""
    cancelled = bool(raw.get("was_cancelled"))
    annotator = raw.get("completed_by")
    if isinstance(annotator, dict):
        annotator = annotator.get("id")
    task = raw.get("task", task_id) if task_id is None else task_id
    if task is None:
        raise InvalidInputError(f"Annotation {raw.get('id')} names no task.")
    return Annotation(
        id=int(raw["id"]),
        task_id=int(task["id"] if isinstance(task, dict) else task),
        labels=() if cancelled else _chosen(schema, raw.get("result") or []),
        was_cancelled=cancelled,
        ground_truth=bool(raw.get("ground_truth")),
        annotator=annotator,
        created_at=parse_time(raw["created_at"]),
        updated_at=parse_time(raw["updated_at"]),
    )


def _chosen(schema: LabelSchema, result: list[dict[str, Any]]) -> tuple[str, ...]:
    """The distinct choices made under the schema's `Choices`, in the order given."""
    chosen: dict[str, None] = {}
    for item in result:
        if item.get("from_name") == schema.from_name and item.get("type") == "choices":
            chosen.update(dict.fromkeys(str(value) for value in item.get("value", {}).get("choices") or []))
    return tuple(chosen)


def prediction_result(schema: LabelSchema, labels: Sequence[str], confidence: float) -> list[dict[str, Any]]:
    """The `result` of a Label Studio prediction; `confidence` in 0..1 goes into its own score. [] for no labels."""
    if not labels:
        return []
    return [annotation_result(schema, labels)[0] | {"score": float(confidence)}]


def annotation_result(schema: LabelSchema, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The `result` of an annotation with these labels, as the labelling page would send it."""
    value = {"choices": list(labels)}
    return [{"from_name": schema.from_name, "to_name": schema.to_name, "type": "choices", "value": value}]


def parse_time(text: str) -> datetime:
    """A time of the API, aware, in UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

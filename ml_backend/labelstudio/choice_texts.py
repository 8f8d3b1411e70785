"""What a label config says of each label, for a reader: what stands beside the box, and the hint. Pure: no network, no state."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from ml_backend.records import LabelSchema

_TAG = re.compile(r"<[^>]*>")
_VARIABLE = re.compile(r"\$[\w[\].{}]")


def choice_texts(label_config: str, schema: LabelSchema) -> Sequence[tuple[str, str]]:
    """(name, description) of each label of the schema, in its order.

    name: the `value` that annotators read, where an `alias` is what Label Studio stores. description: the `hint`, shown as the
    mouse rests on it, and the `html` that is shown in place of the value; "" where there is neither. What takes its text from the
    task data says nothing. A label that the config no longer has is its own name.
    """
    found: dict[str, tuple[str, str]] = {}
    for choices in _parsed(label_config).iter("Choices"):
        if choices.get("name") != schema.from_name:
            continue
        for choice in choices.iter("Choice"):
            value, alias = choice.get("value", ""), choice.get("alias", "")
            name = value if value.strip() and not (alias and _VARIABLE.search(value)) else alias
            told = [choice.get("hint", ""), _TAG.sub(" ", choice.get("html", ""))]
            description = ", ".join(
                " ".join(part.split()) for part in told if part.strip() and not _VARIABLE.search(part)
            )
            found[alias or value] = (name, description)
    return [found.get(label, (label, "")) for label in schema.labels]


def _parsed(label_config: str) -> ET.Element:
    """An empty tag where it is no XML: whatever asks has judged by it before."""
    try:
        return ET.fromstring(label_config)  # noqa: S314 - no entities: `labelstudio.config` has refused them
    except (ET.ParseError, ValueError, LookupError):
        return ET.Element("View")

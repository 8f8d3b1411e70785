"""One choice of a label config under another name: the text is changed there and nowhere else. Pure: no network, no state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from ml_backend.labelstudio.results import prediction_result, without_reason
from ml_backend.records import LabelSchema
from ml_backend.wording import encodable

_START = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=<>"'/]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")
_ATTRIBUTE = re.compile(rb"""\s([^\s=<>"'/]+)\s*=\s*("[^"]*"|'[^']*')""")
_LINE = re.compile(rb"\r?\n[ \t]*\Z")
_IN_QUOTES = {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}

Edit = tuple[int, int, bytes]
"""First and last byte (exclusive) of what is replaced, and by what."""


@dataclass
class _Tag:
    """An element in the text: its start tag is [start, inner), all of it [start, stop)."""

    name: str
    given: dict[str, str]
    start: int
    inner: int
    stop: int = 0
    within: list[_Tag] = field(default_factory=list)


def with_label(xml: str, control: str, old: str, new: str) -> str:
    """The label config in which the `Choices` called `control` has `new` as well as `old`.

    Where it has no `new`, a copy of the choice `old` follows it, hotkey and all, under the other name. What is shown only
    where `old` is chosen is shown where `new` is, too. Without an `old` the text is what it was.
    """
    text = xml.encode()
    tags = _tags(text)
    choices = {_label(tag): tag for tag in _choices(tags, control)}
    edits = _conditions(text, tags, control, lambda names: _beside(names, old, new))
    found = choices.get(old)
    if found is not None and new not in choices:
        named = "alias" if found.given.get("alias") else "value"
        first, last = _attribute(text, found, named)
        copy = text[found.start : first] + _quoted(new) + text[last : found.stop]
        edits.append((found.stop, found.stop, _line_before(text, found) + copy))
    return _applied(text, edits)


def without_label(xml: str, control: str, old: str) -> str:
    """The label config in which the `Choices` called `control` has no `old`: its line is gone, or the tag alone."""
    text = xml.encode()
    tags = _tags(text)
    edits = _conditions(text, tags, control, lambda names: [name for name in names if name != old])
    for tag in _choices(tags, control):
        if _label(tag) == old:
            alone = re.match(rb"[ \t]*\r?\n", text[tag.stop :])
            start = tag.start - (len(_line_before(text, tag)) if alone else 0)
            edits = [edit for edit in edits if not tag.start <= edit[0] < tag.stop] + [(start, tag.stop, b"")]
    return _applied(text, edits)


def shown_as(xml: str, control: str) -> dict[str, str]:
    """What the choices with an alias are shown as -> the label that is stored for them."""
    aliased = (tag for tag in _choices(_tags(xml.encode()), control) if tag.given.get("alias"))
    return {tag.given.get("value", ""): _label(tag) for tag in aliased}


def _tags(text: bytes) -> list[_Tag]:
    """Every element in the order of the text. It is a label config that `parse_label_config` has taken."""
    found: list[_Tag] = []
    around: list[_Tag] = []
    parser = expat.ParserCreate("utf-8")

    def start(name: str, given: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        match = _START.match(text, at)
        tag = _Tag(name, given, at, match.end() if match else at)
        if around:
            around[-1].within.append(tag)
        found.append(tag)
        around.append(tag)

    def end(_name: str) -> None:
        tag = around.pop()
        alone = text.endswith(b"/>", tag.start, tag.inner)
        tag.stop = tag.inner if alone else text.index(b">", parser.CurrentByteIndex) + 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(text, True)
    return found


def _choices(tags: Iterable[_Tag], control: str) -> Iterator[_Tag]:
    """The choices of the first `Choices` of that name."""
    waiting = next(([tag] for tag in tags if (tag.name, tag.given.get("name")) == ("Choices", control)), [])
    while waiting:
        tag = waiting.pop()
        if tag.name == "Choice":
            yield tag
        waiting += reversed(tag.within)


def _label(tag: _Tag) -> str:
    return tag.given.get("alias") or tag.given.get("value") or ""


def _conditions(text: bytes, tags: Iterable[_Tag], control: str, change: Any) -> list[Edit]:
    """The edits to what is shown only where certain labels are chosen."""
    edits = []
    for tag in tags:
        names = tag.given.get("whenChoiceValue", "").split(",")
        if tag.given.get("whenTagName") == control and (changed := change(names)) != names and changed:
            edits.append((*_attribute(text, tag, "whenChoiceValue"), _quoted(",".join(changed))))
    return edits


def _beside(names: list[str], old: str, new: str) -> list[str]:
    if old not in names or new in names:
        return names
    at = names.index(old) + 1
    return [*names[:at], new, *names[at:]]


def _attribute(text: bytes, tag: _Tag, name: str) -> tuple[int, int]:
    """Where the value of an attribute that the tag has stands, quotes included."""
    found = (match for match in _ATTRIBUTE.finditer(text, tag.start, tag.inner) if match[1].decode() == name)
    return next(found).span(2)


def _quoted(value: str) -> bytes:
    return f'"{escape(value, _IN_QUOTES)}"'.encode()


def _line_before(text: bytes, tag: _Tag) -> bytes:
    """The end of the line before and the indentation, where nothing else stands before the tag in its line."""
    match = _LINE.search(text[: tag.start])
    return match[0] if match else b""


def _applied(text: bytes, edits: Iterable[Edit]) -> str:
    for start, stop, instead in sorted(edits, reverse=True):
        text = text[:start] + instead + text[stop:]
    return text.decode()


def renamed(control: str, result: Any, old: str, new: str) -> Any:
    """The `result` of an annotation or a draft with `new` in the place of `old` under one `Choices`, once.

    Regions of other controls, and those without `old`, are the very same objects.
    """
    return [_renamed(control, item, old, new) for item in result] if isinstance(result, list) else result


def _renamed(control: str, item: Any, old: str, new: str) -> Any:
    if not isinstance(item, dict) or (item.get("from_name"), item.get("type")) != (control, "choices"):
        return item
    value = item.get("value")
    names = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(names, list) or old not in map(_text, names):
        return item
    changed: dict[str, Any] = {}
    for name in names:
        changed.setdefault(*((new, new) if _text(name) == old else (_text(name), name)))
    return {**item, "value": {**value, "choices": list(changed.values())}}


def _text(name: Any) -> str:
    """A stored choice as `annotation_from_json` reads it."""
    return encodable(str(name))


def renamed_prediction(schema: LabelSchema, result: Any, old: str, new: str) -> Any:
    """The same of a prediction; one of ours says the guess in words as well, which change with it, and lose the reason."""
    changed = renamed(schema.from_name, result, old, new)
    if changed == result or not _is_ours(schema, result):
        return changed
    ticked = changed[0]
    return prediction_result(schema, ticked["value"]["choices"], ticked["score"])


def _is_ours(schema: LabelSchema, result: list[Any]) -> bool:
    ticked = result[0]
    if not isinstance(ticked, dict) or not isinstance(ticked.get("score"), float):
        return False
    names = ticked.get("value", {}).get("choices", [])
    plain = without_reason(result)  # which may name the old label
    return all(isinstance(name, str) for name in names) and plain == prediction_result(schema, names, ticked["score"])

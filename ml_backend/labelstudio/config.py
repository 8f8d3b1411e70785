"""Label configs: what is to be learned, and what is to be changed where nothing can be. Pure: no network, no state."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from ml_backend.errors import InvalidInputError
from ml_backend.records import LabelSchema, Selection

GUESS = "guess"
"""Name of a `TextArea` in a label config that shows the model's guess with its confidence, where there is one."""
_KEY = re.compile(r"\$([^\s$\[\]{}]+)")
_VARIABLE = re.compile(r"\$[\w[\].{}]")
_NAMED = re.compile(r"""\b(choices|image)["']?\s*[=:]\s*["']?([^"',;\n{}]+)""")
_KEYS = "1234567890qwetasdfgzxcvbyiopjklnm"
_EXAMPLE = (
    '<View><Image name="image" value="$image"/><Choices name="choice" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
_PAGE = """<View className="classify">
  <Style>
    .classify {{ display: flex; align-items: flex-start; gap: 16px; }}
    .classify-image {{ flex: 1 1 0; min-width: 0; }}
    .classify-answer {{ flex: 0 0 230px; position: sticky; top: 0; max-height: calc(100vh - 182px); overflow-y: auto; }}
    .classify-answer label {{ padding: 4px 0; line-height: 20px; overflow-wrap: anywhere; }}
    .classify-guess form {{ display: none; }}
  </Style>
  <View className="classify-image">
    <Image name="image" value={value} zoomControl="true"/>
  </View>
  <View className="classify-answer">
    <Header value="{question}" size="5" style="margin: 0"/>
    <Header value="A choice that is already ticked is the model's guess: check it." size="5" style="{small}"/>{filter}
    <Choices name="choice" toName="image" choice="{choice}" layout="vertical">
{choices}
    </Choices>
    <View className="classify-guess">
      <TextArea name="guess" toName="image" editable="false" maxSubmissions="1" showSubmitButton="false"/>
    </View>
  </View>
</View>"""
_SMALL = "margin: 4px 0; font-size: 13px; line-height: 18px; font-weight: 400"
_FILTER = """
    <Filter name="filter" toName="choice" hotkey="shift+f" minlength="0" placeholder="Find a label (Shift+F)"/>"""
_MANY = 20  # labels, from which on a field to find one is worth its room
_LAYOUT = frozenset({"View", "Header", "Style", "Collapse", "Panel", "Filter", "Dialog", "Markdown", "Shortcut"})
_ONE_IMAGE = ". The answer has to be visible in that one image: comparing several images is not supported."
NOTHING = Selection()


class SeveralError(InvalidInputError):
    """The label config has several choices or images, and nobody said which one is to be learned."""


LONGEST, DEEPEST = 1_000_000, 100
"""Characters of a label config, and tags inside each other: more than anybody writes, and nothing to choke on."""


def parse_label_config(xml: str, chosen: Selection = NOTHING, *, default: Selection = NOTHING) -> LabelSchema:
    """What a label config asks: one `Choices` about one `Image`.

    `chosen` names the ones to learn, and must fit; `default` is looked at where there are several and none was chosen.
    Raises SeveralError where that leaves it open, InvalidInputError for what cannot be learned; each names the fix.
    """
    root = _parse(xml)
    images = {name: tag for tag in root.iter("Image") if (name := tag.get("name"))}
    if not images:
        raise InvalidInputError(_no_image(root))
    usable = {tag.get("name", ""): tag for tag in root.iter("Choices") if _about_an_image(tag, images)}
    if len(images) == 1:
        _image_key(next(iter(images.values())))
    if not usable:
        raise InvalidInputError(_no_choices(root, images))
    names = (
        _pick("Choices", usable, chosen.choices, default.choices),
        _pick("Image", images, chosen.image, default.image),
    )
    if names[0] is None or names[1] is None:
        raise SeveralError(_several(root, usable, images, names))
    tag, image = usable[names[0]], images[names[1]]
    if tag in _conditional(root):
        raise InvalidInputError(_only_sometimes(tag, others=len(usable) > 1))
    return LabelSchema(
        from_name=names[0],
        to_name=names[1] if names[1] in _targets(tag) else _about_an_image(tag, images),
        image_key=_image_key(image),
        labels=_labels(tag),
        multiple=tag.get("choice", "single") == "multiple",
        guess=_guess(root, image),
    )


def selection_from(extra_params: Any) -> Selection | None:
    """The names in the `extra_params` of a connected model; None where they hold none.

    Label Studio sends what was typed there, as text: "choices=NAME, image=NAME", or JSON. Our own are an object.
    """
    if isinstance(extra_params, str):
        try:
            extra_params = json.loads(extra_params)
        except (ValueError, RecursionError):
            extra_params = dict(_NAMED.findall(extra_params))
    if not isinstance(extra_params, dict):
        return None
    choices, image = (str(extra_params.get(key) or "").strip() or None for key in ("choices", "image"))
    return Selection(choices, image) if choices or image else None


def _parse(xml: str) -> ET.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise InvalidInputError(
            "The label config declares a DOCTYPE or an entity: remove it; a config does not need one."
        )
    if len(xml) > LONGEST:
        raise InvalidInputError(f"The label config is longer than {LONGEST:,} characters: shorten it.")
    try:
        root = ET.fromstring(xml)  # noqa: S314 - entities are refused above
    except (ET.ParseError, ValueError, LookupError) as error:  # of an encoding that it declares, or half a character
        told = str(error).encode("ascii", "backslashreplace").decode()
        raise InvalidInputError(f"The label config is not valid XML ({told}): correct it in Label Studio.") from None
    level = [root]
    for _ in range(DEEPEST):
        level = [child for tag in level for child in tag]
    if level:
        raise InvalidInputError(f"The label config has more than {DEEPEST} tags inside each other: simplify it.")
    return root


def _targets(tag: ET.Element) -> list[str]:
    return [name.strip() for name in tag.get("toName", "").split(",")]


def _about_an_image(tag: ET.Element, images: dict[str, ET.Element]) -> str:
    """The first image this `Choices` is about, or "" where it is unnamed, about a part of it, or about something else."""
    if not tag.get("name") or _part(tag):
        return ""
    return next((name for name in _targets(tag) if name in images), "")


def _part(tag: ET.Element) -> str:
    """The attribute that makes this tag ask about a part of the image, or ""."""
    return next((name for name in ("perRegion", "perItem") if tag.get(name, "").lower() == "true"), "")


def _conditional(tag: ET.Element, *, within: bool = False) -> set[ET.Element]:
    """The `Choices` below `tag` that are shown only under a condition, of their own or of a `View` around them."""
    within = within or bool(tag.get("visibleWhen"))
    found = {tag} if within and tag.tag == "Choices" else set()
    return found.union(*(_conditional(child, within=within) for child in tag))


def _pick(kind: str, known: dict[str, ET.Element], chosen: str | None, default: str | None) -> str | None:
    """The name meant; None where there are several. Raises InvalidInputError for a chosen one that is not there."""
    if chosen is not None and chosen not in known:
        raise InvalidInputError(
            f'The label config has no <{kind} name="{chosen}"> to learn; it has {", ".join(known)}. Choose again, '
            f"for example with `ml-backend setup-project --{kind.lower()} {next(iter(known))}`, or restore the old "
            "name."
        )
    if chosen is not None or len(known) == 1:
        return chosen or next(iter(known))
    return default if default in known else None


def _several(
    root: ET.Element, usable: dict[str, ET.Element], images: dict[str, ET.Element], found: tuple[str | None, str | None]
) -> str:
    """Which names there are, and how to choose among them."""
    sometimes = _conditional(root)
    said, options = [], []
    if found[0] is None:
        names = [name + (" (shown only under a condition)" if tag in sometimes else "") for name, tag in usable.items()]
        said.append(f"{len(usable)} <Choices> about images ({', '.join(names)})")
        options.append("choices")
    if found[1] is None:
        said.append(f"{len(images)} images ({', '.join(images)})")
        options.append("image")
    return (
        f"The label config has {' and '.join(said)}, and only one {'of each ' * (len(said) > 1)}can be used. Choose with "
        f"`ml-backend setup-project {' '.join(f'--{name} NAME' for name in options)}`, or enter "
        f"{', '.join(f'{name}=NAME' for name in options)} as the model's extra params in Label Studio{_ONE_IMAGE if found[1] is None else '.'}"
    )


def _no_image(root: ET.Element) -> str:
    if root.find(".//Image") is not None:
        return "The <Image> of the label config has no name: give it one, and point toName of the <Choices> at it."
    shown = sorted({tag.tag for tag in root.iter() if tag.get("name") and tag.get("value") and not tag.get("toName")})
    instead = f"; it shows <{'>, <'.join(shown)}>" if shown else ""
    return f"The label config has no <Image>{instead}. Only images can be learned: use a config such as {_EXAMPLE}"


def _no_choices(root: ET.Element, images: dict[str, ET.Element]) -> str:
    """Why no `Choices` will do, and what would."""
    missing = "The label config has no <Choices> about an image"
    for tag in root.iter("Choices"):
        name = f'<Choices name="{tag.get("name")}">'
        if not tag.get("name"):
            return f'{missing}: the one it has lacks a name; add one, such as name="choice".'
        if part := _part(tag):
            what = "regions" if part == "perRegion" else "items"
            return f"{missing}: {name} asks about {what} of it. Remove {part}, or add <Choices> about the whole image."
        if not _about_an_image(tag, images):
            return f'{missing}: {name} is about "{tag.get("toName", "")}". Set its toName="{next(iter(images))}".'
    asked = sorted({tag.tag for tag in root.iter() if tag.get("toName") and tag.tag not in _LAYOUT})
    instead = f"; it asks for <{'>, <'.join(asked)}>, which cannot be learned here" if asked else ""
    first = next(iter(images))
    return (
        f'{missing}{instead}. Add <Choices name="choice" toName="{first}"><Choice value="..."/><Choice value="..."/></Choices>'
        f"{_ONE_IMAGE if len(images) > 1 else '.'}"
    )


def _only_sometimes(tag: ET.Element, *, others: bool) -> str:
    fix = "Choose another with `ml-backend setup-project --choices NAME`, or remove" if others else "Remove"
    return (
        f'<Choices name="{tag.get("name")}"> is shown only under a condition (visibleWhen), so it is not asked for '
        f"every image and cannot be learned. {fix} the condition, in a separate project if necessary."
    )


def _guess(root: ET.Element, image: ET.Element) -> str:
    """The `TextArea` that takes the model's guess in words, or ""."""
    areas = [tag for tag in root.iter("TextArea") if tag.get("name") == GUESS]
    about = [tag for tag in areas if tag.get("toName") == image.get("name") and not tag.get("perRegion")]
    return GUESS if about else ""


def _image_key(image: ET.Element) -> str:
    name, value = image.get("name"), image.get("value", "")
    if image.get("valueList"):
        raise InvalidInputError(
            f'<Image name="{name}"> shows several images at once (valueList), which is not supported: import each image '
            'as a task of its own, and use value="$image".'
        )
    match = _KEY.fullmatch(value)
    if match is None:
        why = "is put together from parts" if "$" in value else "does not name a field of the task data"
        raise InvalidInputError(
            f'<Image name="{name}"> has value="{value}", which {why}. That is not supported: put the whole address into '
            'the task data, and use its field alone, as in value="$image".'
        )
    return match[1]


def _labels(tag: ET.Element) -> tuple[str, ...]:
    name = f'<Choices name="{tag.get("name")}">'
    if tag.get("value") or any(_from_the_task(choice) for choice in tag.iter("Choice")):
        raise InvalidInputError(
            f'{name} takes its choices from the task data (value="$..."), so each image may have different ones, which cannot '
            'be learned: list them in the config, as <Choice value="cat"/>.'
        )
    if any(choice.find(".//Choice") is not None for choice in tag.iter("Choice")):
        raise InvalidInputError(f"{name} has nested choices, which cannot be learned: list them all on one level.")
    # An alias takes the place of the value in what Label Studio stores.
    values = [choice.get("alias") or choice.get("value") or "" for choice in tag.iter("Choice")]
    if len(values) < 2 or not all(value.strip() for value in values):
        raise InvalidInputError(f'{name} needs at least two <Choice value="..."/> inside, each with a value: add them.')
    if duplicates := [value for value, count in Counter(values).items() if count > 1]:
        raise InvalidInputError(
            f'{name} has the choice "{duplicates[0]}" twice, and their answers cannot be told apart: rename or remove one.'
        )
    return tuple(values)


def _from_the_task(choice: ET.Element) -> bool:
    return not choice.get("alias") and _VARIABLE.search(choice.get("value", "")) is not None


def label_config(labels: Sequence[str], *, multiple: bool = False, image_key: str = "image") -> str:
    """A label config for these labels, good to label with; `parse_label_config` of it gives them back.

    The image fits the window and stands beside the choices, each with a key, which scroll on their own where they are many.
    Raises InvalidInputError for a label that Label Studio would not show as it is.
    """
    for label in labels:
        if _VARIABLE.search(label):
            raise InvalidInputError(
                f'The label "{label}" cannot be used: Label Studio replaces a $ and what follows it with task data. '
                "Remove the $."
            )
    choices = "\n".join(
        f"      <Choice value={quoteattr(label)}{f' hotkey={quoteattr(key)}' if key else ''}/>"
        for label, key in zip(labels, hotkeys(labels), strict=True)
    )
    return _PAGE.format(
        value=quoteattr(f"${image_key}"),
        question="Which labels fit?" if multiple else "Which one is it?",
        choice="multiple" if multiple else "single",
        choices=choices,
        small=_SMALL,
        filter=_FILTER if len(labels) > _MANY else "",
    )


def hotkeys(labels: Sequence[str]) -> list[str]:
    """A key for each label, "" where none is left: a label of one sign is its own key, the others take what is free.

    Keys and order are those that Label Studio gives by itself; it leaves out those that do something else on its page.
    """
    own = {label.lower() for label in labels if label.lower() in _KEYS and len(label) == 1}
    free = (key for key in _KEYS if key not in own)
    taken: set[str] = set()
    found = []
    for label in labels:
        key = label.lower() if label.lower() in own - taken else next(free, "")
        taken.add(key)
        found.append(key)
    return found

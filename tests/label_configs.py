"""Label configs and what becomes of each: accepted, or the sentence. `python -m tests.label_configs` prints the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from ml_backend.demo.label_studio import find_binary
from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.config import parse_label_config
from ml_backend.records import LabelSchema, Selection

ROOT = Path(__file__).resolve().parents[1]
IMAGE = '<Image name="img" value="$photo"/>'
ANOTHER = '<Image name="back" value="$back"/>'
PETS = '<Choice value="cat"/><Choice value="dog"/>'
KIND = f'<Choices name="kind" toName="img">{PETS}</Choices>'
MOOD = '<Choices name="mood" toName="img"><Choice value="calm"/><Choice value="cross"/></Choices>'
BREED = f'<Choices name="breed" toName="img" visibleWhen="choice-selected" whenTagName="kind" whenChoiceValue="dog">{PETS}</Choices>'
OTHERS = (
    '<Text name="t" value="$t"/><Rating name="r" toName="img"/><TextArea name="ta" toName="img"/>'
    '<RectangleLabels name="box" toName="img"><Label value="ear"/></RectangleLabels>'
)
SCHEMA = LabelSchema("kind", "img", "photo", ("cat", "dog"))

ADD = r"Add <Choices name="
CHOOSE = r"Choose with `ml-backend setup-project --"
LIST = "list them in the config"
WHOLE = 'use its field alone, as in value="\\$image"'

TEMPLATES: dict[str, LabelSchema | str] = {
    "community-contributions/breast-cancer-mammogram-classification": CHOOSE + "choices NAME --image NAME`",
    "community-contributions/ocr-invoices-pre-ner-bio-format": "<RectangleLabels>, <TextArea>, .*" + ADD,
    "computer-vision/image-captioning": "<TextArea>, .*" + ADD,
    "computer-vision/image-classification": LabelSchema(
        "choice", "image", "image", ("Adult content", "Weapons", "Violence")
    ),
    "computer-vision/inventory-tracking": "<PolygonLabels>, .*" + ADD,
    "computer-vision/keypoints": "<KeyPointLabels>, .*" + ADD,
    "computer-vision/medical-image-classification-with-bboxes": LabelSchema(
        "classification", "image", "image", ("Benign", "Malignant", "Normal")
    ),
    "computer-vision/multipage-documents": "import each image as a task of its own",
    "computer-vision/object-detection-with-bounding-boxes": "<RectangleLabels>, .*" + ADD,
    "computer-vision/optical-character-recognition": "<Labels>, <Polygon>, <Rectangle>, <TextArea>, .*" + ADD,
    "computer-vision/semantic-segmentation-with-masks": "<BrushLabels>, .*" + ADD,
    "computer-vision/semantic-segmentation-with-polygons": "<PolygonLabels>, .*" + ADD,
    "computer-vision/visual-genome": "<RectangleLabels>, .*" + ADD,
    "computer-vision/visual-question-answering": "<Labels>, <TextArea>, .*" + ADD,
    "ranking-and-scoring/content-based-image-search": CHOOSE + "image NAME`",
    "ranking-and-scoring/pairwise-regression": "<Rating>, .*" + ADD,
}
"""Label Studio's own templates about images, by folder; the others are told that they lack an <Image>."""

VARIANTS: dict[str, tuple[str, Selection, LabelSchema | str]] = {
    "one choice, one image": (IMAGE + KIND, Selection(), SCHEMA),
    "a choice beside boxes, texts and ratings": (
        IMAGE + OTHERS + KIND,
        Selection(),
        SCHEMA,
    ),
    "a choice beside one about regions": (
        IMAGE + KIND + f'<Choices name="part" toName="img" perRegion="true">{PETS}</Choices>',
        Selection(),
        SCHEMA,
    ),
    "two choices": (IMAGE + KIND + MOOD, Selection(), r"2 <Choices> .*\(kind, mood\).*" + CHOOSE + "choices NAME`"),
    "two choices, one chosen": (IMAGE + KIND + MOOD, Selection("kind"), SCHEMA),
    "the chosen one is not there": (IMAGE + MOOD, Selection("kind"), "it has mood. Choose again, .*--choices mood`"),
    "two images": (IMAGE + ANOTHER + KIND, Selection(), r"2 images \(img, back\).*" + CHOOSE + "image NAME`"),
    "two images, one chosen": (IMAGE + ANOTHER + KIND, Selection(image="img"), SCHEMA),
    "two images, the one chosen that the choice is not about": (
        IMAGE + ANOTHER + KIND,
        Selection(image="back"),
        LabelSchema("kind", "img", "back", ("cat", "dog")),
    ),
    "the chosen image is not there": (IMAGE + KIND, Selection(image="side"), "Choose again, .*--image img`"),
    "several views of one thing": (
        IMAGE + ANOTHER + KIND.replace('"img"', '"img,back"'),
        Selection(image="back"),
        LabelSchema("kind", "back", "back", ("cat", "dog")),
    ),
    "a choice that depends on another": (
        IMAGE + KIND + BREED,
        Selection(),
        r"kind, breed \(shown only under a condition",
    ),
    "a choice that another depends on": (IMAGE + KIND + BREED, Selection("kind"), SCHEMA),
    "the dependent choice, chosen": (
        IMAGE + KIND + BREED,
        Selection("breed"),
        "Choose another with .* or remove the condi",
    ),
    "a choice that is not always shown": (IMAGE + BREED, Selection(), "Remove the condition"),
    "a view that is not always shown": (
        f'{IMAGE}<View visibleWhen="region-selected">{KIND}</View>',
        Selection(),
        "Remove the condition",
    ),
    "a taxonomy alone": (
        f'{IMAGE}<Taxonomy name="t" toName="img">{PETS}</Taxonomy>',
        Selection(),
        "<Taxonomy>, which cannot be learned here. " + ADD,
    ),
    "a rating alone": (f'{IMAGE}<Rating name="r" toName="img"/>', Selection(), "<Rating>, .*" + ADD),
    "nothing is asked": (IMAGE, Selection(), ADD),
    "a choice about regions": (
        IMAGE + KIND.replace("name=", 'perRegion="true" name='),
        Selection(),
        "about regions of it. Remove perRegion",
    ),
    "a choice about items": (IMAGE + KIND.replace("name=", 'perItem="true" name='), Selection(), "Remove perItem"),
    "a choice about a text": (
        f'{IMAGE}<Text name="t" value="$t"/>{KIND.replace("img", "t")}',
        Selection(),
        'Set its toName="img"',
    ),
    "a choice without a name": (IMAGE + KIND.replace('name="kind"', ""), Selection(), "lacks a name"),
    "an image without a name": (IMAGE.replace('name="img"', "") + KIND, Selection(), "has no name: give it one"),
    "part of an address": (IMAGE.replace("$photo", "https://x/$photo") + KIND, Selection(), "put together.*" + WHOLE),
    "an element of a list": (IMAGE.replace("$photo", "$photos[0]") + KIND, Selection(), WHOLE),
    "a fixed image": (IMAGE.replace("$photo", "photo.png") + KIND, Selection(), "does not name a field.*" + WHOLE),
    "a list of images": (
        IMAGE.replace("value=", "valueList=") + KIND,
        Selection(),
        "import each image as a task of its own",
    ),
    "choices from the task": (f'{IMAGE}<Choices name="kind" toName="img" value="$options"/>', Selection(), LIST),
    "a choice from the task": (IMAGE + KIND.replace("dog", "$other"), Selection(), LIST),
    "a choice twice": (IMAGE + KIND.replace("dog", "cat"), Selection(), '"cat" twice.*: rename or remove one'),
    "nested choices": (
        IMAGE + KIND.replace('<Choice value="dog"/>', '<Choice value="dog"><Choice value="pug"/></Choice>'),
        Selection(),
        "nested.*list them all on one level",
    ),
    "one choice only": (IMAGE + KIND.replace('<Choice value="dog"/>', ""), Selection(), "at least two"),
    "an empty choice": (IMAGE + KIND.replace("dog", " "), Selection(), "at least two"),
    "a video": (f'<Video name="img" value="$photo"/>{KIND}', Selection(), "shows <Video>. Only .*use a config such as"),
    "a text": (f'<Text name="img" value="$photo"/>{KIND}', Selection(), "shows <Text>. Only .*use a config such as"),
}
"""Inside of <View>: what is in the config, what was chosen, and what has to come of it (a regular expression)."""


def templates() -> Iterator[tuple[str, str]]:
    """(path, config) of every template of the Label Studio that is installed; none where there is none."""
    binary = find_binary(ROOT, os.environ)
    if binary is None:
        return
    root = next(binary.resolve().parent.parent.glob("lib/python*/site-packages/label_studio/annotation_templates"))
    for path in sorted(root.rglob("config.*")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(root).as_posix(), yaml.safe_load(text)["config"] if path.suffix == ".yml" else text


def outcome(xml: str, selection: Selection = Selection()) -> LabelSchema | str:  # noqa: B008 - frozen
    """What is learned, or the sentence."""
    try:
        return parse_label_config(xml, selection)
    except InvalidInputError as error:
        return str(error)


def main() -> None:
    rows = [(path, outcome(xml)) for path, xml in templates()]
    rows += [(name, outcome(f"<View>{xml}</View>", selection)) for name, (xml, selection, _) in VARIANTS.items()]
    print("| config | what comes of it |\n|---|---|")
    for name, came in rows:
        print(f"| {name} | {_told(came)} |")


def _told(came: LabelSchema | str) -> str:
    if isinstance(came, LabelSchema):
        return f"learned: `{came.from_name}` from `${came.image_key}`: {', '.join(came.labels)}"
    return came.replace("|", "\\|")


if __name__ == "__main__":
    main()

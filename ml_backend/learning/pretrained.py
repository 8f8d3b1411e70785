"""A classifier trained elsewhere: predict with it before the first label, and start from it afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import nn

from ml_backend.encoders.networks import (
    Asked,
    NetworkEncoder,
    Preprocessing,
    classifier_path,
    feature_count,
    load_body,
    new_body,
    new_network,
    preprocessing_of,
)
from ml_backend.encoders.weights import read_state_dict
from ml_backend.errors import InvalidInputError
from ml_backend.learning.head import Head
from ml_backend.wording import amount


@dataclass(frozen=True)
class LabelMatch:
    """Which class of the file is which label. matched: label -> class name of the file."""

    matched: dict[str, str]
    labels_without_class: tuple[str, ...]
    classes_without_label: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{amount(len(self.matched), 'label')} matched: " + ", ".join(f"{a} = {b}" for a, b in self.matched.items())
        ]
        if self.labels_without_class:
            lines.append("labels without a class in the file: " + ", ".join(self.labels_without_class))
        if self.classes_without_label:
            lines.append("classes in the file without a label: " + ", ".join(self.classes_without_label))
        return "; ".join(lines)


@dataclass(frozen=True)
class Imported:
    encoder: NetworkEncoder
    head: Head
    match: LabelMatch


def import_classifier(
    path: Path,
    *,
    model_type: str,
    labels: Sequence[str],
    class_names: Sequence[str] | None = None,
    n_classes: int | None = None,
    multilabel: bool = False,
    preprocessing: Preprocessing | None = None,
    sample: Sequence[Image.Image],
) -> Imported:
    """Read a state dict of torchvision's (or `timm:`) `model_type`, its final layer included.

    labels: those of the label config; the head answers in these, in this order. class_names: of the file, in its
    order; left out, they are read from a safetensors file's metadata (`classes`), or are the labels, if as many.
    n_classes: checked against the file, if given. preprocessing: left out, it is what the file's metadata says
    (`preprocessing` as JSON, or `input` such as "64x64 RGB"), else that of the model type's own weights.
    sample: a few images of the project, to set the head's scale.
    Raises InvalidInputError where file, model type and names do not fit together; the message lists what differs.
    """
    state = read_state_dict(path)
    asked = Asked.of(model_type)
    weight, bias = _final_tensors(state, asked.network)
    if n_classes is not None and n_classes != len(weight):
        raise InvalidInputError(
            f"{path.name} has {len(weight)} classes, not {n_classes}: check the file, or correct the number."
        )
    names = _class_names(path, class_names, labels, len(weight))
    match = match_labels(labels, names)
    preprocessing = preprocessing or _stated_preprocessing(path) or preprocessing_of(asked)
    body = new_body(asked.network, preprocessing.crop)
    load_body(body, state, asked.network, size=preprocessing.crop)
    _check_that_one_layer_follows(body, state, asked.network, preprocessing.crop, (weight, bias))
    encoder = NetworkEncoder(asked.network, body, weight.shape[1], preprocessing)
    head = _head(weight, bias, names, labels, match, scale=encoder.raw_norm(sample), multilabel=multilabel)
    return Imported(encoder, head, match)


def match_labels(labels: Sequence[str], class_names: Sequence[str]) -> LabelMatch:
    """Match names, ignoring case, and taking `_`, `-` and runs of spaces for one space.

    Raises InvalidInputError if nothing matches, or two names fall together.
    """
    known = {_plain(name): name for name in class_names}
    wanted = {_plain(label): label for label in labels}
    if len(known) < len(class_names) or len(wanted) < len(labels):
        raise InvalidInputError("Two class names differ only in case or punctuation: rename one.")
    matched = {label: known[plain] for plain, label in wanted.items() if plain in known}
    without_class = tuple(label for plain, label in wanted.items() if plain not in known)
    without_label = tuple(name for plain, name in known.items() if plain not in wanted)
    if not matched:
        raise InvalidInputError(
            f"None of the file's classes is a label of the project. The file has: {', '.join(class_names)}. The "
            f"label config has: {', '.join(labels)}. Pass --classes with the matching labels, in the file's order."
        )
    return LabelMatch(matched, without_class, without_label)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _final_tensors(state: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (classes, features) and bias (classes,) of the classifier."""
    path = classifier_path(name, new_network(name))
    if path is None:
        raise _not_one_layer(name)
    weight, bias = state.get(f"{path}.weight"), state.get(f"{path}.bias")
    if weight is None:
        raise InvalidInputError(
            f"The file lacks {path}.weight, the final layer of a {name}: choose the right --model-type."
        )
    weight = weight.flatten(1)
    return weight, bias if bias is not None else weight.new_zeros(len(weight))


def _check_that_one_layer_follows(
    body: nn.Module, state: dict[str, torch.Tensor], name: str, size: int, final: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Raise InvalidInputError unless the whole network says what the final layer makes of the features of `body`."""
    weight, bias = final
    if feature_count(body, name, size) != weight.shape[1]:
        raise _not_one_layer(name)
    whole = new_network(name, classes=len(weight), size=size).eval()
    load_body(whole, state, name, size=size)
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said, expected = whole(pixels).flatten(1), body(pixels).flatten(1) @ weight.T + bias
    if not torch.allclose(said, expected, rtol=1e-2, atol=1e-2 * float(said.abs().max())):
        raise _not_one_layer(name)


def _not_one_layer(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"The classes of a {name} are not given by one linear layer on its features, and only such a one can be gone on "
        "with: export the network as a file (.pt2 or .onnx) that gives features, and use that as the encoder."
    )


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as handle:
            return handle.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _class_names(path: Path, given: Sequence[str] | None, labels: Sequence[str], count: int) -> tuple[str, ...]:
    if given is None:
        stated = _metadata(path).get("classes", "")
        given = json.loads(stated) if stated.startswith("[") else [name.strip() for name in stated.split(",") if name]
        given = given or (labels if len(labels) == count else None)
    if given is None:
        raise InvalidInputError(
            f"{path.name} does not contain the names of its {count} classes: pass them in order with --classes."
        )
    if len(given) != count:
        raise InvalidInputError(
            f"{path.name} has {count} classes, but {len(given)} names were given with --classes: {', '.join(given)}."
        )
    return tuple(given)


def _stated_preprocessing(path: Path) -> Preprocessing | None:
    metadata = _metadata(path)
    stated: dict[str, Any] = json.loads(metadata.get("preprocessing", "null")) or {}
    if not stated and (size := re.match(r"(\d+)\s*x\s*\1\b", metadata.get("input", ""))):
        stated = {"resize": int(size[1]), "crop": int(size[1])}
    return Preprocessing.of(stated) if stated else None


def _head(
    weight: torch.Tensor,
    bias: torch.Tensor,
    names: tuple[str, ...],
    labels: Sequence[str],
    match: LabelMatch,
    *,
    scale: float,
    multilabel: bool,
) -> Head:
    """The file's final layer for unit rows: the network's own features were `scale` long on average.

    A label the file knows nothing of gets the file's mean evidence, less a little: possible, never preferred.
    """
    rows, biases = [], []
    for label in labels:
        if label in match.matched:
            index = names.index(match.matched[label])
            rows.append(weight[index] * scale)
            biases.append(float(bias[index]))
        else:
            rows.append(weight.mean(0) * scale)
            biases.append(float(bias.mean()) - 2.0)
    stacked = torch.stack(rows).numpy().astype(np.float32)
    return Head(tuple(labels), stacked, np.array(biases, np.float32), 1.0, multilabel)

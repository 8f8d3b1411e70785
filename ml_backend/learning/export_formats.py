"""Models out: every export is read back and compared on real images before it is called done."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from ml_backend.encoders.encoder import Encoder, load_encoder
from ml_backend.errors import BackendError, ConfigError, InvalidInputError
from ml_backend.images import recipe
from ml_backend.learning.head import Head
from ml_backend.learning.record import Record

Format = Literal["bundle", "pt2", "onnx"]
TOLERANCE = 1e-3
"""Largest difference in any probability between an export and the model it was made from."""

PREPARE = "prepare.py"
"""What `recipe.py` is called in an export."""

DATA_ONLY = ".onnx"
"""Encoder files that hold a graph of known operators and numbers, no code."""
HARMLESS = (
    # torch 2.x saves a convolution's weights as they lie in memory, channels last, and takes that for a part of a larger
    # tensor. What was saved is read back and compared, on the CPU.
    (UserWarning, "No complete tensor found in the group"),
    # torch's exporter calls its own deprecated function.
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
)
"""Warnings of torch's exporters that say nothing to whoever exports a model."""


@dataclass(frozen=True)
class Export:
    """A file or folder that was checked. difference: largest absolute difference in probability found."""

    path: Path
    format: Format
    images_compared: int
    difference: float


class Classifier(nn.Module):
    """Encoder and head as one network: prepared pictures (n, height, width, channels) uint8 -> probabilities (n, C)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.multilabel = head.multilabel
        self.register_buffer("weight", torch.from_numpy(head.weight / np.float32(head.temperature)))
        self.register_buffer("bias", torch.from_numpy(head.bias / np.float32(head.temperature)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.encoder(pixels) @ self.weight.T + self.bias
        return torch.sigmoid(logits) if self.multilabel else torch.softmax(logits, 1)


def export_model(
    encoder: Encoder,
    head: Head,
    path: Path,
    kind: Format,
    *,
    version: str,
    images: Sequence[Image.Image],
    origin: Mapping[str, str] | None = None,
    record: Record | None = None,
) -> Export:
    """Write the model to `path`, read it back, compare it on `images`, and only then give the file its name.

    bundle: a folder with encoder, head and `meta.json`; `load_bundle` reads it, and training can go on from it.
    origin, record: the store and the project whose labels it has learned from, and which; a bundle says so.
    pt2, onnx: one file from prepared uint8 pictures to probabilities. In each is how to prepare them: `prepare.py`, which
    needs Pillow and NumPy alone, makes of an image file what `meta.json` says.
    Raises InvalidInputError without images, ConfigError where the encoder is no network, BackendError if the copy
    does not agree with the model to TOLERANCE and in every first choice; nothing is left behind then.
    """
    if not images:
        raise InvalidInputError(
            "An export is checked on real images, and the project has none that can be read: import some."
        )
    meta = describe(encoder, head, version) | ({"origin": dict(origin or {})} if kind == "bundle" else {})
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write, read = _FORMATS[kind]
        with without_harmless_warnings():
            write(encoder, head, meta, temporary)
            if record is not None and kind == "bundle":
                record.save(temporary)
        difference = _compare(encoder, head, read(temporary), images)
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
    return Export(path, kind, len(images), difference)


def describe(encoder: Encoder, head: Head, version: str) -> dict[str, Any]:
    """The `meta.json` of an export."""
    return {
        "version": version,
        "labels": list(head.classes),
        "multilabel": head.multilabel,
        "temperature": head.temperature,
        "encoder": {"name": encoder.name, "id": encoder.id, "dim": encoder.dim},
        "preprocessing": encoder.describe(),
        "input": "uint8 (n, height, width, channels), as preprocessing says",
        "output": "float32 (n, labels), probabilities",
    }


def recipe_source() -> str:
    """The module that makes of an image file what an export takes."""
    return Path(recipe.__file__).read_text(encoding="utf-8")


def write_recipe(model: Path) -> Path:
    """Put the recipe beside a model file, under a name that Python imports: `birds_prepare.py` beside `birds.onnx`."""
    path = recipe_beside(model)
    path.write_text(recipe_source(), encoding="utf-8")
    return path


def recipe_beside(model: Path) -> Path:
    return model.with_name(re.sub(r"\W", "_", model.stem) + f"_{PREPARE}")


def load_bundle(folder: Path, trusted: Collection[str] = ()) -> tuple[Encoder, Head, dict[str, Any]]:
    """Read a bundle: encoder, head and meta.

    trusted: what may run code of its own, classes by `module:Class` and model files by path. Raises InvalidInputError
    where the bundle is not whole, or where loading it would run code that is not trusted.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        _refuse_program(folder, trusted)
        return load_encoder(folder, trusted), Head.load(folder), meta
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidInputError(f"{folder} is not a complete model bundle ({error}): export it again.") from error


def _refuse_program(folder: Path, trusted: Collection[str]) -> None:
    """Raise InvalidInputError for an encoder that is a torch program, unless a trusted file is the same.

    torch reads `.pt2` with pickle where it holds more than tensors, and TorchScript is a program by itself.
    """
    meta = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    if meta["kind"] != "file" or str(meta["file"]).endswith(DATA_ONLY):
        return
    content = (folder / Path(meta["file"]).name).read_bytes()
    if not any(Path(name).is_file() and Path(name).read_bytes() == content for name in trusted):
        raise InvalidInputError(
            f"The encoder of {folder.name} is {Path(meta['file']).name}, a program that would be run: if you trust it, "
            "add the path of the file to ML_BACKEND_ALLOWED_ENCODERS."
        )


@contextmanager
def without_harmless_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for category, beginning in HARMLESS:
            warnings.filterwarnings("ignore", beginning, category)
        yield


Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def _on_cpu(network: nn.Module) -> nn.Module:
    """A copy in float32 on the CPU, where exports are made and compared: the encoder serves on, where and as it is."""
    return copy.deepcopy(network).float().cpu().eval()


def _model_predict(encoder: Encoder, head: Head) -> Predict:
    network = encoder.module()
    forward = encoder.forward if network is None else _network_predict(_on_cpu(network))
    return lambda pixels: head.predict_proba(forward(pixels))


def _compare(encoder: Encoder, head: Head, predict: Predict, images: Sequence[Image.Image]) -> float:
    """Largest difference in probability over `images`; raises BackendError if it is too large."""
    expect = _model_predict(encoder, head)
    worst = 0.0
    for start in range(0, len(images), 32):
        pixels = np.stack([encoder.prepare(image) for image in images[start : start + 32]])
        expected = expect(pixels)
        found = predict(pixels)
        worst = max(worst, float(np.abs(expected - found).max()))
        flipped = expected.argmax(1) != found.argmax(1)
        # A first choice may differ only between probabilities that are equal as far as anybody can tell.
        gap = (
            expected[np.arange(len(expected)), expected.argmax(1)] - expected[np.arange(len(expected)), found.argmax(1)]
        )
        if worst > TOLERANCE or (flipped & (gap > 1e-5)).any():
            raise BackendError(
                f"The export differs from the model by {worst:.2g} in probability, so it was not kept: try another "
                "--format."
            )
    return worst


def _write_bundle(encoder: Encoder, head: Head, meta: dict[str, Any], path: Path) -> None:
    encoder.save(path)
    head.save(path)
    (path / "meta.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (path / PREPARE).write_text(recipe_source(), encoding="utf-8")


def _read_bundle(path: Path) -> Predict:
    """Our own copy, written a moment ago: whatever encoder it names is running already."""
    own = json.loads((path / "encoder.json").read_text(encoding="utf-8")).get("path", "")
    encoder, head = load_encoder(path, {own}), Head.load(path)
    return _model_predict(encoder, head)


def _network_predict(network: nn.Module) -> Predict:
    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = network(torch.from_numpy(pixels)).numpy()
        return probabilities

    return predict


def _traceable(encoder: Encoder, head: Head) -> tuple[nn.Module, torch.Tensor]:
    network = encoder.module()
    if network is None:
        raise ConfigError(f"The encoder {encoder.name} cannot be exported in this format: use --format bundle.")
    blank = encoder.prepare(Image.new("RGB", (encoder.input_size, encoder.input_size)))
    return Classifier(_on_cpu(network), head).eval(), torch.from_numpy(np.stack([blank, blank]))


def _write_pt2(encoder: Encoder, head: Head, meta: dict[str, Any], path: Path) -> None:
    network, example = _traceable(encoder, head)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    with path.open("wb") as handle:
        torch.export.save(program, handle, extra_files={"meta.json": json.dumps(meta), PREPARE: recipe_source()})


def _read_pt2(path: Path) -> Predict:
    with path.open("rb") as handle:
        return _network_predict(torch.export.load(handle).module())


def _write_onnx(encoder: Encoder, head: Head, meta: dict[str, Any], path: Path) -> None:
    try:
        import onnx  # noqa: PLC0415 - an extra
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError("ONNX exports need onnx, onnxscript and onnxruntime: install the extra `onnx`.") from error
    network, example = _traceable(encoder, head)
    shapes = ({0: torch.export.Dim("n", min=1)},)
    with torch.no_grad():
        program = torch.onnx.export(
            network, (example,), input_names=["pixels"], output_names=["probabilities"],
            dynamic_shapes=shapes, dynamo=True, verbose=False,
        )  # fmt: skip
    if program is None:
        raise BackendError("torch.onnx.export produced no program: use --format bundle.")
    model = program.model_proto
    told = {"meta.json": json.dumps(meta), "labels": json.dumps(list(head.classes)), PREPARE: recipe_source()}
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _read_onnx(path: Path) -> Predict:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("ONNX exports are checked with onnxruntime: install the extra `onnx`.") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(None, {"pixels": pixels})[0], np.float32)


Write = Callable[[Encoder, Head, dict[str, Any], Path], None]
_FORMATS: dict[Format, tuple[Write, Callable[[Path], Predict]]] = {
    "bundle": (_write_bundle, _read_bundle),
    "pt2": (_write_pt2, _read_pt2),
    "onnx": (_write_onnx, _read_onnx),
}

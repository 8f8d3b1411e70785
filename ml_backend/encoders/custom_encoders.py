"""Encoders brought along: a torch.export `.pt2`, a TorchScript or an ONNX file, or a Python class by `module:Class`.

docs/encoders.md says what each has to look like.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.export.passes import move_to_device_pass

from ml_backend.encoders.compute import chosen_device
from ml_backend.encoders.networks import Preprocessing
from ml_backend.errors import ConfigError, InvalidInputError
from ml_backend.images.recipe import Fit
from ml_backend.wording import shortened

logger = logging.getLogger(__name__)

Run = Callable[[NDArray[Any]], NDArray[np.floating[Any]]]
SUFFIXES = (".pt2", ".onnx", ".torchscript", ".ts")


class FileEncoder:
    """A model file that maps normalised float32 pictures (n, 3, size, size) to features (n, ...)."""

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self.path = path
        self.name = path.stem
        self.preprocessing = preprocessing
        self.input_size = preprocessing.resize
        content = hashlib.sha256(path.read_bytes() + json.dumps(preprocessing.stated()).encode())
        self.id = f"{_slug(self.name)}-{content.hexdigest()[:12]}"
        self.device = chosen_device()
        self._run, self.dim = self._tried()

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return self.preprocessing.prepare(image)

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return _unit(self._features(batch)) if len(batch) else np.zeros((0, self.dim), np.float32)

    def module(self) -> nn.Module | None:
        return None

    def describe(self) -> dict[str, Any]:
        return asdict(self.preprocessing)

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return _encode(self, images)

    def save(self, folder: Path) -> None:
        """Take the file itself along."""
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{_slug(self.name)}{self.path.suffix}"
        if copy.resolve() != self.path.resolve():
            shutil.copyfile(self.path, copy)
        _write(folder, self, {"kind": "file", "file": copy.name, "preprocessing": self.preprocessing.stated()})

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any]) -> FileEncoder:
        return cls(folder / Path(meta["file"]).name, Preprocessing.of(meta["preprocessing"]))

    def _tried(self) -> tuple[Run, int]:
        """What runs the file, and how many features it gives. On the processor where the file cannot run elsewhere."""
        pixels = np.zeros((1, 3, self.preprocessing.crop, self.preprocessing.crop), np.float32)
        if self.device.type != "cpu":
            try:
                run = _open(self.path, self.device)
                return run, int(np.asarray(run(pixels)).reshape(1, -1).shape[1])
            except Exception as error:  # noqa: BLE001 - a file that was made for a processor fails in its own way
                logger.warning(
                    "The encoder file %s does not run on %s, so it runs on the processor, which is slower (%s).",
                    self.path.name, self.device, shortened(str(error), 300),
                )  # fmt: skip
        self.device = torch.device("cpu")
        run = _open(self.path, self.device)
        return run, int(np.asarray(run(pixels)).reshape(1, -1).shape[1])

    def _features(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = (255 * np.array(each, np.float32) for each in (self.preprocessing.mean, self.preprocessing.std))
        pixels = np.ascontiguousarray(((batch.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))
        features = np.asarray(self._run(pixels), np.float32)
        return features.reshape(len(batch), -1)


class PythonEncoder:
    """An object of the user's own class, with `dim` and `encode(images)`; see docs/encoders.md.

    takes_turns: it is given one batch at a time, a large one; not where the class says `thread_safe = True`.
    """

    def __init__(self, path: str, fit: Fit = "crop") -> None:
        self.path = path
        module_name, _, class_name = path.partition(":")
        try:
            module = importlib.import_module(module_name)
            self._own = getattr(module, class_name)()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The encoder {path} cannot be created ({error}): the module must be importable and its class must "
                "need no arguments."
            ) from error
        missing = [name for name in ("dim", "encode") if not hasattr(self._own, name)]
        if missing:
            raise ConfigError(f"The encoder {path} lacks {' and '.join(missing)}; see the example in docs/encoders.md.")
        self.name = path
        self.dim = int(self._own.dim)
        self.input_size = int(getattr(self._own, "input_size", 224))
        self._preprocessing = Preprocessing(resize=self.input_size, crop=self.input_size, fit=fit)
        version = str(getattr(self._own, "version", "")) or _source_digest(module)
        known = f"{path} {version} {self.input_size}" + ("" if fit == "crop" else f" {fit}")
        self.id = f"{_slug(class_name)}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
        self.device = torch.device("cpu")
        self.takes_turns = not bool(getattr(self._own, "thread_safe", False))
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.takes_turns else nullcontext()

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return self._preprocessing.prepare(image)

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(batch) == 0:
            return np.zeros((0, self.dim), np.float32)
        with self._turn:  # where nobody promised that it may be called from several threads
            features = np.asarray(self._own.encode([Image.fromarray(pixels) for pixels in batch]), np.float32)
        if features.shape != (len(batch), self.dim):
            raise ConfigError(
                f"{self.path}.encode must return finite numbers of shape ({len(batch)}, {self.dim}), not "
                f"{features.shape}."
            )
        return _unit(features)  # a row that is not finite concerns its image alone: see the pipeline

    def module(self) -> nn.Module | None:
        return None

    def describe(self) -> dict[str, Any]:
        return asdict(self._preprocessing)

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return _encode(self, images)

    @property
    def reads_text(self) -> bool:
        """Whether sentences have vectors among those of the images."""
        return callable(getattr(self._own, "encode_text", None))

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentences -> unit rows (n, dim). Raises InvalidInputError where the class has no such method, or gives something else."""
        if not self.reads_text:
            raise InvalidInputError(
                f"{self.path} has no method encode_text(texts): images cannot be looked for by words."
            )
        with self._turn:
            features = np.asarray(self._own.encode_text(list(texts)), np.float32)
        if features.shape != (len(texts), self.dim) or not np.isfinite(features).all():
            raise InvalidInputError(
                f"{self.path}.encode_text must return finite numbers of shape ({len(texts)}, {self.dim}), not "
                f"{features.shape}."
            )
        return _unit(features)

    def save(self, folder: Path) -> None:
        """Only the class's name: its code stays where it is installed."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, self, {"kind": "python", "path": self.path, "fit": self._preprocessing.fit})

    @classmethod
    def load(cls, _folder: Path, meta: dict[str, Any]) -> PythonEncoder:
        return cls(meta["path"], meta.get("fit", "crop"))


def open_file_encoder(path: Path, fit: Fit | None = None) -> FileEncoder:
    """Use a model file; `<name>.json` beside it may give Preprocessing's fields (resize, crop, mean, std), `fit` another fit."""
    if not path.is_file():
        raise ConfigError(f"There is no encoder file {path}.")
    beside = path.with_suffix(".json")
    try:
        options = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        preprocessing = Preprocessing.of(options)
        return FileEncoder(path, preprocessing if fit is None else preprocessing.seen_as(fit))
    except ConfigError:
        raise
    except Exception as error:  # torch's loaders fail in whichever way the file is broken
        raise ConfigError(f"The encoder file {path.name} cannot be used ({shortened(str(error), 300)}).") from error


def _open(path: Path, device: torch.device) -> Run:
    if path.suffix == ".onnx":
        return _open_onnx(path, device)
    network: Any
    if path.suffix == ".pt2":
        program = torch.export.load(path)
        network = (program if device.type == "cpu" else move_to_device_pass(program, device)).module()
    else:
        network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]

    def run(pixels: NDArray[Any]) -> NDArray[np.floating[Any]]:
        with torch.inference_mode():
            output = network(torch.from_numpy(pixels).to(device))
        features = output[0] if isinstance(output, tuple | list) else output
        array: NDArray[np.floating[Any]] = features.float().cpu().numpy()
        return array

    return run


def _open_onnx(path: Path, device: torch.device) -> Run:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("ONNX encoders need onnxruntime: install the extra `onnx`.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the pipeline runs one lane a core
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type != "cpu":
        if device.type != "cuda" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ConfigError(f"this onnxruntime cannot use {device.type}: for an NVIDIA GPU install onnxruntime-gpu")
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise ConfigError(
            f"{path.name} is not an ONNX model that onnxruntime can run ({shortened(str(error), 300)})."
        ) from error
    if device.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ConfigError("onnxruntime could not start its CUDA provider: its CUDA and cuDNN are of other versions")
    name = session.get_inputs()[0].name

    def run(pixels: NDArray[Any]) -> NDArray[np.floating[Any]]:
        try:
            return np.asarray(session.run(None, {name: pixels})[0])
        except Exception as error:
            if any(sign in str(error).lower() for sign in ("out of memory", "failed to allocate memory")):
                raise MemoryError(str(error)) from error  # known to the pipeline, which halves the batch
            raise

    return run


def _encode(encoder: FileEncoder | PythonEncoder, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    if not images:
        return np.zeros((0, encoder.dim), np.float32)
    return encoder.forward(np.stack([encoder.prepare(image) for image in images]))


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that hold infinity become NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), np.float32)


def _source_digest(module: Any) -> str:
    source = getattr(module, "__file__", None)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-") or "encoder"


def _write(folder: Path, encoder: FileEncoder | PythonEncoder, meta: dict[str, Any]) -> None:
    meta = {**meta, "name": encoder.name, "id": encoder.id, "dim": encoder.dim}
    (folder / "encoder.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

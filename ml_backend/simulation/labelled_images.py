"""Labelled images -> features to replay on: of a folder by class, a CSV, or whatever else can name them."""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ml_backend.encoders.encoder import Encoder, build_encoder
from ml_backend.encoders.encoder_choice import choose
from ml_backend.encoders.weight_files import Fetching
from ml_backend.errors import ImageError, InvalidInputError
from ml_backend.images.decoding import decode
from ml_backend.simulation.code_version import code_digest
from ml_backend.simulation.data import Source, split, unit_rows

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".dcm"}
AT_ONCE = 256
Encoded = tuple[NDArray[np.float16], NDArray[np.int64]]
"""Features (k, d) of the images that can be read, and which of them these are (k,)."""


@dataclass(frozen=True)
class Example:
    """A labelled image: what to call it, its label, and how to get the file's bytes (which may raise ImageError).

    content: SHA-256 of these bytes in hex, where it is known without reading them.
    """

    name: str
    label: str
    read: Callable[[], bytes]
    content: str = ""

    def digest(self) -> str:
        """Of the content; of why there is none, where it cannot be read."""
        try:
            return self.content or hashlib.sha256(self.read()).hexdigest()
        except (ImageError, OSError) as error:
            return str(error)


def from_folder(folder: Path) -> list[Example]:
    """`folder/<class>/**/image`: the first folder is the label."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    inside = [(path, path.relative_to(folder)) for path in files]
    examples = [Example(str(rel), rel.parts[0], path.read_bytes) for path, rel in inside if len(rel.parts) > 1]
    if not examples:
        raise InvalidInputError(
            f"{folder} has no images in folders named after their class, such as {folder}/cat/1.jpg."
        )
    return examples


def from_csv(path: Path, root: Path | None = None) -> list[Example]:
    """Columns `filename` (or `image`) and `label`; files relative to `root`, by default to the CSV's own folder."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        columns = reader.fieldnames or []
        name = next((c for c in ("filename", "image") if c in columns), None)
        if name is None or "label" not in columns:
            raise InvalidInputError(
                f"{path} needs the columns filename and label; it has {', '.join(columns) or 'none'}."
            )
        rows = [(row[name], row["label"]) for row in reader if row["label"]]
    base = root or path.parent
    return [Example(file, label, (base / file).read_bytes) for file, label in rows]


def encoded(
    name: str,
    examples: Sequence[Example],
    encoder: str,
    cache: Path,
    *,
    weights: Path | None = None,
    progress: bool = True,
    downloads: bool = True,
) -> Source:
    """Encode once, keep the features in the folder `cache`, split by the seed. Unreadable images are left out and told.

    The features are known by what decides them: the images' content, the encoder, its weights and our code. downloads: whether
    published weights may be downloaded.
    """
    chosen = choose(encoder, weights, Fetching(allowed=downloads))
    file = cache / f"features-{fingerprint(examples, chosen.name, chosen.weights, progress=progress)[:16]}.npz"
    stored = _stored(file)
    if stored is None:
        cache.mkdir(parents=True, exist_ok=True)
        built = build_encoder(chosen.name, weights=chosen.weights, sample=lambda count: _sample(examples, count))
        stored = _encode(built, examples, progress=progress)
        _store(file, *stored)
    features, kept = stored
    classes = tuple(sorted({examples[i].label for i in kept}))
    labels = np.array([classes.index(examples[i].label) for i in kept], dtype=np.int64)
    return lambda seed: split(name, classes, features, labels, seed)


def _stored(file: Path) -> Encoded | None:
    """What is in the file; None where there is none, or a killed command left a part of it."""
    try:
        with np.load(file) as stored:
            return stored["features"], stored["kept"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _store(file: Path, features: NDArray[np.float16], kept: NDArray[np.int64]) -> None:
    """All of it or nothing, whoever else writes the same."""
    new = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with new.open("wb") as part:
            np.savez(part, features=features, kept=kept)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def fingerprint(examples: Sequence[Example], encoder: str, weights: Path | None, *, progress: bool) -> str:
    """Digest of content and order of the images, of the encoder, of the file it is or takes, and of the code of encoders."""
    files = [path for path in (weights, Path(encoder)) if path and path.is_file()]
    told = [
        encoder,
        code_digest(build_encoder.__module__),
        *(hashlib.sha256(f.read_bytes()).hexdigest() for f in files),
    ]
    bar = tqdm(examples, desc="reading", unit="image", disable=not progress)
    return hashlib.sha256(repr([told, [example.digest() for example in bar]]).encode()).hexdigest()


def _sample(examples: Sequence[Example], count: int) -> list[Image.Image]:
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    return [image for _, image in _pictures([examples[i] for i in order], None)]


def _encode(encoder: Encoder, examples: Sequence[Example], *, progress: bool) -> Encoded:
    rows: list[NDArray[np.float16]] = []
    kept: list[int] = []
    bar = tqdm(total=len(examples), desc=f"encoding with {encoder.name}", unit="image", disable=not progress)
    for start in range(0, len(examples), AT_ONCE):
        part = examples[start : start + AT_ONCE]
        pictures = list(_pictures(part, encoder.input_size))
        if pictures:
            rows.append(unit_rows(encoder.encode([image for _, image in pictures])))
            kept += [start + i for i, _ in pictures]
        bar.update(len(part))
    bar.close()
    if not rows:
        raise InvalidInputError("None of the images can be read: check the paths.")
    return np.concatenate(rows), np.array(kept, dtype=np.int64)


def _pictures(examples: Sequence[Example], size: int | None) -> Iterator[tuple[int, Image.Image]]:
    for i, example in enumerate(examples):
        try:
            yield i, decode(example.read(), size)
        except (ImageError, OSError) as error:
            tqdm.write(f"left out {example.name}: {error}")

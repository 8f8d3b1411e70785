"""Three kinds of data that no rule was made or tuned on: set aside until the end, and reported as they come out.

They are run by `python -m benchmarks.label_efficiency --set-aside` alone. Whoever changes a strategy does not look at them.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.strategy_data import FIT_IMAGES, fixed, from_source, mnist_images
from benchmarks.strategy_data import sources as known_sources
from ml_backend.encoders.patches import fit_patches
from ml_backend.simulation.data import Data, Source, unit_rows

TEXT_FONTS = ("DejaVuSans*.ttf", "DejaVuSerif*.ttf", "STIXGeneral*.ttf")
FEWEST, MOST, TO_TEST = 6, 60, 15
"""Glyphs of a class, in the pool and to test on."""
SIDE = 32
PAIRS = (("cat", "dog"), ("deer", "horse"), ("automobile", "truck"))
UNEVEN = 10
TAIL, TWINS, WRONG, NOISE = 5, 0.05, 0.05, 0.08
JUNK = 800


def sources(folder: Path) -> dict[str, Source]:
    """Name -> source, by the protocol of `strategy_data.sources`."""
    known = known_sources(folder)
    found = {"glyphs": fixed("glyphs", glyphs)}
    if "cifar_resnet" in known:
        found["cifar_twins"] = from_source(known["cifar_resnet"], uneven_pairs)
    if "mnist" in known:
        noise = fixed("mnist_noise", noise_images, folder / "mnist10k.tar.gz")
        found["mnist_messy"] = from_source(known["mnist"], lambda data, seed: messy(data, noise(0), seed))
    return found


def glyphs() -> Data:
    """The 94 characters of ASCII that leave ink, as text fonts draw them; some classes have a tenth of what others have.

    Each is shifted, turned, scaled, and covered with noise, all drawn by generator 0; `patches` fitted on the pool.
    """
    rng = np.random.default_rng(0)
    classes = tuple(c for c in string.printable if not c.isspace())
    sizes = np.geomspace(MOST, FEWEST, len(classes)).round().astype(int)[rng.permutation(len(classes))]
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    names = sorted(path for pattern in TEXT_FONTS for path in folder.glob(pattern) if "Display" not in path.name)
    fonts = [[ImageFont.truetype(path, size) for size in range(17, 25)] for path in names]
    known = np.repeat(np.arange(len(classes)), sizes)
    asked = np.repeat(np.arange(len(classes)), TO_TEST)
    pool, test = ([_glyph(classes[c], fonts, rng) for c in part] for part in (known, asked))
    order = rng.permutation(len(pool))
    encoder = fit_patches([pool[i] for i in order[:FIT_IMAGES]], seed=0)
    features = unit_rows(encoder.encode([pool[i] for i in order]))
    return Data("glyphs", classes, features, known[order], unit_rows(encoder.encode(test)), asked)


def _glyph(character: str, fonts: list[list[ImageFont.FreeTypeFont]], rng: np.random.Generator) -> Image.Image:
    """One of `SIDE` pixels; dots and commas keep their place on the line."""
    font = fonts[rng.integers(len(fonts))][rng.integers(len(fonts[0]))]
    image = Image.new("L", (SIDE, SIDE))
    place = (SIDE / 2 + rng.uniform(-3, 3), SIDE * 0.72 + rng.uniform(-3, 3))
    ImageDraw.Draw(image).text(place, character, fill=int(rng.integers(150, 256)), font=font, anchor="ms")
    turned = np.asarray(image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR), dtype=np.float32)
    noisy = turned + rng.uniform(5, 25) * rng.standard_normal(turned.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def uneven_pairs(data: Data, seed: int) -> Data:
    """Six classes of CIFAR-10 in pairs that look alike; one of each pair, drawn by the seed, is ten times as rare."""
    rng = np.random.default_rng([seed, 11])
    classes = tuple(name for pair in PAIRS for name in pair)
    rare = [pair[rng.integers(2)] for pair in PAIRS]

    def kept(labels: NDArray[np.int64], *, thinned: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        members = [rng.permutation(np.flatnonzero(labels == data.classes.index(name))) for name in classes]
        parts = [
            rows[: len(rows) // UNEVEN] if thinned and name in rare else rows
            for name, rows in zip(classes, members, strict=True)
        ]
        return np.concatenate(parts), np.repeat(np.arange(len(classes)), [len(part) for part in parts])

    (pool, labels), (test, truth) = kept(data.labels, thinned=True), kept(data.test_labels, thinned=False)
    order = rng.permutation(len(pool))
    return Data("cifar_twins", classes, data.features[pool[order]], labels[order], data.test_features[test], truth)


def noise_images(path: Path) -> Data:
    """Images of noise under the encoder that is fitted on MNIST's pool; their labels say nothing."""
    images, _ = mnist_images(path)
    pool = np.random.default_rng(0).permutation(len(images))[2000:]
    encoder = fit_patches([images[i] for i in pool[:FIT_IMAGES]], seed=0)
    rng = np.random.default_rng(1)
    drawn = [Image.fromarray(rng.integers(256, size=(28, 28), dtype=np.uint8)) for _ in range(JUNK)]
    nothing = np.zeros(JUNK, dtype=np.int64)
    features = unit_rows(encoder.encode(drawn))
    return Data("mnist_noise", ("noise",), features, nothing, features[:0], nothing[:0])


def messy(data: Data, noise: Data, seed: int) -> Data:
    """MNIST with a tail of 5 : 1, each row twice and nearly the same, one label in 20 wrong, and 8 % noise of any label."""
    rng = np.random.default_rng([seed, 12])
    count = len(data.classes)
    most = int(np.bincount(data.labels).min()) // 2
    sizes = np.geomspace(most, most / TAIL, count).round().astype(int)[rng.permutation(count)]
    rows = np.concatenate([rng.permutation(np.flatnonzero(data.labels == c))[:n] for c, n in enumerate(sizes)])
    features = np.concatenate([data.features[rows], _twins(data.features[rows], rng)])
    labels = np.tile(data.labels[rows], 2)
    wrong = rng.random(len(labels)) < WRONG
    labels[wrong] = (labels[wrong] + rng.integers(1, count, wrong.sum())) % count
    junk = rng.permutation(len(noise.features))[: round(len(labels) * NOISE / (1 - NOISE))]
    features = np.concatenate([features, noise.features[junk]])
    labels = np.concatenate([labels, rng.integers(count, size=len(junk))])
    order = rng.permutation(len(labels))
    return Data("mnist_messy", data.classes, features[order], labels[order], data.test_features, data.test_labels)


def _twins(features: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float16]:
    rows = features.astype(np.float32)
    typical = np.sqrt(2 * (1 - (rows.mean(0) ** 2).sum()))
    return unit_rows(rows + TWINS * typical / np.sqrt(rows.shape[1]) * rng.standard_normal(rows.shape))

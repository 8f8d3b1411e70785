"""The recipe that goes with an exported model makes of a file what the service makes of it."""

from __future__ import annotations

import ast
import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml_backend.encoders.encoder import Encoder, build_encoder, load_encoder
from ml_backend.encoders.networks import Preprocessing
from ml_backend.errors import ConfigError, ImageError
from ml_backend.images import recipe
from ml_backend.images.decoding import decode
from ml_backend.images.recipe import Fit
from ml_backend.settings import Settings
from ml_backend.store.encoder_origins import slug_of
from tests.images.awkward import awkward, deep, encoded
from tests.images.test_images import gradient

FITS: tuple[Fit, ...] = ("crop", "letterbox", "squash")
ALLOWED = {"__future__", "math", "collections", "typing", "numpy", "PIL"}


def drawn(width: int, height: int) -> Image.Image:
    """A disc of one colour off the middle, on a ground that changes: nothing in it is the same twice."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    disc = (across - 0.3) ** 2 + (down - 0.6) ** 2 < 0.04
    pixels = np.stack([200 * across, 150 * down, 250 * disc], 2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("fit", FITS)
def test_the_recipe_makes_of_each_awkward_file_what_the_service_makes_of_it(fit: Fit) -> None:
    preprocessing = Preprocessing(resize=40, crop=32, fit=fit)
    how = {"mode": "RGB", **preprocessing.stated()}
    names = []
    for name, data in awkward(drawn):
        served = preprocessing.prepare(decode(data, 40)).astype(int)
        apart = np.abs(recipe.prepare(io.BytesIO(data), how).astype(int) - served)
        assert apart.max() == 0, name
        names.append(name)
    assert len(names) > 30


def test_the_recipe_needs_nothing_but_pillow_and_numpy() -> None:
    tree = ast.parse(Path(recipe.__file__).read_text())
    froms = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in froms | plain} <= ALLOWED


def test_a_whole_picture_is_seen_whole() -> None:
    """A border at the outermost pixels is cut off by the crop, and is there in the others."""
    edged = Image.new("RGB", (120, 60), "black")
    for x in range(120):
        for y in range(60):
            if x < 6 or x >= 114:
                edged.putpixel((x, y), (255, 0, 0))
    red = {fit: Preprocessing(resize=32, crop=32, fit=fit).prepare(edged)[16, :, 0].astype(int) for fit in FITS}
    assert red["crop"].max() < 30
    assert min(red["letterbox"][0], red["letterbox"][-1], red["squash"][0], red["squash"][-1]) > 200


def test_a_letterbox_has_the_mean_colour_where_there_is_no_picture() -> None:
    boxed = Preprocessing(resize=32, crop=32, fit="letterbox").prepare(Image.new("RGB", (64, 32), "white"))
    assert boxed[0, 0].tolist() == [124, 116, 104]
    assert (boxed[8:24] == 255).all()
    assert (boxed[:8] == boxed[0, 0]).all()
    assert (boxed[24:] == boxed[0, 0]).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(1, 900), (900, 1), (7, 5), (333, 517), (32, 32)])
def test_every_shape_of_picture_fits(fit: Fit, size: tuple[int, int]) -> None:
    prepared = Preprocessing(resize=37, crop=32, fit=fit).prepare(Image.new("RGB", size, "red"))
    assert prepared.shape == (32, 32, 3)
    assert (prepared[15, 15] == (255, 0, 0)).all()


def test_a_fit_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="use crop, letterbox, squash"):
        Preprocessing.of({"fit": "pad"})


def test_what_is_kept_of_an_encoder_has_no_fit_where_it_is_what_it_always_was() -> None:
    """Or every encoder of an earlier release had another id."""
    assert set(Preprocessing().stated()) == {"resize", "crop", "mean", "std", "interpolation"}
    assert Preprocessing(fit="squash").stated()["fit"] == "squash"


@pytest.mark.parametrize("side", [32, 1500])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_one_hot_pixel_does_not_darken_a_picture_in_16_bits(kind: str, side: int) -> None:
    usual, hot = (np.asarray(decode(encoded(deep(drawn(side, side), hot=n), kind)), int) for n in (0, 1))
    assert usual.max() - usual.min() > 250
    assert np.abs(usual - hot).ravel()[1:].max() <= 5


def test_a_small_thing_on_an_even_ground_is_seen() -> None:
    """It is less than what is cut off at the ends; beside it, a hot pixel is still one."""
    levels = np.full((300, 300), 500, np.uint16)
    levels[100:105, 100:105] = np.linspace(2000, 2400, 25).reshape(5, 5)
    pixels = np.asarray(decode(encoded(Image.fromarray(levels))))
    assert pixels[0, 0] == 0
    assert len(np.unique(pixels[100:105, 100:105])) > 10


@pytest.mark.parametrize("value", [0, 65_535])
def test_an_even_picture_is_black_whatever_its_level(value: int) -> None:
    assert not np.asarray(decode(encoded(Image.fromarray(np.full((9, 9), value, np.uint16))))).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 555])
def test_a_pixel_that_is_no_number_is_told(value: float, place: int) -> None:
    levels = np.asarray(deep(drawn(60, 40), "float32")).copy()
    levels.ravel()[place] = value
    data = encoded(Image.fromarray(levels), "TIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"no number \(NaN or infinite\): save it with 0"):
            decode(data)


def test_a_colour_that_stands_for_transparent_is_white() -> None:
    for mode in ("RGB", "L"):
        picture = gradient(40, 30, mode)
        pixels = np.asarray(decode(encoded(picture, transparency=picture.getpixel((0, 0)))).convert("L"))
        assert pixels[0, 0] == 255
        assert (pixels < 200).any()


def built(name: str, fit: Fit | None) -> Encoder:
    return build_encoder(name, sample=lambda _: [drawn(90, 60), drawn(50, 70)], fit=fit)


@pytest.mark.parametrize(
    ("name", "own"), [("patches", "squash"), ("resnet18@none?size=64", "crop"), ("tests.bench:Blobs", "crop")]
)
def test_another_fit_is_another_encoder_that_is_kept_as_it_is(name: str, own: Fit, tmp_path: Path) -> None:
    ids = {fit: built(name, fit).id for fit in FITS}
    assert len(set(ids.values())) == 3
    assert built(name, None).id == ids[own]
    encoder = built(name, "letterbox")
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path, {name})
    assert loaded.id == ids["letterbox"]
    picture = Image.new("RGB", (80, 20), "white")
    assert loaded.prepare(picture)[0].max() < 140, "the border is there"
    assert loaded.prepare(picture)[loaded.prepare(picture).shape[0] // 2].min() > 250


def test_where_all_of_a_picture_is_to_be_seen_nothing_is_cut_off_it() -> None:
    whole = Preprocessing(resize=256, crop=224).seen_as("letterbox")
    assert (whole.resize, whole.fit) == (224, "letterbox")
    assert Preprocessing(resize=256, crop=224).seen_as("crop") == Preprocessing(resize=256, crop=224)


def test_the_setting_makes_another_encoder_and_leaves_out_nothing_where_it_is_not_set(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    slugs = {slug_of(settings.model_copy(update={"fit": fit})) for fit in ("auto", *FITS)}
    assert len(slugs) == 4
    assert slug_of(settings) == hashlib.sha256(b"auto  0").hexdigest()[:12], "as earlier releases called it"

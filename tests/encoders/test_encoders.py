"""Encoders of every kind: unit rows, stable ids, and what is saved is what is loaded."""

import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ml_backend.encoders.encoder import build_encoder, load_encoder
from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, build_network, headless, new_network
from ml_backend.encoders.patches import PatchEncoder, fit_patches
from ml_backend.encoders.pipeline import encode_all
from ml_backend.errors import ConfigError, InvalidInputError
from ml_backend.learning.training import train_head
from tests.pictures import Digits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def patches(digits: Digits) -> PatchEncoder:
    return fit_patches(digits[0][:300], seed=0)


@pytest.fixture(scope="module")
def small_network() -> NetworkEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network("resnet18"))
    return NetworkEncoder("resnet18", body, dim, Preprocessing(resize=32, crop=32))


def assert_unit_rows(vectors: NDArray[np.float32], n: int, dim: int) -> None:
    assert vectors.shape == (n, dim)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_patches_give_unit_rows_for_any_size_shape_and_mode(patches: PatchEncoder) -> None:
    images = [
        Image.new("L", (1, 1)),
        Image.new("RGB", (900, 20), "red"),
        Image.new("RGBA", (28, 28)),
        Image.effect_noise((50, 70), 80),
        Image.new("CMYK", (5, 400)),
    ]
    assert_unit_rows(patches.encode(images), 5, 256)


def test_same_images_and_seed_make_the_same_patches(digits: Digits, patches: PatchEncoder) -> None:
    assert fit_patches(digits[0][:300], seed=0).id == patches.id
    assert fit_patches(digits[0][:300], seed=1).id != patches.id


def test_patches_of_grey_images_have_one_channel_and_of_colour_images_three(
    digits: Digits, patches: PatchEncoder
) -> None:
    assert patches.config.channels == 1
    noise = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    assert fit_patches([Image.fromarray(pixels) for pixels in noise], seed=0).config.channels == 3


def test_patches_learned_from_one_image_still_tell_others_apart(digits: Digits) -> None:
    encoder = fit_patches(digits[0][:1], seed=0)
    vectors = encoder.encode(digits[0][:10])
    assert_unit_rows(vectors, 10, 256)
    assert (vectors @ vectors.T - np.eye(10)).max() < 0.99


def test_patches_of_blank_images_are_finite() -> None:
    encoder = fit_patches([Image.new("RGB", (40, 40), "white")] * 3, seed=0)
    assert np.isfinite(encoder.encode([Image.new("L", (3, 3))])).all()


def test_a_head_on_patches_reads_digits_from_four_hundred_labels(digits: Digits, patches: PatchEncoder) -> None:
    images, target = digits
    vectors = patches.encode(images)
    head = train_head(vectors[:400], target[:400], "0123456789", seed=0).head
    assert (head.predict_proba(vectors[400:]).argmax(1) == target[400:]).mean() > 0.93  # raw pixels give 0.90


@pytest.mark.parametrize("name", ["patches", "small_network"])
def test_saved_encoder_loads_with_the_same_id_and_vectors(
    request: pytest.FixtureRequest, digits: Digits, tmp_path: Path, name: str
) -> None:
    encoder = request.getfixturevalue(name)
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert (loaded.id, loaded.name, loaded.dim) == (encoder.id, encoder.name, encoder.dim)
    assert np.array_equal(loaded.encode(digits[0][:5]), encoder.encode(digits[0][:5]))


def test_no_images_give_no_rows(patches: PatchEncoder, small_network: NetworkEncoder) -> None:
    assert patches.encode([]).shape == (0, 256)
    assert small_network.encode([]).shape == (0, 512)


def test_encoder_whose_weights_were_exchanged_is_refused(patches: PatchEncoder, tmp_path: Path) -> None:
    patches.save(tmp_path)
    meta = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**meta, "id": "patches-000000000000"}))
    with pytest.raises(InvalidInputError, match="choose another version"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "pickle"}', '{"kind": "patches", "config": {"sise": 1}}'])
def test_damaged_encoder_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "encoder.json").write_text(content)
    with pytest.raises(InvalidInputError, match="not a saved encoder"):
        load_encoder(tmp_path)


def test_auto_without_pretrained_weights_is_patches_and_says_so(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with caplog.at_level("INFO"):
        encoder = build_encoder("auto", weights=None, sample=lambda k: digits[0][: min(k, 50)], seed=0)
    assert encoder.name == "patches"
    assert "patches" in caplog.text


def test_patches_without_any_image_are_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="import some"):
        build_encoder("patches", sample=lambda _: [])


@pytest.mark.parametrize("name", ["resnet19", "resnet18@IMAGENET9", "timm:no_such", "nowhere:Class", "missing.onnx"])
def test_unknown_encoder_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError):
        build_encoder(name, sample=lambda _: [])


def test_random_weights_follow_the_seed() -> None:
    one, two, three = (build_network("squeezenet1_1@none", seed=seed).id for seed in (0, 0, 1))
    assert one == two != three


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_16", "densenet121", "googlenet"]
)
def test_networks_of_many_families_give_their_penultimate_features(digits: Digits, name: str) -> None:
    encoder = build_network(f"{name}@none")
    vectors = encoder.encode(digits[0][:2])
    assert_unit_rows(vectors, 2, encoder.dim)


def test_timm_model_is_an_encoder_like_any_other(digits: Digits, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = build_encoder("timm:test_resnet@none", sample=lambda _: [])
    assert_unit_rows(encoder.encode(digits[0][:2]), 2, encoder.dim)
    encoder.save(tmp_path)
    assert load_encoder(tmp_path).id == encoder.id


class Squash(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)


def write_model_file(path: Path) -> None:
    example = torch.zeros(2, 3, 32, 32)
    if path.suffix == ".pt2":
        shapes = ({0: torch.export.Dim("n", min=1)},)
        torch.export.save(torch.export.export(Squash(), (example,), dynamic_shapes=shapes), path)
    elif path.suffix == ".onnx":
        pytest.importorskip("onnxruntime")
        from onnx import TensorProto, helper, save

        nodes = [
            helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 48])
        graph = helper.make_graph(nodes, "squash", [x], [y])
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    else:
        torch.jit.trace(Squash(), example).save(str(path))  # type: ignore[no-untyped-call]
    path.with_suffix(".json").write_text('{"resize": 32, "crop": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}')


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".torchscript"])
def test_model_file_of_ones_own_is_an_encoder_and_is_taken_along(digits: Digits, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"squash{suffix}"
    write_model_file(path)
    encoder = build_encoder(str(path), sample=lambda _: [])
    assert_unit_rows(encoder.encode(digits[0][:3]), 3, 48)
    encoder.save(tmp_path / "saved")
    path.unlink()
    loaded = load_encoder(tmp_path / "saved")
    assert loaded.id == encoder.id
    assert np.array_equal(loaded.encode(digits[0][:3]), encoder.encode(digits[0][:3]))


def test_model_file_that_is_no_model_is_a_clear_error(tmp_path: Path) -> None:
    for suffix in (".pt2", ".onnx", ".torchscript"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"nothing")
        with pytest.raises(ConfigError, match="broken"):
            build_encoder(str(path), sample=lambda _: [])


OWN = """
import numpy as np

class Brightness:
    dim = 2
    input_size = 16
    version = "1"

    def encode(self, images):
        grey = np.stack([np.asarray(image.convert("L"), np.float32) for image in images])
        return np.stack([1 + grey.mean((1, 2)), 1 + grey.std((1, 2))], 1)
"""


def test_python_class_of_ones_own_is_an_encoder(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_encoder.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_encoder", raising=False)
    encoder = build_encoder("own_encoder:Brightness", sample=lambda _: [])
    assert_unit_rows(encoder.encode(digits[0][:3]), 3, 2)
    encoder.save(tmp_path / "saved")
    assert load_encoder(tmp_path / "saved", {"own_encoder:Brightness"}).id == encoder.id


def test_one_image_that_a_class_makes_no_numbers_of_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_overflow.py").write_text(OWN.replace("1 + grey.mean((1, 2))", "1 / (grey.mean((1, 2)) > 9)"))
    monkeypatch.syspath_prepend(tmp_path)
    encoder = build_encoder("own_overflow:Brightness", sample=lambda _: [])
    files = {name: BytesIO() for name in ("black", "grey", "white")}
    for name, file in files.items():
        Image.new("L", (9, 9), name).save(file, "PNG")
    stored: list[NDArray[np.float32]] = []
    result = encode_all(list(files), lambda name: files[name].getvalue(), encoder, lambda _, rows: stored.append(rows))
    assert "own_overflow:Brightness gives NaN or infinity for this image" in str(result.failed["black"])
    assert set(result.hashes) == {"grey", "white"}
    assert np.isfinite(np.concatenate(stored)).all()


def test_a_name_in_a_file_does_not_decide_which_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    saved = {"kind": "python", "path": "stranger:Encoder", "name": "x", "id": "x", "dim": 2}
    (tmp_path / "encoder.json").write_text(json.dumps(saved))
    with pytest.raises(InvalidInputError, match="ML_BACKEND_ALLOWED_ENCODERS"):
        load_encoder(tmp_path, {"stranger:Another"})


def test_example_in_the_documentation_is_the_one_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    assert len(code.strip().splitlines()) <= 20
    (tmp_path / "documented_encoder.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    encoder = build_encoder("documented_encoder:ColourHistogram", sample=lambda _: [])
    assert_unit_rows(encoder.encode(digits[0][:3]), 3, encoder.dim)


def test_bfloat16_vectors_point_where_float32_vectors_point(digits: Digits) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network("resnet18"))
    images = [Image.effect_noise((64, 64), spread) for spread in range(20, 100, 10)]
    vectors = [
        NetworkEncoder("resnet18", body, dim, Preprocessing(resize=64, crop=64), precision=precision).encode(images)
        for precision in ("float32", "bfloat16")
    ]
    assert (vectors[0] * vectors[1]).sum(1).min() > 0.999

"""open_clip's models: pictures as open_clip sees them, sentences among them, and all of it kept with a version."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ml_backend.encoders.encoder import build_encoder, load_encoder
from ml_backend.encoders.networks import Asked, NetworkEncoder
from ml_backend.encoders.two_sided import TwoSidedEncoder, _known_config, build_two_sided
from ml_backend.encoders.vision import torchvision
from ml_backend.errors import ConfigError, DamagedError, InvalidInputError
from ml_backend.learning.export_formats import export_model
from ml_backend.learning.training import train_head
from tests.encoders.pictures_seen import likeness, pictures

pytestmark = pytest.mark.slow
torchvision()  # open_clip imports it, too
open_clip = pytest.importorskip("open_clip")
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.4], "std": [0.3, 0.2, 0.3], "interpolation": "bicubic"},
}
SIGLIP = {
    "model_cfg": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}
SENTENCES = ["a photo of a cat", "a photo of a dog", "Wolken \N{CLOUD} über \ud800 dem Meer", "", "word " * 2000]


def folder_of(config: dict[str, Any], folder: Path) -> Path:
    """As open_clip keeps a model, with random weights."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for name, tensor in network.state_dict().items():
            if name.endswith("bias"):
                tensor.add_(0.1 * torch.randn_like(tensor))
    save_file(
        {key: tensor.contiguous() for key, tensor in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@pytest.fixture(params=[CLIP, SIGLIP], ids=["CLIP", "SigLIP"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return folder_of(request.param, tmp_path / "model")


@pytest.fixture
def clip(tmp_path: Path) -> TwoSidedEncoder:
    return build_two_sided(f"open_clip:local-dir:{folder_of(CLIP, tmp_path / 'model')}")


def test_pictures_and_sentences_have_the_vectors_that_open_clip_gives_them(folder: Path) -> None:
    made = build_encoder(f"open_clip:local-dir:{folder}", sample=lambda _: [])
    assert isinstance(made, TwoSidedEncoder)
    body = made.module().get_submodule("body")
    exact = NetworkEncoder("x", body, made.dim, made.preprocessing, precision="float32")
    network, _, view = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    sentences = SENTENCES[:2]
    with torch.inference_mode():
        seen = network.eval().encode_image(torch.stack([view(picture) for picture in pictures()]))
        read = network.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(sentences), normalize=True)
    assert likeness(exact.encode(pictures()), seen) > 0.999
    assert np.allclose(made.encode_text(sentences), read.numpy(), atol=1e-5)


def test_a_saved_model_needs_neither_its_folder_nor_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build_two_sided(f"open_clip:local-dir:{folder}")
    made.save(tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks somebody"))
    loaded = load_encoder(tmp_path / "saved")
    assert isinstance(loaded, TwoSidedEncoder)
    assert (loaded.id, loaded.dim, loaded.reads_text) == (made.id, made.dim, True)
    assert np.array_equal(loaded.encode(pictures()), made.encode(pictures()))
    assert np.array_equal(loaded.encode_text(SENTENCES), made.encode_text(SENTENCES))
    assert not (tmp_path / "saved" / "encoder.safetensors").read_bytes().count(b"token_embedding")  # written once


def test_any_sentence_has_a_unit_row(clip: TwoSidedEncoder) -> None:
    rows = clip.encode_text(SENTENCES * 100)
    assert rows.shape == (500, clip.dim)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    assert np.allclose(rows[:5], rows[-5:], atol=1e-5)
    assert clip.encode_text([]).shape == (0, clip.dim)


def test_the_id_is_that_of_what_makes_the_vectors_of_pictures(clip: TwoSidedEncoder, tmp_path: Path) -> None:
    path = tmp_path / "model" / "open_clip_model.safetensors"
    for side, same in (("text_projection", True), ("visual.proj", False)):
        state = load_file(path)
        save_file({**state, side: state[side] * 1.5}, path)
        assert (build_two_sided(f"open_clip:local-dir:{tmp_path / 'model'}").id == clip.id) is same


def test_a_text_side_that_is_not_the_saved_one_is_refused(clip: TwoSidedEncoder, tmp_path: Path) -> None:
    clip.save(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "text.safetensors")
    save_file({**state, "text_projection": state["text_projection"] * 2}, tmp_path / "saved" / "text.safetensors")
    with pytest.raises(DamagedError, match="another one"):
        load_encoder(tmp_path / "saved")


def test_after_fine_tuning_words_are_not_read_any_more_and_that_is_kept(clip: TwoSidedEncoder, tmp_path: Path) -> None:
    body = clip.module().get_submodule("body")
    with torch.no_grad():
        body.get_parameter("proj").mul_(1.5)
    tuned = clip.with_body(body)
    tuned.save(tmp_path / "tuned")
    for encoder in (tuned, load_encoder(tmp_path / "tuned")):
        assert isinstance(encoder, TwoSidedEncoder)
        assert not encoder.reads_text
        assert encoder.id != clip.id
        with pytest.raises(InvalidInputError, match="fine-tuned"):
            encoder.encode_text(["a cat"])


@pytest.mark.parametrize("kind", ["pt2", "onnx", "bundle"])
def test_the_side_for_pictures_is_exported_like_any_network(clip: TwoSidedEncoder, tmp_path: Path, kind: Any) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    vectors = clip.encode(pictures())
    head = train_head(vectors, np.arange(len(vectors)) % 2, "ab", seed=0).head
    exported = export_model(clip, head, tmp_path / f"out.{kind}", kind, version="v1", images=pictures())
    assert exported.images_compared == len(pictures())


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """A model that open_clip knows by name."""
    path = tmp_path / "tiny-clip.json"
    path.write_text(json.dumps(CLIP["model_cfg"]))
    open_clip.add_model_config(path)
    yield "tiny-clip"
    open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    open_clip.factory._MODEL_CONFIGS.pop("tiny-clip")


def test_a_model_by_name_takes_weights_from_a_file_or_random_ones(
    tiny: str, clip: TwoSidedEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "model" / "open_clip_model.safetensors"
    by_file = build_encoder(f"open_clip:{tiny}", weights=file, sample=lambda _: [])
    assert isinstance(by_file, TwoSidedEncoder)
    assert np.allclose(by_file.encode_text(SENTENCES), clip.encode_text(SENTENCES), atol=1e-5)
    one, two, three = (build_two_sided(f"open_clip:{tiny}@none", seed=seed).id for seed in (0, 0, 1))
    assert one == two != three
    assert one.startswith("open_clip-tiny-clip-")


def test_weights_are_used_with_the_activation_and_the_view_that_they_were_trained_with() -> None:
    assert _known_config(Asked.of("ViT-B-32@openai"))["model_cfg"]["quick_gelu"]
    assert "quick_gelu" not in _known_config(Asked.of("ViT-B-32@laion2b_s34b_b79k"))["model_cfg"]
    assert _known_config(Asked.of("ViT-B-16-SigLIP"))["preprocess_cfg"]["resize_mode"] == "squash"


class Words:
    """A tokenizer of transformers, as far as open_clip uses one: a word is its length."""

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> Words:
        assert options["local_files_only"]
        assert not options["trust_remote_code"]
        if not (Path(source) / "words.json").is_file():
            raise OSError(f"{source} is not in the cache")
        return cls()

    def save_pretrained(self, folder: str) -> None:
        (Path(folder) / "words.json").write_text("{}")

    def __call__(self, texts: list[str], *, max_length: int, **_: Any) -> Any:
        rows = [[min(len(word), 99) for word in text.split()][:max_length] for text in texts]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return type("Tokens", (), {"input_ids": ids})()


def with_their_tokenizer(folder: Path) -> Path:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "no/body", "tokenizer_kwargs": {"trust_remote_code": True}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_a_tokenizer_of_transformers_is_kept_with_the_model_and_runs_no_code_of_its_own(
    clip: TwoSidedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("transformers")
    package.AutoTokenizer = Words  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", package)
    folder = with_their_tokenizer(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"no/body.*not in the cache.*into the folder"):
        build_two_sided(f"open_clip:local-dir:{folder}")
    Words().save_pretrained(str(folder))
    made = build_two_sided(f"open_clip:local-dir:{folder}")
    made.save(tmp_path / "saved")
    (folder / "words.json").unlink()
    loaded = load_encoder(tmp_path / "saved")
    assert isinstance(loaded, TwoSidedEncoder)
    assert np.allclose(loaded.encode_text(SENTENCES[:2]), made.encode_text(SENTENCES[:2]))


def test_without_the_package_of_its_tokenizer_the_error_names_it(
    clip: TwoSidedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = with_their_tokenizer(tmp_path / "model")
    with pytest.raises(ConfigError, match="pip install transformers"):
        build_two_sided(f"open_clip:local-dir:{folder}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("open_clip:ViT-B-33", "similar names: .*ViT-B-32"),
        ("open_clip:ViT-B-32@laion3b", "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32@none?size=100", "leave `.size=` away"),
        ("open_clip:roberta-ViT-B-32@none", "roberta-base"),
        ("open_clip:local-dir:/nowhere", "one file with the weights"),
        ("open_clip:hf-hub:somebody/model@none", "open_clip has no model 'hf-hub:somebody/model'"),  # nobody is asked
    ],
)
def test_a_model_that_cannot_be_had_is_a_clear_error(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_encoder(name, sample=lambda _: [])


def test_a_file_that_would_run_code_is_refused(clip: TwoSidedEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(nn.Linear(1, 1), folder / "open_clip_model.bin")
    with pytest.raises(ConfigError, match="without running code"):
        build_two_sided(f"open_clip:local-dir:{folder}")

"""Networks of timm and torchvision give what their own libraries give for the same pictures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from ml_backend.encoders.encoder import load_encoder
from ml_backend.encoders.networks import (
    Asked,
    NetworkEncoder,
    Preprocessing,
    build_network,
    feature_count,
    load_body,
    new_body,
    new_network,
    preprocessing_of,
)
from ml_backend.encoders.torchvision_networks import classifier_path, take_classifier_off
from ml_backend.encoders.vision import torchvision
from ml_backend.encoders.weights import digest
from ml_backend.errors import ConfigError
from ml_backend.store.vectors import FeatureStore
from tests.encoders.pictures_seen import likeness, pictures

pytestmark = pytest.mark.slow
torchvision()  # timm imports it, too
timm = pytest.importorskip("timm")

KINDS = (
    "timm:test_vit",
    "timm:deit_tiny_distilled_patch16_224?size=80",
    "timm:vit_small_patch14_reg4_dinov2.lvd142m?size=56",
    "timm:vit_small_patch16_dinov3.lvd1689m?size=64",
    "timm:vit_base_patch16_siglip_224.webli?size=80",
    "timm:vit_xsmall_patch16_clip_224.tinyclip_yfcc15m?size=80",
    "timm:convnext_atto.d2_in1k?size=56",
    "timm:efficientnet_lite0.ra_in1k?size=56",
    "timm:mobilenetv3_small_050.lamb_in1k?size=56",
    "timm:mobilenetv4_conv_small.e2400_r224_in1k?size=56",
    "timm:swin_tiny_patch4_window7_224.ms_in1k?size=112",
    "timm:resnet10t.c3_in1k?size=56",
    "timm:tf_efficientnetv2_b3.in21k_ft_in1k?size=72",  # squashes
)


def encoder_of(name: str) -> NetworkEncoder:
    """With random weights, and computing as exactly as the reference."""
    prefix, _, size = name.partition("?")
    encoder = build_network(f"{prefix}@none?{size}".rstrip("?"))
    return NetworkEncoder(
        encoder.name, encoder.module().get_submodule("body"), encoder.dim, encoder.preprocessing, precision="float32"
    )


def by_timm(name: str, encoder: NetworkEncoder) -> torch.Tensor:
    """timm's own features of timm's own view of the pictures, with the weights of `encoder`."""
    tag, _, size = name.removeprefix("timm:").partition("?size=")
    wanted = {"img_size": int(size)} if size else {}
    fixed = timm.get_pretrained_cfg(tag).fixed_input_size
    network = timm.create_model(tag, pretrained=False, **(wanted if fixed else {})).eval()
    unexpected = network.load_state_dict(
        encoder.module().get_submodule("body").state_dict(), strict=False
    ).unexpected_keys
    assert not unexpected
    config = timm.data.resolve_data_config(wanted, model=network)
    view = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        features = network.forward_features(torch.stack([view(picture) for picture in pictures()]))
        return torch.as_tensor(network.forward_head(features, pre_logits=True))


@pytest.mark.parametrize("name", KINDS)
def test_networks_of_timm_give_what_timm_gives(name: str) -> None:
    encoder = encoder_of(name)
    assert likeness(encoder.encode(pictures()), by_timm(name, encoder)) > 0.999


@pytest.mark.parametrize(
    "change", [{"resize": 67}, {"std": (0.27, 0.26, 0.28)}, {"interpolation": 0}, {"fit": "squash"}]
)
def test_another_view_of_the_pictures_would_be_noticed(change: dict[str, Any]) -> None:
    """Or the test above would say nothing."""
    name = "timm:resnet10t.c3_in1k?size=56"
    encoder = encoder_of(name)
    body, other = encoder.module().get_submodule("body"), replace(encoder.preprocessing, **change)
    changed = NetworkEncoder("x", body, encoder.dim, other, precision="float32")
    assert likeness(changed.encode(pictures()), by_timm(name, encoder)) < 0.999


@pytest.mark.parametrize(
    "name", ["resnet50@IMAGENET1K_V1", "vit_b_32@IMAGENET1K_V1", "mobilenet_v3_small@IMAGENET1K_V1"]
)
def test_networks_of_torchvision_give_what_torchvision_gives(name: str, tmp_path: Path) -> None:
    model, _, tag = name.partition("@")
    whole = new_network(model).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    made = build_network(name, weights=tmp_path / "whole.safetensors")
    body = made.module().get_submodule("body")
    encoder = NetworkEncoder(made.name, body, made.dim, made.preprocessing, precision="float32")
    view = torchvision().models.get_model_weights(model)[tag].transforms()
    seen: list[torch.Tensor] = []
    layer = whole.get_submodule(classifier_path(whole))
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        whole(torch.stack([view(picture) for picture in pictures()]))
    assert likeness(encoder.encode(pictures()), seen[0]) > 0.999


@pytest.mark.parametrize(
    ("name", "resize", "crop"),
    [
        ("resnet50@IMAGENET1K_V1", 256, 224),
        ("resnet50@IMAGENET1K_V2", 232, 224),
        ("resnet50", 232, 224),
        ("vit_h_14@IMAGENET1K_SWAG_E2E_V1", 518, 518),
        ("resnet50@IMAGENET1K_V1?size=112", 128, 112),
        ("timm:vit_small_patch14_dinov2.lvd142m", 518, 518),
        ("timm:vit_small_patch14_dinov2@lvd142m?size=224", 224, 224),
        ("timm:resnet50.a1_in1k", 235, 224),
    ],
)
def test_weights_are_shown_the_size_that_they_were_trained_for(name: str, resize: int, crop: int) -> None:
    found = preprocessing_of(Asked.of(name))
    assert (found.resize, found.crop) == (resize, crop)


@pytest.mark.long
@pytest.mark.parametrize("name", torchvision().models.list_models(module=torchvision().models))
def test_every_network_of_torchvision_gives_what_its_last_layer_saw(name: str) -> None:
    whole = new_network(name).eval()
    size = 75 if name == "inception_v3" else 224 if name.startswith(("vit", "maxvit")) else 64
    seen: list[torch.Tensor] = []
    layer = whole.get_submodule(classifier_path(whole))
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    with torch.inference_mode():
        whole(pixels := torch.randn(1, 3, size, size))
        hook.remove()
        dim = take_classifier_off(whole)
        features = whole(pixels)
    expected = seen[0].relu().mean((2, 3)) if name.startswith("squeezenet") else seen[0]
    assert features.shape == (1, dim)
    assert torch.allclose(features, expected, atol=1e-5)


def saved_by_an_earlier_release(name: str, folder: Path) -> tuple[str, NDArray[np.float32]]:
    """As 0.2 wrote it: the last linear layer off, and neither `layout` nor `fit` told. Returns its id and vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = new_network(name).eval()
    path = [path for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    dim = getattr(network.get_submodule(path), "in_features", 0)
    network.set_submodule(path, nn.Identity())
    stated = {"resize": 36, "crop": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "interpolation": 2}
    encoder_id = f"{name}-{digest(stated, network.state_dict())}"
    save_file(network.state_dict(), folder / "encoder.safetensors")
    meta = {"kind": "network", "name": name, "id": encoder_id, "dim": dim, "preprocessing": stated}
    (folder / "encoder.json").write_text(json.dumps(meta))
    prepared = np.stack([Preprocessing.of(stated).prepare(picture) for picture in pictures()])
    pixels = (torch.from_numpy(prepared).permute(0, 3, 1, 2) / 255 - torch.tensor(stated["mean"]).view(1, 3, 1, 1)) / (
        torch.tensor(stated["std"]).view(1, 3, 1, 1)
    )
    with torch.inference_mode():
        return encoder_id, nn.functional.normalize(network(pixels).flatten(1)).numpy()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet", "timm:test_resnet", "timm:caformer_s18"])
def test_an_encoder_of_an_earlier_release_loads_with_its_id_and_its_vectors(name: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    encoder_id, vectors = saved_by_an_earlier_release(name, tmp_path / "old")
    loaded = load_encoder(tmp_path / "old")
    assert loaded.id == encoder_id
    assert (loaded.encode(pictures()) * vectors).sum(1).min() > 0.999
    loaded.save(tmp_path / "again")
    assert load_encoder(tmp_path / "again").id == encoder_id


@pytest.mark.parametrize(
    "name", ["timm:test_vit?size=32", "timm:swin_tiny_patch4_window7_224.ms_in1k?size=56", "googlenet"]
)
def test_what_was_saved_is_loaded_at_its_size_and_its_id_is_one_that_vectors_are_kept_by(
    name: str, tmp_path: Path
) -> None:
    encoder = encoder_of(name)
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.id == encoder.id
    assert np.allclose(loaded.encode(pictures()), encoder.encode(pictures()), atol=0.02)  # one may be in bfloat16
    assert FeatureStore(tmp_path / "vectors").append(encoder.id, ["0" * 64], encoder.encode(pictures()[:1])) == 1


def test_weights_for_pictures_of_another_size_fit_as_the_libraries_make_them_fit() -> None:
    for name, other in (("timm:test_vit", 64), ("vit_b_32", 64), ("timm:vit_small_patch14_reg4_dinov2.lvd142m", 56)):
        theirs = new_network(name)
        body = new_body(name, other)
        load_body(body, theirs.state_dict(), name, size=other)
        with torch.inference_mode():
            assert body.eval()(torch.zeros(1, 3, other, other)).ndim == 2


def test_weights_under_an_older_librarys_names_are_read() -> None:
    state = new_network("densenet121").state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    assert old.keys() != state.keys()
    body = new_body("densenet121", 64)
    load_body(body, old, "densenet121")
    assert torch.equal(
        body.state_dict()["features.denseblock1.denselayer1.conv1.weight"],
        state["features.denseblock1.denselayer1.conv1.weight"],
    )


@pytest.mark.parametrize("name", ["resnet18", "timm:test_vit"])
def test_weights_of_another_network_are_refused_and_both_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"do not fit a {name}.*Choose the model type"):
        load_body(new_body(name, 160), new_network("squeezenet1_1").state_dict(), name, size=160)


class Several(nn.Module):
    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels, pixels


@pytest.mark.parametrize(
    ("body", "told"),
    [(Several(), "several outputs"), (nn.Conv2d(3, 4, 3), "pools nothing"), (nn.Linear(7, 7), "no pictures")],
)
def test_a_network_that_gives_no_row_of_features_is_refused(body: nn.Module, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        feature_count(body, "x", 16)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_b_32@none?size=100", "100 x 100"),
        ("timm:test_vit@none?sise=100", r"\?size=224"),
        ("timm:test_vit.r161", "r160_in1k"),
        ("resnet18@IMAGENET9", "IMAGENET1K_V1"),
        ("timm:vit_base_patch16_sapiens2.fb", r"\?size=768"),
    ],
)
def test_what_a_name_may_not_ask_for_is_told_with_what_it_may(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_network(name)

"""What of a network learns, and how fast: later layers faster, adapters that are merged leave no trace."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from ml_backend.encoders.networks import NetworkEncoder, Preprocessing
from ml_backend.encoders.vision import torchvision
from ml_backend.errors import ConfigError
from ml_backend.learning.adapters import adapt, merge
from ml_backend.learning.finetuning import finetune
from ml_backend.learning.layer_rates import block_paths, choose_part, depths, fits, parameter_groups, still
from ml_backend.learning.tuning_run import Recipe
from tests.learning.checkpoints import encoder

SIDE, LAYERS = 16, 3


def torchvision_vit() -> nn.Module:
    network: nn.Module = torchvision().models.VisionTransformer(SIDE, 8, LAYERS, 2, 8, 16)
    network.heads = nn.Identity()
    return network


def timm_vit() -> nn.Module:
    torchvision()
    timm = pytest.importorskip("timm")
    network: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, embed_dim=8, num_heads=2, depth=LAYERS, num_classes=0
    )
    return network


def open_clip_vit() -> nn.Module:
    torchvision()
    open_clip = pytest.importorskip("open_clip")
    network: nn.Module = open_clip.transformer.VisionTransformer(SIDE, 8, 8, LAYERS, 2, 2.0, output_dim=8)
    return network


def resnet() -> nn.Module:
    network: nn.Module = torchvision().models.resnet18()
    network.fc = nn.Identity()
    return network


VITS = pytest.mark.parametrize("make", [torchvision_vit, timm_vit, open_clip_vit])


def attentive(make: object = torchvision_vit) -> NetworkEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = make()  # type: ignore[operator]
    return NetworkEncoder("tiny", body, 8, Preprocessing(resize=SIDE, crop=SIDE))


@VITS
def test_each_block_is_a_layer_between_the_stem_and_the_last_norm(make: object) -> None:
    body = make()  # type: ignore[operator]
    assert len(block_paths(body)) == LAYERS
    layer = depths(body)
    for name, depth in layer.items():
        block = re.search(r"(?:blocks\.|encoder_layer_)(\d)", name)
        stem = any(
            each in name
            for each in (
                "token",
                "pos_embed",
                "patch_embed",
                "conv_proj",
                "class_emb",
                "positional",
                "conv1",
                "ln_pre",
                "proj",
            )
        )
        assert depth == (int(block[1]) + 1 if block else 0 if stem else LAYERS + 1), name


@VITS
def test_rates_fall_with_depth_from_the_head_to_the_stem_and_biases_are_not_decayed(make: object) -> None:
    body = make()  # type: ignore[operator]
    network = nn.ModuleDict({"features": nn.ModuleDict({"body": body}), "head": nn.Linear(8, 2)})
    groups = parameter_groups(network, rate=0.1, head_rate=0.3, decay=0.5, weight_decay=0.01)
    rate = {id(p): group["rate"] for group in groups for p in group["params"]}
    layer = depths(body)
    for name, parameter in body.named_parameters():
        assert rate[id(parameter)] == pytest.approx(0.1 * 0.5 ** (LAYERS + 1 - layer[name]))
    assert all(rate[id(parameter)] == 0.3 for parameter in network["head"].parameters())
    flat = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert all(p.ndim == 1 or p.shape[0] == 1 for p in flat)
    assert len(rate) == len(list(network.parameters()))


def test_convolutions_are_trained_by_sgd_at_one_rate_and_attention_by_adamw() -> None:
    assert fits(resnet()) == "sgd"
    assert fits(torchvision_vit()) == "adamw"
    assert Recipe().rates("sgd").decay == 1.0
    assert Recipe().rates("adamw").decay < 1.0


def test_of_the_last_blocks_alone_nothing_before_them_changes_or_counts() -> None:
    body = resnet()
    choose_part(body, "last", last=2, rank=1)
    learning = {name.split(".")[0] for name, parameter in body.named_parameters() if parameter.requires_grad}
    assert learning == {"layer4"}
    before = {name: buffer.clone() for name, buffer in body.named_buffers()}
    body.train()
    still(body)
    body(torch.rand(4, 3, 32, 32))
    changed = {name.split(".")[0] for name, buffer in body.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {"layer4"}


def test_what_stands_between_two_blocks_is_of_the_first_and_a_normalisation_is_no_block() -> None:
    torchvision()
    body = pytest.importorskip("timm").create_model("mobilenetv3_small_050", num_classes=0)
    order = [depth for name, depth in depths(body).items() if name.startswith("blocks.")]
    assert order == sorted(order)
    assert not any("bn" in path for path in block_paths(body))


@VITS
def test_adapters_change_nothing_at_first_and_merged_they_give_what_they_gave_beside_the_weights(make: object) -> None:
    body = make()  # type: ignore[operator]
    body.eval()
    names, pictures = list(body.state_dict()), torch.rand(2, 3, SIDE, SIDE)
    plain = body(pictures)
    assert adapt(body, rank=2) == 2 * LAYERS
    assert torch.allclose(body(pictures), plain, atol=1e-6)
    learning = [parameter for parameter in body.parameters() if parameter.requires_grad]
    assert sum(each.numel() for each in learning) < sum(each.numel() for each in body.parameters()) / 2
    with torch.no_grad():
        for parameter in learning:
            parameter.normal_()
    beside = body(pictures).detach()
    assert not torch.allclose(beside, plain, atol=1e-3)
    merge(body)
    assert torch.allclose(body(pictures), beside, atol=1e-5)
    assert list(body.state_dict()) == names or sorted(body.state_dict()) == sorted(names)


def test_a_network_tuned_with_adapters_is_built_as_before_and_differs_in_its_attention_alone() -> None:
    own = attentive()
    before = {name: tensor.clone() for name, tensor in own.module().get_submodule("body").state_dict().items()}
    pictures = np.random.default_rng(0).integers(0, 255, (24, SIDE, SIDE, 3), np.uint8)
    recipe = Recipe(epochs=1, batch_size=8, part="lora", rank=2)
    tuned = finetune(own, pictures, np.arange(24) % 2, ("a", "b"), seed=0, recipe=recipe)
    after = tuned.encoder.module().get_submodule("body").state_dict()
    assert sorted(after) == sorted(before)
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.endswith(("in_proj_weight", "out_proj.weight")) for name in changed)


def test_adapters_for_a_network_without_attention_are_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match="ML_BACKEND_FINETUNE_PART"):
        finetune(
            encoder(),
            np.zeros((4, 8, 8, 3), np.uint8),
            np.array([0, 1, 0, 1]),
            ("a", "b"),
            seed=0,
            recipe=Recipe(part="lora"),
        )

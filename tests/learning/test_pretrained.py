"""A classifier trained elsewhere, of a library's own kinds: what it says is what is said here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ml_backend.encoders.networks import new_network
from ml_backend.encoders.vision import torchvision
from ml_backend.errors import InvalidInputError
from ml_backend.learning.pretrained import import_classifier

pytestmark = pytest.mark.slow
torchvision()  # timm imports it, too
pytest.importorskip("timm")
LABELS = ("a", "b", "c")
PICTURES = [Image.effect_noise((64, 64), spread).convert("RGB") for spread in range(10, 110, 10)]


def trained(name: str, folder: Path, size: int) -> tuple[torch.nn.Module, Path]:
    """A network of three classes, whose normalisation layers have learned something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = new_network(name, classes=3, size=size).train()
        with torch.no_grad():
            for _ in range(20):
                network(torch.rand(4, 3, size, size) * 3 - 1)
            state = {
                key: tensor + 0.1 * torch.randn_like(tensor) if key.endswith(".bias") else tensor
                for key, tensor in network.state_dict().items()
            }
    network.load_state_dict(state)
    save_file(state, folder / "model.safetensors")
    return network.eval(), folder / "model.safetensors"


@pytest.mark.parametrize(("name", "size"), [("timm:test_vit", 64), ("timm:test_resnet", 64), ("swin_t", 64)])
def test_an_imported_classifier_chooses_what_it_chose_before(name: str, size: int, tmp_path: Path) -> None:
    network, path = trained(name, tmp_path, size)
    imported = import_classifier(path, model_type=f"{name}?size={size}", labels=LABELS, sample=PICTURES)
    how, pixels = imported.encoder.preprocessing, np.stack([imported.encoder.prepare(picture) for picture in PICTURES])
    seen = (
        torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(how.mean).view(1, 3, 1, 1)
    ) / torch.tensor(how.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        said = network(seen).softmax(1).numpy()
    here = imported.head.predict_proba(imported.encoder.encode(PICTURES))
    assert (here.argmax(1) == said.argmax(1)).all()
    assert np.abs(here - said).max() < 0.1  # features are made unit rows, and scaled by their mean length


@pytest.mark.parametrize("name", ["timm:deit_tiny_distilled_patch16_224", "timm:levit_128s"])
def test_a_classifier_of_more_than_one_layer_is_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    _, path = trained(name, tmp_path, 224)
    with pytest.raises(InvalidInputError, match=f"{name}.*one linear layer.*export"):
        import_classifier(path, model_type=name, labels=LABELS, sample=PICTURES)

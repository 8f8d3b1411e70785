"""The exported model is the served model: pictures of every awkward kind, run as the documentation says."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ml_backend.encoders.encoder import Encoder, build_encoder
from ml_backend.encoders.networks import NetworkEncoder
from ml_backend.encoders.patches import fit_patches
from ml_backend.images.recipe import Fit
from ml_backend.learning.export_formats import Format, export_model, write_recipe
from ml_backend.learning.training import train_head
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from tests.images.awkward import awkward
from tests.images.test_recipe import drawn

pytestmark = pytest.mark.slow

SIDES = ("left", "top", "right", "bottom")
CONFIG = f"""<View><Image name="image" value="$image"/><Choices name="side" toName="image">
{"".join(f'<Choice value="{side}"/>' for side in SIDES)}</Choices></View>"""
CLOSED = {"pt2": ("ml_backend", "torchvision", "onnxruntime"), "onnx": ("ml_backend", "torchvision", "torch")}
"""What whoever runs the model need not have."""
RUN = "import sys, runpy; sys.modules |= dict.fromkeys({closed}); sys.path.insert(0, '.'); runpy.run_path('run.py')"


def documented(kind: Format) -> str:
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    return next(str(code) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"birds.{kind}" in code)


def pictures() -> tuple[list[Image.Image], np.ndarray[Any, Any]]:
    """Where the spot is, in pictures of many shapes: what a picture that lies is mistaken in."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 120, (32, 2)).tolist()
    images = [drawn(*size).rotate(90 * (i % 4), expand=True) for i, size in enumerate(sizes)]
    return images, np.arange(len(images)) % 4


def network(fit: Fit) -> NetworkEncoder:
    built = build_encoder("resnet18@none?size=64", sample=lambda _: [], fit=fit)
    assert isinstance(built, NetworkEncoder)
    return built


def served(folder: Path, encoder: Encoder, head: Any, files: dict[str, bytes]) -> dict[str, tuple[str, float]]:
    """What `/predict` says of each file."""
    services = Services.open(Settings(data_dir=folder, label_studio_api_key="k", prelabels="always", holdout_share=0.0))
    project = services.registry.register("http://localhost:8080", 3, CONFIG, created=None)

    def write(version: Path) -> None:
        encoder.save(version)
        head.save(version)

    services.versions.publish(project, 1, write)
    services.versions.promote(project, 1)
    addresses = ["data:image/any;base64," + base64.b64encode(data).decode() for data in files.values()]
    tasks = [{"id": i, "data": {"image": address}} for i, address in enumerate(addresses)]
    client = TestClient(create_app(services), "http://localhost")
    found: dict[str, tuple[str, float]] = {}
    for start in range(0, len(tasks), 8):
        answered = client.post("/predict", json={"tasks": tasks[start : start + 8], "project": "3"})
        assert answered.status_code == 200, answered.text
        for name, answer in zip(list(files)[start : start + 8], answered.json()["results"], strict=True):
            assert "error" not in answer, (name, answer)
            found[name] = answer["result"][0]["value"]["choices"][0], answer["result"][0]["score"]
    services.database.close()
    return found


def ran(folder: Path, kind: Format, files: dict[str, bytes]) -> dict[str, tuple[str, float]]:
    """What the documented lines print of each file, in a process that knows nothing of us."""
    (folder / "run.py").write_text(documented(kind))
    for number, data in enumerate(files.values()):
        (folder / str(number)).write_bytes(data)
    numbers = list(map(str, range(len(files))))
    run = [sys.executable, "-I", "-c", RUN.format(closed=CLOSED[kind]), *numbers]
    printed = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True, timeout=250).stdout
    lines = (line.split() for line in printed.splitlines())
    told = {number: (label, float(share)) for number, label, share in lines}
    return {name: told[number] for number, name in zip(numbers, files, strict=True)}


ENCODERS: dict[str, tuple[Callable[[], Encoder], tuple[Format, ...]]] = {
    "patches": (lambda: fit_patches(pictures()[0], seed=0), ("pt2", "onnx")),
    "crop": (lambda: network("crop"), ("pt2", "onnx")),
    "letterbox": (lambda: network("letterbox"), ("onnx",)),
    "squash": (lambda: network("squash"), ("onnx",)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_exported_model_says_of_awkward_pictures_what_the_service_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32: bfloat16, where the service has it, makes a difference of up to 0.01 by itself."""
    monkeypatch.setattr("ml_backend.encoders.networks.bf16_pays", lambda _: False)
    make, kinds = ENCODERS[name]
    encoder, (images, truth) = make(), pictures()
    head = train_head(encoder.encode(images), truth, SIDES, seed=0).head
    files = dict(awkward(drawn))
    expected = served(tmp_path / "data", encoder, head, files)
    assert {side for side, _ in expected.values()} == set(SIDES), "or nothing could be mistaken"
    for kind in kinds:
        if kind == "onnx":
            pytest.importorskip("onnxruntime")
        (folder := tmp_path / kind).mkdir()
        export_model(encoder, head, folder / f"birds.{kind}", kind, version="v1", images=images)
        write_recipe(folder / f"birds.{kind}")
        found = ran(folder, kind, files)
        apart = {file: (expected[file], found[file]) for file in files if not _alike(expected[file], found[file])}
        assert apart == {}


def _alike(one: tuple[str, float], other: tuple[str, float]) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) <= 0.01

"""Where networks compute, and with how many threads."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml_backend.encoders import compute, custom_encoders
from ml_backend.encoders.networks import Preprocessing, build_network
from ml_backend.encoders.pipeline import encode_all, forward_within_memory
from ml_backend.errors import ConfigError
from tests.encoders.test_encoders import write_model_file
from tests.encoders.test_pipeline import png


@pytest.fixture(autouse=True)
def nothing_is_chosen() -> Iterator[None]:
    yield
    compute.choose("auto", None)


def test_a_gpu_that_is_not_there_is_told_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compute.choose("cuda:1", None)
    with pytest.raises(ConfigError, match="ML_BACKEND_DEVICE=cuda:1: PyTorch finds no NVIDIA GPU"):
        compute.chosen_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="there are 1 GPUs"):
        compute.chosen_device()


def test_auto_takes_a_gpu_where_there_is_one_and_cpu_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert compute.chosen_device().type == "cuda"
    compute.choose("cpu", None)
    assert compute.chosen_device().type == "cpu"
    assert build_network("resnet18@none").device.type == "cpu"


def test_a_container_with_a_share_of_the_processors_computes_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(compute, "QUOTAS", (tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us"))
    assert compute.cores() == 16
    (tmp_path / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert compute.cores() == 3
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert compute.cores() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert compute.cores() == 16


def test_threads_that_are_set_are_those_that_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    try:
        compute.choose("cpu", 3)
        assert (torch.get_num_threads(), compute.threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("suffix", [".pt2", ".torchscript"])
def test_a_model_file_is_opened_where_networks_compute(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device of torch that stands for any: what is left on the processor would not go together with it."""
    write_model_file(tmp_path / f"squash{suffix}")
    run = custom_encoders._open(tmp_path / f"squash{suffix}", torch.device("meta"))
    seen: list[str] = []

    def as_if_copied(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.device.type)
        return torch.zeros(tensor.shape)

    monkeypatch.setattr(torch.Tensor, "cpu", as_if_copied)
    assert run(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 48)
    assert seen == ["meta"]


def test_a_file_that_does_not_run_on_the_device_runs_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_model_file(tmp_path / "squash.onnx")
    monkeypatch.setattr(custom_encoders, "chosen_device", lambda: torch.device("cuda"))
    encoder = custom_encoders.open_file_encoder(tmp_path / "squash.onnx")
    assert (encoder.device.type, encoder.dim) == ("cpu", 48)
    assert "onnxruntime-gpu" in caplog.text


def test_an_onnx_file_gets_the_gpu_of_the_setting_and_its_lack_of_memory_halves_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Session:
        def __init__(self, _path: str, _options: object, providers: list[Any]) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="x")]

        def run(self, _outputs: None, given: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
            if len(given["x"]) > 2:
                raise Exception("Failed to allocate memory for requested buffer of size 1")  # noqa: TRY002 - as theirs
            return [given["x"].mean((2, 3))]

    onnx = SimpleNamespace(
        SessionOptions=SimpleNamespace,
        InferenceSession=Session,
        get_available_providers=lambda: ["CUDAExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", onnx)
    monkeypatch.setattr(custom_encoders, "chosen_device", lambda: torch.device("cuda:1"))
    (tmp_path / "any.onnx").write_bytes(b"any")
    encoder = custom_encoders.FileEncoder(tmp_path / "any.onnx", Preprocessing(resize=8, crop=8))
    assert encoder.device == torch.device("cuda:1")
    assert asked[0] == ("CUDAExecutionProvider", {"device_id": 1})
    assert forward_within_memory(encoder, np.full((7, 8, 8, 3), 9, np.uint8)).shape == (7, 3)


OWN = """
import threading
import numpy as np

class Own:
    dim, input_size, version = 3, 8, "1"
    thread_safe = {safe}
    together = threading.Barrier(2, timeout=20)
    batches = []

    def encode(self, images):
        self.batches.append(len(images))
        if self.thread_safe and len(self.batches) > 1:
            self.together.wait()
        return np.stack([np.asarray(image, float).mean((0, 1)) + 1 for image in images])
"""


def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, safe: bool, images: int) -> list[int]:
    """Batches that a class of one's own was given."""
    (tmp_path / "own_of_lanes.py").write_text(OWN.format(safe=safe))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_of_lanes", raising=False)
    encoder = custom_encoders.PythonEncoder("own_of_lanes:Own")
    kept: Sequence[Any] = encode_all(range(images), png, encoder, lambda *_: None, lanes=2).hashes.keys()  # type: ignore[assignment]
    assert len(kept) == images
    return list(sys.modules["own_of_lanes"].Own.batches)


def test_a_class_of_ones_own_is_given_large_batches_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert max(encoded(tmp_path, monkeypatch, safe=False, images=300)) == 128


def test_a_class_that_says_it_is_thread_safe_is_called_from_several_lanes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls wait for each other: with one at a time they would wait in vain."""
    assert encoded(tmp_path, monkeypatch, safe=True, images=48) == [16, 16, 16]

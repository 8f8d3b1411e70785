"""Weight files are data: what is not, is refused."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ml_backend.encoders.weights import read_state_dict
from ml_backend.errors import InvalidInputError


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize("how", ["torch", "pickle", "nested"])
def test_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path: Path, how: str) -> None:
    target, path = str(tmp_path / "pwned"), tmp_path / "model.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
    else:
        torch.save({"state_dict": Malicious(target)} if how == "nested" else Malicious(target), path)
    with pytest.raises(InvalidInputError, match="code"):
        read_state_dict(path)
    assert not Path(target).exists()


def test_whole_pickled_model_is_refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(InvalidInputError, match="state_dict"):
        read_state_dict(tmp_path / "model.pth")


def test_half_precision_safetensors_are_read_as_float32(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}, tmp_path / "w.safetensors")
    state = read_state_dict(tmp_path / "w.safetensors")
    assert state["a"].dtype == torch.float32
    assert state["n"].dtype == torch.int64


def test_usual_wrappings_of_a_state_dict_are_taken_off(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"module.a": torch.ones(1)}}, tmp_path / "w.pth")
    assert set(read_state_dict(tmp_path / "w.pth")) == {"a"}


@pytest.mark.parametrize("name", ["none.pth", "broken.pth", "broken.safetensors", "list.pth"])
def test_file_that_holds_no_state_dict_is_refused(tmp_path: Path, name: str) -> None:
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"abc")
    if name == "list.pth":
        torch.save([1, 2], tmp_path / name)
    with pytest.raises(InvalidInputError):
        read_state_dict(tmp_path / name)

"""Networks with two sides, for pictures and for sentences, whose vectors lie in one space: CLIP, SigLIP and others, by open_clip."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from ml_backend.chunks import chunks
from ml_backend.encoders.networks import Asked, NetworkEncoder, Precision, Preprocessing, feature_count, interpolation
from ml_backend.encoders.vision import torchvision
from ml_backend.encoders.weight_files import weights_file
from ml_backend.encoders.weights import digest
from ml_backend.errors import ConfigError, InvalidInputError
from ml_backend.wording import shortened

PREFIX = "open_clip:"
_LOCAL = "local-dir:"
_CONFIG = "open_clip_config.json"
"""open_clip's own: {"model_cfg", "preprocess_cfg"}; a saved encoder has it, so that open_clip makes it again by itself."""
_SENTENCES = 256
"""At a time."""
_THEIRS = {"local_files_only": True, "trust_remote_code": False}
"""For tokenizers of transformers: what a configuration says must not decide which code runs, nor whom it asks."""
_FITS = {"shortest": "crop", "squash": "squash", "longest": "letterbox"}


@dataclass(frozen=True)
class TextSide:
    """network: with `encode_text(tokens)`. tokenize: n sentences -> (n, length) int64; `save_pretrained` where it has files."""

    network: nn.Module
    tokenize: Callable[[list[str]], torch.Tensor]


class TwoSidedEncoder(NetworkEncoder):
    """The side for pictures is the encoder, and its id; the other gives sentences vectors among those of the pictures.

    text: None where the sides do not belong together any more, as after fine-tuning one of them.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        dim: int,
        preprocessing: Preprocessing,
        *,
        config: dict[str, Any],
        text: TextSide | None,
        precision: Precision = "auto",
    ) -> None:
        super().__init__(name, body, dim, preprocessing, precision=precision)
        self.config = config
        self._text = text
        self._lock = threading.Lock()
        if text is not None:
            text.network.eval().requires_grad_(False).to(self.device)

    @property
    def reads_text(self) -> bool:
        """Whether sentences have vectors among those of the images."""
        return self._text is not None

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentences -> unit rows (n, dim); long ones are cut off. Raises InvalidInputError where there is no side for them."""
        if self._text is None:
            raise InvalidInputError(
                f"{self.name} was fine-tuned on pictures, and its words are others now: images cannot be looked for by words."
            )
        rows = [np.zeros((0, self.dim), np.float32)]
        for part in chunks(list(texts), _SENTENCES):
            with self._lock, torch.inference_mode():  # a tokenizer need not bear several threads
                tokens = self._text.tokenize([text.encode("utf-8", "replace").decode() for text in part])
                features = self._text.network.encode_text(tokens.to(self.device))  # type: ignore[operator]
                rows.append(F.normalize(features.float()).cpu().numpy())
        vectors = np.concatenate(rows)
        if not np.isfinite(vectors).all():
            raise InvalidInputError(f"{self.name} gives NaN or infinity for a sentence: its weights are damaged.")
        return vectors

    def with_body(self, body: nn.Module) -> TwoSidedEncoder:
        """The same kind of encoder with other weights, and so with another id; it reads no text any more."""
        return TwoSidedEncoder(
            self.name, body, self.dim, self.preprocessing, config=self.config, text=None, precision=self.precision
        )

    def save(self, folder: Path) -> None:
        """With open_clip's configuration beside it, the side for sentences, and the files of its tokenizer."""
        super().save(folder)
        (folder / _CONFIG).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        path = folder / "encoder.json"
        meta = {**json.loads(path.read_text(encoding="utf-8")), "kind": "two-sided", "text": None}
        if self._text is not None:
            state = {key: tensor.cpu().contiguous() for key, tensor in self._text.network.state_dict().items()}
            save_file(state, folder / "text.safetensors")
            meta["text"] = digest({}, state)
            if hasattr(self._text.tokenize, "save_pretrained"):
                self._text.tokenize.save_pretrained(str(folder))
        path.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any]) -> TwoSidedEncoder:
        """Raises ValueError where the side for sentences is not the one that was saved."""
        network, config = _made(folder)
        body, text = _sides(network), None
        body.load_state_dict(load_file(folder / "encoder.safetensors"))
        if meta["text"] is not None:
            state = load_file(folder / "text.safetensors")
            if digest({}, state) != meta["text"]:
                raise ValueError("text.safetensors is another one")
            network.load_state_dict(state)
            text = TextSide(network, _tokenizer(f"{_LOCAL}{folder}", meta["name"], config["model_cfg"]))
        return cls(meta["name"], body, meta["dim"], Preprocessing.of(meta["preprocessing"]), config=config, text=text)


def build_two_sided(name: str, *, weights: Path | None = None, seed: int = 0) -> TwoSidedEncoder:
    """Make an encoder of "open_clip:<model>", "open_clip:<model>@<weights>" or "open_clip:local-dir:<folder>".

    A folder has what open_clip keeps there: open_clip_config.json, the weights, and the tokenizer's files if it has any.
    weights: a state dict of both sides. Without: as for `build_network`; a folder's own.
    Raises ConfigError where the model is not known, or its weights or its tokenizer are not to be had.
    """
    source = name.removeprefix(PREFIX)
    if source.startswith(_LOCAL):
        folder = Path(source.removeprefix(_LOCAL))
        weights, called = weights or _weights_in(folder), f"{PREFIX}{folder.resolve().name}"
        network, config = _random(folder, seed)
    else:
        asked = Asked.of(source)
        if asked.size is not None:
            raise ConfigError(
                f"{name}: pictures of an open_clip model are of the size it was trained for; leave `?size=` away."
            )
        config, source, called = _known_config(asked), asked.network, f"{PREFIX}{asked.network}"
        with tempfile.TemporaryDirectory() as folder_name:
            (Path(folder_name) / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
            network, config = _random(Path(folder_name), seed)
    tokenize = _tokenizer(source, name, config["model_cfg"])  # before a download that would be in vain
    if weights is None and not source.startswith(_LOCAL) and asked.weights != "none":
        weights = weights_file(called, asked.weights)
    if weights is not None:
        _load(network, weights, name)
    preprocessing = _preprocessing(network, name)
    body = _sides(network)
    dim = feature_count(body, name, preprocessing.crop)
    encoder = TwoSidedEncoder(called, body, dim, preprocessing, config=config, text=TextSide(network, tokenize))
    if encoder.encode_text(["a photo."]).shape != (1, dim):
        raise ConfigError(f"{name}: its sides have vectors of different lengths, so they cannot be compared.")
    return encoder


def _known_config(asked: Asked) -> dict[str, Any]:
    """As open_clip_config.json has it, with the preprocessing and the activation that the weights were trained with."""
    open_clip = _open_clip()
    # A name with a prefix would be looked up on the hub, whatever ML_BACKEND_DOWNLOADS says.
    model = None if ":" in asked.network else open_clip.get_model_config(asked.network)
    if model is None:
        close = get_close_matches(asked.network, open_clip.list_models(), 8)
        raise ConfigError(f"open_clip has no model {asked.network!r}; similar names: {', '.join(close) or 'none'}.")
    tags = open_clip.list_pretrained_tags_by_model(asked.network)
    if asked.weights not in ("", "none", *tags):
        raise ConfigError(f"{asked.network} has no weights {asked.weights!r}: use {', '.join(tags) or 'none'}.")
    tag = asked.weights if asked.weights in tags else next(iter(tags), "")
    trained = open_clip.get_pretrained_cfg(asked.network, tag) if tag else {}
    if trained.get("quick_gelu"):
        model["quick_gelu"] = True  # open_clip itself only warns
    fields = ("mean", "std", "interpolation", "resize_mode")
    return {"model_cfg": model, "preprocess_cfg": {field: trained[field] for field in fields if field in trained}}


def _random(folder: Path, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    with torch.random.fork_rng(devices=[]):  # torch's initialisers know no generator but the global one
        torch.manual_seed(seed)
        return _made(folder)


def _made(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The untrained model that open_clip_config.json describes, and what is in there."""
    open_clip = _open_clip()
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        other = config["model_cfg"]["text_cfg"].get("hf_model_name")
        tower = config["model_cfg"]["vision_cfg"].get("timm_model_name") or ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} has no {_CONFIG} with a model_cfg ({error!r}): save the model as open_clip keeps it on the hub."
        ) from error
    if ":" in tower:
        raise ConfigError(f"{folder} wants a network from elsewhere ({tower}): name one of timm's own in {_CONFIG}.")
    if other:
        raise ConfigError(
            f"The side for sentences is {other}, a network of the package transformers: choose another model."
        )
    try:
        network: nn.Module = open_clip.create_model(f"{_LOCAL}{folder}", load_weights=False, pretrained_text=False)
    except Exception as error:  # whatever a configuration can be wrong in
        raise ConfigError(f"open_clip cannot make this model ({shortened(str(error), 300)}).") from error
    return network, config


def _sides(network: nn.Module) -> nn.Module:
    """Take the side for pictures out; what is left is the one for sentences."""
    body = network.get_submodule("visual")
    network.add_module("visual", nn.Identity())
    return body


def _load(network: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise ConfigError(f"There is no weights file {path}.")
    try:
        _open_clip().load_checkpoint(network, str(path), weights_only=True)
    except Exception as error:  # a damaged file fails wherever the damage is
        raise ConfigError(
            f"{path.name} has no weights of {name} that can be read without running code ({shortened(str(error), 300)}): "
            "choose the model they were saved from, or save its state dict as safetensors."
        ) from error


def _weights_in(folder: Path) -> Path:
    """The file with the weights, by the names that open_clip gives them; else the only one."""
    found = sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    named = [path for path in found if path.stem in ("open_clip_model", "open_clip_pytorch_model", "model")]
    if not (named or len(found) == 1):
        raise ConfigError(f"{folder} needs one file with the weights: name it open_clip_model.safetensors.")
    return min(named or found, key=lambda path: path.suffix != ".safetensors")


def _preprocessing(network: nn.Module, name: str) -> Preprocessing:
    config: dict[str, Any] = network.get_submodule("visual").preprocess_cfg  # type: ignore[assignment]
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(
            f"{name} takes pictures of {width} x {height} pixels, and here they are squares: choose another."
        )
    return Preprocessing.of(
        {
            "resize": int(height),
            "crop": int(height),
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "interpolation": interpolation(config["interpolation"]),
            "fit": _FITS[config["resize_mode"]],
            "rounded": True,
        }
    )


def _tokenizer(source: str, name: str, model: dict[str, Any]) -> Callable[[list[str]], torch.Tensor]:
    """open_clip's own, or one of the package transformers whose files are here already. Raises ConfigError with the fix."""
    theirs = model["text_cfg"].get("hf_tokenizer_name", "")
    try:
        tokenizer: Callable[[list[str]], torch.Tensor] = _open_clip().get_tokenizer(
            source, **(_THEIRS if theirs else {})
        )
    except ImportError as error:
        raise ConfigError(
            f"The tokenizer of {name} needs the packages transformers and sentencepiece: install them (pip install "
            f"transformers sentencepiece), or choose a model with open_clip's own, such as {PREFIX}ViT-B-32."
        ) from error
    except Exception as error:  # transformers' errors have no common base
        fix = (
            "put its files into the folder"
            if source.startswith(_LOCAL)
            else f"fetch it once (hf download {theirs} --include '*token*' --include '*.model' --include '*config*')"
        )
        raise ConfigError(
            f"The tokenizer of {name} ({theirs}) is not here ({shortened(str(error), 200)}): {fix}, or choose a model with "
            f"open_clip's own, such as {PREFIX}ViT-B-32."
        ) from error
    return tokenizer


def _open_clip() -> Any:
    torchvision()  # open_clip imports it, too
    try:
        import open_clip  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("open_clip encoders need the package open-clip-torch: install the extra `text`.") from error
    return open_clip

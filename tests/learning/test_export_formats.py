"""Models in and out: an export that does not agree with the model is not there."""

import copy
import csv
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from ml_backend.encoders.encoder import build_encoder
from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, headless, new_network
from ml_backend.encoders.patches import PatchEncoder, fit_patches
from ml_backend.errors import BackendError, ConfigError, InvalidInputError
from ml_backend.learning import export_formats
from ml_backend.learning.export_formats import Format, Predict, export_model, load_bundle
from ml_backend.learning.head import Head
from ml_backend.learning.pretrained import Imported, import_classifier, match_labels
from ml_backend.learning.training import train_head
from tests.pictures import Digits

pytestmark = pytest.mark.slow


SHARED = Path(__file__).parents[2].parent / "shared" / "data"
FRESH_PROCESS = """
import io, json, sys
import numpy as np
from PIL import Image

path, images = sys.argv[1], sys.argv[2:]
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    meta = json.loads(session.get_modelmeta().custom_metadata_map["meta.json"])
    predict = lambda pixels: session.run(None, {"pixels": pixels})[0]
else:
    import torch
    extra = {"meta.json": "", "prepare.py": ""}
    program = torch.export.load(path, extra_files=extra).module()
    meta = json.loads(extra["meta.json"])
    predict = lambda pixels: program(torch.from_numpy(pixels)).detach().numpy()

source = extra["prepare.py"] if path.endswith(".pt2") else session.get_modelmeta().custom_metadata_map["prepare.py"]
recipe = {"__name__": "prepare"}
exec(source, recipe)

def prepare(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return recipe["prepare"](file, meta["preprocessing"])

stack = np.load(images[0])
pixels = np.stack([prepare(Image.fromarray(each)) for each in stack])
np.save(images[1], np.concatenate([predict(pixels[i:i + 100]) for i in range(0, len(pixels), 100)]))
assert not any(name.split(".")[0] == "ml_backend" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def patch_model(digits: Digits) -> tuple[PatchEncoder, Head]:
    encoder = fit_patches(digits[0][:200], seed=0)
    return encoder, train_head(encoder.encode(digits[0][:200]), digits[1][:200], "0123456789", seed=0).head


def small_network(name: str = "resnet18", side: int = 32) -> NetworkEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, dim = headless(new_network(name))
    return NetworkEncoder(name, body, dim, Preprocessing(resize=side + 4, crop=side), precision="float32")


def content(tar: tarfile.TarFile, member: tarfile.TarInfo | str) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def real_images(digits: Digits) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """500 pictures: MNIST's where they are at hand, scikit-learn's digits elsewhere; (images as an array, truth)."""
    if not (SHARED / "mnist10k.tar.gz").is_file():
        return np.stack([np.asarray(image) for image in digits[0][-500:]]), digits[1][-500:]
    with tarfile.open(SHARED / "mnist10k.tar.gz") as tar:
        files = {member.name: content(tar, member) for member in tar.getmembers()[:1500] if member.isfile()}
        rows = csv.DictReader(content(tar, "mnist10k/labels.csv").decode().splitlines())
        truth = {row["filename"]: int(row["label"]) for row in rows}
    import io

    names = [name for name in files if name.endswith(".png")][:500]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(files[name]))) for name in names])
    return pixels, np.array([truth[Path(name).name] for name in names])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ["patches", "resnet18"])
def test_fresh_process_with_only_the_file_agrees_on_500_real_images(
    digits: Digits, tmp_path: Path, name: str, kind: Format, recwarn: pytest.WarningsRecorder
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    pixels, truth = real_images(digits)
    images = [Image.fromarray(each) for each in pixels]
    encoder = small_network() if name == "resnet18" else fit_patches(images[:200], seed=0)
    head = train_head(encoder.encode(images[:200]), truth[:200], "0123456789", seed=0).head
    recwarn.clear()
    exported = export_model(encoder, head, tmp_path / f"model.{kind}", kind, version="v3", images=images[:20])
    assert [str(warning.message) for warning in recwarn] == []
    np.save(tmp_path / "in.npy", pixels)
    arguments = [str(exported.path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, *arguments], check=True, cwd=tmp_path, timeout=250)
    found, served = np.load(tmp_path / "out.npy"), head.predict_proba(encoder.encode(images))
    assert np.abs(found - served).max() < 1e-3
    assert (found.argmax(1) == served.argmax(1)).all()


def test_bundle_is_readable_and_loads_with_the_same_predictions(
    digits: Digits, patch_model: tuple[PatchEncoder, Head], tmp_path: Path
) -> None:
    encoder, head = patch_model
    exported = export_model(encoder, head, tmp_path / "model", "bundle", version="v7", images=digits[0][:50])
    assert exported.images_compared == 50
    meta = json.loads((tmp_path / "model" / "meta.json").read_text())
    assert (meta["version"], meta["labels"], meta["encoder"]["id"]) == ("v7", list("0123456789"), encoder.id)
    loaded_encoder, loaded_head, _ = load_bundle(tmp_path / "model")
    expected = head.predict_proba(encoder.encode(digits[0][:20]))
    assert np.array_equal(loaded_head.predict_proba(loaded_encoder.encode(digits[0][:20])), expected)


def test_exporting_again_replaces_the_former_export(
    digits: Digits, patch_model: tuple[PatchEncoder, Head], tmp_path: Path
) -> None:
    for version in ("v1", "v2"):
        export_model(*patch_model, tmp_path / "model", "bundle", version=version, images=digits[0][:2])
    assert load_bundle(tmp_path / "model")[2]["version"] == "v2"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_export_that_disagrees_is_not_kept(
    digits: Digits, patch_model: tuple[PatchEncoder, Head], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = export_formats._FORMATS["bundle"]

    def read_wrongly(path: Path) -> Predict:
        predict = read(path)
        return lambda pixels: np.roll(predict(pixels), 1, axis=1)

    monkeypatch.setitem(export_formats._FORMATS, "bundle", (write, read_wrongly))
    with pytest.raises(BackendError, match="not kept"):
        export_model(*patch_model, tmp_path / "model", "bundle", version="v1", images=digits[0][:5])
    assert list(tmp_path.iterdir()) == []


def test_export_without_images_to_check_it_on_is_refused(
    patch_model: tuple[PatchEncoder, Head], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="import some"):
        export_model(*patch_model, tmp_path / "model", "bundle", version="v1", images=[])


def test_encoder_that_is_no_network_can_be_bundled_but_not_exported(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain.py").write_text(
        "import numpy as np\nclass Plain:\n dim = 3\n input_size = 8\n"
        " def encode(self, images): return np.stack([np.asarray(i, float).mean((0, 1)) + 1 for i in images])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    encoder = build_encoder("plain:Plain", sample=lambda _: [])
    head = train_head(encoder.encode(digits[0][:50]), digits[1][:50], "0123456789", seed=0).head
    export_model(encoder, head, tmp_path / "model", "bundle", version="v1", images=digits[0][:5])
    with pytest.raises(ConfigError, match="--format bundle"):
        export_model(encoder, head, tmp_path / "model.pt2", "pt2", version="v1", images=digits[0][:5])


class Elsewhere(torch.nn.Module):
    """A network on a device of its own, such as a GPU, until it is moved: what it is given there, it cannot use."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.where = inner, "elsewhere"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.where = "cpu"
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.where != "cpu" and not torch.compiler.is_exporting():
            raise RuntimeError("Expected all tensors to be on the same device")
        result: torch.Tensor = self.inner(pixels)
        return result


@pytest.mark.parametrize("kind", ["bundle", "pt2"])
def test_an_export_is_made_and_compared_on_the_cpu_and_leaves_the_encoder_where_it_serves(
    digits: Digits,
    patch_model: tuple[PatchEncoder, Head],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Format,
) -> None:
    """On a GPU, a bundle was compared on two devices at once, and tracing moved the encoder away under the service."""
    encoder, head = copy.copy(patch_model[0]), patch_model[1]
    encoder._module = serving = Elsewhere(encoder._module)  # type: ignore[assignment]
    monkeypatch.setattr(export_formats, "load_encoder", lambda *_: encoder)  # it lies there when it is read back, too
    export_model(encoder, head, tmp_path / f"model.{kind}", kind, version="v1", images=digits[0][:5])
    assert serving.where == "elsewhere"


def test_damaged_bundle_is_refused(patch_model: tuple[PatchEncoder, Head], digits: Digits, tmp_path: Path) -> None:
    export_model(*patch_model, tmp_path / "model", "bundle", version="v1", images=digits[0][:2])
    (tmp_path / "model" / "head.safetensors").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="not a complete model"):
        load_bundle(tmp_path / "model")


@pytest.mark.parametrize("name", ["net.pt2", "net.torchscript", "../net.ts"])
def test_a_bundle_does_not_bring_a_program_to_be_run(
    name: str, patch_model: tuple[PatchEncoder, Head], digits: Digits, tmp_path: Path
) -> None:
    bundle = tmp_path / "model"
    export_model(*patch_model, bundle, "bundle", version="v1", images=digits[0][:2])
    (bundle / Path(name).name).write_bytes(b"a program")
    saved = {"kind": "file", "file": name, "preprocessing": {}, "name": "net", "id": "net", "dim": 2}
    (bundle / "encoder.json").write_text(json.dumps(saved))
    own = tmp_path / f"own-{Path(name).name}"
    own.write_bytes(b"another one")
    with pytest.raises(InvalidInputError, match="ML_BACKEND_ALLOWED_ENCODERS"):
        load_bundle(bundle, {str(own)})
    own.write_bytes(b"a program")
    export_formats._refuse_program(bundle, {str(own)})


# --- models in ---


@pytest.fixture(scope="module")
def classifier_file(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision-format resnet18 whose final layer knows ten digits, by a linear fit on random features."""
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = new_network("resnet18", 10)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    body, dim = headless(network)
    encoder = NetworkEncoder("resnet18", body, dim, Preprocessing(resize=32, crop=32), precision="float32")
    head = train_head(encoder.encode(digits[0][:150]), digits[1][:150], "0123456789", seed=0).head
    norm = encoder.raw_norm(digits[0][:150])
    state["fc.weight"] = torch.from_numpy(head.weight / norm)
    state["fc.bias"] = torch.from_numpy(head.bias)
    save_file(state, path, metadata={"classes": ",".join(f"Digit_{i}" for i in range(10))})
    return path


def imported(path: Path, digits: Digits, labels: Sequence[str], **options: Any) -> Imported:
    options = {"preprocessing": Preprocessing(resize=32, crop=32), "sample": digits[0][:50], **options}
    return import_classifier(path, model_type="resnet18", labels=labels, **options)


def test_imported_classifier_predicts_before_the_first_label_and_better_after_fifty(
    digits: Digits, classifier_file: Path
) -> None:
    labels = [f"digit {i}" for i in reversed(range(10))]
    model = imported(classifier_file, digits, labels)
    assert model.match.matched["digit 3"] == "Digit_3"
    vectors, truth = model.encoder.encode(digits[0]), 9 - digits[1]
    before = (model.head.predict_proba(vectors[500:]).argmax(1) == truth[500:]).mean()
    picked = 150 + np.random.default_rng(0).permutation(350)[:50]  # the file was trained on the first 150
    trained = train_head(vectors[picked], truth[picked], labels, seed=0, prior=model.head).head
    after = (trained.predict_proba(vectors[500:]).argmax(1) == truth[500:]).mean()
    assert before > 0.5
    assert after > before


def test_imported_head_chooses_as_the_network_itself_would(digits: Digits, classifier_file: Path) -> None:
    model = imported(classifier_file, digits, [f"Digit_{i}" for i in range(10)])
    network = new_network("resnet18", 10).eval()
    from ml_backend.encoders.weights import read_state_dict

    network.load_state_dict(read_state_dict(classifier_file))
    pixels = np.stack([model.encoder.prepare(image) for image in digits[0][:200]])
    scaled = (
        torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(Preprocessing.mean).view(1, 3, 1, 1)
    ) / (torch.tensor(Preprocessing.std).view(1, 3, 1, 1))
    with torch.no_grad():
        own = network(scaled).argmax(1).numpy()
    assert (model.head.predict_proba(model.encoder.forward(pixels)).argmax(1) == own).mean() > 0.98


def test_names_are_matched_and_what_does_not_match_is_listed() -> None:
    match = match_labels(["Golden Retriever", "poodle", "Cat"], ["golden_retriever", "Poodle", "fox-terrier"])
    assert match.matched == {"Golden Retriever": "golden_retriever", "poodle": "Poodle"}
    assert match.labels_without_class == ("Cat",)
    assert match.classes_without_label == ("fox-terrier",)
    assert "Cat" in str(match)
    assert "fox-terrier" in str(match)


def test_names_of_which_none_matches_are_refused_with_both_lists() -> None:
    with pytest.raises(InvalidInputError, match=r"cat, dog.*ship, truck"):
        match_labels(["ship", "truck"], ["cat", "dog"])


def test_label_the_file_knows_nothing_of_is_possible_but_not_preferred(digits: Digits, classifier_file: Path) -> None:
    model = imported(classifier_file, digits, [*(f"digit {i}" for i in range(10)), "smudge"])
    probabilities = model.head.predict_proba(model.encoder.encode(digits[0][:100]))
    assert probabilities[:, 10].max() > 0
    assert (probabilities.argmax(1) != 10).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_classes": 12}, "10 classes, not 12"),
        ({"class_names": ["digit 1", "digit 2"]}, "2 names"),
        ({"model_type": "vgg11"}, "classifier.6.weight"),
    ],
)
def test_file_that_does_not_fit_what_was_said_of_it_is_refused(
    digits: Digits, classifier_file: Path, options: dict[str, Any], said: str
) -> None:
    options = {
        "model_type": "resnet18",
        "labels": [f"digit {i}" for i in range(10)],
        "sample": digits[0][:5],
        **options,
    }
    with pytest.raises(InvalidInputError, match=said):
        import_classifier(classifier_file, **options)


@pytest.mark.parametrize(
    ("metadata", "crop"),
    [
        ({"input": "64x64 RGB, ImageNet mean/std"}, 64),
        ({"input": "64x32 RGB"}, 224),
        ({"input": "RGB"}, 224),
        ({"preprocessing": '{"resize": 40, "crop": 32}', "input": "64x64"}, 32),
        ({}, 224),
    ],
)
def test_size_of_the_pictures_is_what_the_file_says_else_the_model_types(
    metadata: dict[str, str], crop: int, classifier_file: Path, digits: Digits, tmp_path: Path
) -> None:
    save_file(load_file(classifier_file), tmp_path / "said.safetensors", metadata)
    labels = [f"digit {i}" for i in range(10)]
    found = imported(tmp_path / "said.safetensors", digits, labels, preprocessing=None, sample=digits[0][:2])
    assert found.encoder.preprocessing.crop == crop


def test_weights_of_another_network_are_refused(digits: Digits, classifier_file: Path) -> None:
    with pytest.raises(ConfigError, match="do not fit a resnet34"):
        import_classifier(
            classifier_file, model_type="resnet34", labels=[f"digit {i}" for i in range(10)], sample=digits[0][:5]
        )

"""Fine-tuning a ResNet-18 that was trained on half A of CIFAR-10, on labels of half B: what it gains, loses by a kill, and takes.

    OMP_NUM_THREADS=1 nice python -m benchmarks.finetune --data ../shared/data [--labels 500] [--epochs 6] [--many 5000]

The head alone against the tuned network on test images; the same killed (kill -9) at half and gone on with; the longest time
without a look whether it was cancelled; peak memory of the training itself with the labels and with ten times as many. The
classes themselves were known to the network, so the head alone is strong here.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.strategy_data import cifar
from ml_backend.encoders.networks import NetworkEncoder, Preprocessing, headless, load_body, new_network
from ml_backend.encoders.pipeline import encode_all
from ml_backend.encoders.weights import read_state_dict
from ml_backend.images.decoding import decode
from ml_backend.learning import checkpoint
from ml_backend.learning.finetuning import finetune, refit
from ml_backend.learning.prepared_pictures import PreparedPictures
from ml_backend.learning.training import train_head
from ml_backend.learning.tuning_run import Recipe

SIDE, TESTED = 64, 2000
WEIGHTS = "resnet18_cifar10a.safetensors"
EVERY_S = 2.0


def write_pictures(data: Path, folder: Path, many: int) -> None:
    images, labels, test_images, test_labels, _ = cifar(data / "cifar10.tar.gz")
    rng = np.random.default_rng(0)
    for part, rows, truth, count in (("train", images, labels, many), ("test", test_images, test_labels, TESTED)):
        (folder / part).mkdir()
        chosen = rng.permutation(len(rows))[:count]
        for place, row in enumerate(chosen):
            Image.fromarray(rows[row]).save(folder / part / f"{place:05d}.png")
        np.save(folder / f"{part}.npy", truth[chosen])


def encoder(weights: Path) -> NetworkEncoder:
    body, dim = headless(new_network("resnet18", 10))
    load_body(body, read_state_dict(weights), "resnet18")
    return NetworkEncoder("resnet18", body, dim, Preprocessing(resize=SIDE, crop=SIDE))


def encoded(network: NetworkEncoder, files: list[Path]) -> NDArray[np.float32]:
    """As the service encodes."""
    rows: dict[str, NDArray[np.float32]] = {}
    found = encode_all(
        files, Path.read_bytes, network, lambda hashes, vectors: rows.update(zip(hashes, vectors, strict=True))
    )
    return np.stack([rows[found.hashes[file]] for file in files])


def tune(folder: Path, weights: Path, count: int, epochs: int, kept: Path, *, measured: bool) -> dict[str, Any]:
    """One run from where the checkpoint has it; progress goes to standard error."""
    checkpoint.EVERY_S, checkpoint.OVERHEAD = EVERY_S, 0.0
    network, classes = encoder(weights), tuple("0123456789")
    files = sorted((folder / "train").iterdir())[:count]
    labels = np.load(folder / "train.npy")[:count]
    silences, last = [0.0], time.perf_counter()

    def on_progress(share: float, _doing: str) -> None:
        nonlocal last
        now = time.perf_counter()
        silences.append(now - last)
        last = now
        print(f"{share:.4f}", file=sys.stderr, flush=True)

    def prepare(place: int) -> NDArray[np.uint8]:
        return network.prepare(decode(files[place].read_bytes(), network.input_size))

    frozen = encoded(network, files) if measured else None
    began = last = time.perf_counter()
    names = [file.name for file in files]
    with PreparedPictures(names, prepare, (SIDE, SIDE, 3), kept.parent, most=10**10) as pictures:
        pictures.fill(lambda _: on_progress(0.0, ""))
        tuned = finetune(
            network, pictures, labels, classes, seed=0, recipe=Recipe(epochs=epochs), features=frozen,
            checkpoint=kept, on_progress=on_progress,
        )  # fmt: skip
    found = {
        "seconds": round(time.perf_counter() - began, 1),
        "longest silence, s": round(max(silences), 2),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return found | ({} if frozen is None else _accuracies(folder, network, tuned, files, frozen, labels))


def _accuracies(
    folder: Path, network: NetworkEncoder, tuned: Any, files: list[Path], frozen: NDArray[np.float32], labels: Any
) -> dict[str, Any]:
    classes = tuple("0123456789")
    refitted = refit(encoded(tuned.encoder, files), frozen, labels, classes, tuned.validate, seed=0)
    alone = train_head(frozen, labels, classes, seed=0).head
    shown, truth = sorted((folder / "test").iterdir()), np.load(folder / "test.npy")
    found: dict[str, Any] = {}
    for name, head, own in (("head alone", alone, network), ("fine-tuned", refitted.trained.head, tuned.encoder)):
        probabilities = head.predict_proba(encoded(own, shown))
        found[name] = round(float((probabilities.argmax(1) == truth).mean()), 4)
        found[f"{name}, log loss"] = round(float(-np.log(probabilities[np.arange(len(truth)), truth]).mean()), 3)
    told = f"{refitted.tuned} against {refitted.frozen} of {refitted.n} labels kept aside"
    return found | {"served": refitted.better, "by": told, "encoder": tuned.encoder.id}


def child(options: argparse.Namespace, folder: Path, kept: Path, count: int, epochs: int, *, measured: bool) -> Any:
    """The command of a process of its own."""
    arguments = ["--data", str(options.data), "--child", str(folder), "--kept", str(kept), "--labels", str(count)]
    flags = ["--epochs", str(epochs), *(["--measured"] if measured else [])]
    return [sys.executable, "-m", "benchmarks.finetune", *arguments, *flags]


def finished(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def killed_at_half(command: list[str]) -> float:
    """Returns the share at which it was."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if line[:1].isdigit() and float(line) >= 0.5:
                process.kill()
                return float(line)
    raise RuntimeError("it ended before half")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of the archive and the weights"
    )
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        weights = options.data / WEIGHTS
        found = tune(options.child, weights, options.labels, options.epochs, options.kept, measured=options.measured)
        print(json.dumps(found))
        return 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(options.data, folder, options.many)
        kept = folder / "checkpoints" / "1.safetensors"
        straight = child(options, folder, kept, options.labels, options.epochs, measured=True)
        print(json.dumps({"straight through": finished(straight)}), flush=True)
        kept.unlink(missing_ok=True)
        share = killed_at_half(straight)
        print(json.dumps({f"killed at {share:.2f}, gone on": finished(straight)}), flush=True)
        for count in (options.labels, options.many):
            kept.unlink(missing_ok=True)
            once = child(options, folder, kept, count, 1, measured=False)
            print(json.dumps({f"{count} pictures, one epoch": finished(once)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

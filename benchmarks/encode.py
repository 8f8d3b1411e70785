"""JPEG files -> vectors: the pipeline against the bare forward pass and against the usual way, in one run.

    python -m benchmarks.encode [--images 192] [--encoder resnet18@none] [--weights FILE]

The files are crops of two real photographs that come with scikit-learn. Each way runs `--rounds` times, the ways taking
turns, and its best round counts: on a machine that others use, the best round is the least disturbed one.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from ml_backend.encoders.networks import NetworkEncoder, build_network
from ml_backend.encoders.patches import fit_patches
from ml_backend.encoders.pipeline import encode_all
from ml_backend.encoders.vision import torchvision
from ml_backend.images.decoding import decode


def jpegs(count: int, size: tuple[int, int], seed: int = 0) -> list[bytes]:
    """Random crops and mirrorings of real photographs, scaled to `size`."""
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    generator = np.random.default_rng(seed)
    files = []
    for number in range(count):
        photo = photos[number % len(photos)]
        share = generator.uniform(0.6, 1.0)
        width, height = int(photo.width * share), int(photo.height * share)
        left, top = (int(generator.integers(gap + 1)) for gap in (photo.width - width, photo.height - height))
        crop = photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """The usual way: Pillow's full decode and torchvision's transforms, in a DataLoader's workers."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files
        self.transform = torchvision().models.ResNet18_Weights.DEFAULT.transforms()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels: torch.Tensor = self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB"))
        return pixels


def usual_way(files: list[bytes], body: torch.nn.Module, workers: int) -> NDArray[np.float32]:
    loader = torch.utils.data.DataLoader(Files(files), 32, num_workers=workers)
    with torch.inference_mode():
        return np.concatenate([torch.nn.functional.normalize(body(batch).flatten(1)).numpy() for batch in loader])


def bare_forward(batch: torch.Tensor, body: torch.nn.Module, rounds: int) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(rounds):
            body(batch)


def bare_lanes(batch: torch.Tensor, body: torch.nn.Module, rounds: int, lanes: int) -> None:
    """The same passes, one thread a core side by side: what a CPU gives at best."""
    with ThreadPoolExecutor(lanes, initializer=lambda: torch.set_num_threads(1)) as pool:
        list(pool.map(lambda _: bare_forward(batch, body, 1), range(rounds)))
    torch.set_num_threads(lanes)


def pipeline(files: list[bytes], encoder: NetworkEncoder) -> NDArray[np.float32]:
    found: dict[str, NDArray[np.float32]] = {}
    result = encode_all(
        range(len(files)), files.__getitem__, encoder, lambda keys, rows: found.update(zip(keys, rows, strict=True))
    )
    return np.stack([found[result.hashes[item]] for item in range(len(files))])


def best_seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--encoder", default="resnet18@none")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    encoder = build_network(options.encoder, weights=options.weights)
    files = jpegs(options.images, (500, 375))
    body = encoder.module().get_submodule("body")
    pixels = np.stack([encoder.prepare(decode(data, encoder.input_size)) for data in files[:32]])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)
    plain = build_network(options.encoder, weights=options.weights).module().get_submodule("body")
    plain = plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    passes = max(1, len(files) // 32)
    seconds = best_seconds(
        {
            "bare": lambda: bare_forward(batch, body, passes),
            "pipeline": lambda: pipeline(files, encoder),
            "bare lanes": lambda: bare_lanes(batch, body, passes, threads),
            "bare 16": lambda: bare_forward(batch[:16], body, 1),
            "pipeline 16": lambda: pipeline(files[:16], encoder),
            "usual": lambda: usual_way(files, plain, threads),
        },
        options.rounds,
    )
    counts = {"bare": 32 * passes, "bare lanes": 32 * passes, "bare 16": 16, "pipeline 16": 16}
    rate = {name: counts.get(name, len(files)) / value for name, value in seconds.items()}
    print(f"{encoder.name}, {options.images} JPEG files of 500 x 375, {threads} threads; images a second:")
    print(f"  bare bf16 channels_last forward pass  {rate['bare']:8.1f}")
    print(f"  the same, one thread a core           {rate['bare lanes']:8.1f}")
    print(f"  pipeline, files to vectors            {rate['pipeline']:8.1f}")
    print(f"  usual way (full decode, fp32)         {rate['usual']:8.1f}")
    bare = max(rate["bare"], rate["bare lanes"])
    print(f"  pipeline / better of the two bare ones {rate['pipeline'] / bare:.2f} (at least 0.75)")
    print(f"  pipeline / usual {rate['pipeline'] / rate['usual']:.2f} (at least 2.0)")
    few = rate["pipeline 16"] / rate["bare 16"]
    print(f"  16 files at once: {1000 * seconds['pipeline 16']:.0f} ms, pipeline / bare {few:.2f} (at least 0.7)")
    usual, ours = usual_way(files[:64], plain, threads), pipeline(files[:64], encoder)
    print(
        f"  lowest cosine against the usual way's fp32 vectors {float((usual * ours).sum(1).min()):.5f} (at least 0.999)"
    )

    large = jpegs(6, (4000, 3000))
    times = best_seconds(
        {
            "full": lambda: [encoder.prepare(decode(data)) for data in large],
            "draft": lambda: [encoder.prepare(decode(data, encoder.input_size)) for data in large],
        },
        options.rounds,
    )
    print(
        f"12-megapixel photos, one thread: full decode {6 / times['full']:.1f}/s, ours {6 / times['draft']:.1f}/s, ",
        end="",
    )
    print(f"ratio {times['full'] / times['draft']:.1f} (at least 4)")

    data = load_digits().images
    images = [Image.fromarray((image * 15.9).astype(np.uint8)).resize((28, 28)) for image in data]
    files = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files.append(buffer.getvalue())
    patches = fit_patches(images, seed=0)
    times = best_seconds({"patches": lambda: pipeline(files, patches)}, options.rounds)  # type: ignore[arg-type]
    print(f"patches, 28 x 28 grey PNG files to vectors: {len(files) / times['patches']:.0f}/s (at least 1500)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Whatever is written into a label config, an annotation, a CSV or an image: a sentence, and never a crash or a hang."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_backend.errors import BackendError
from ml_backend.images.decoding import decode
from ml_backend.imports.sources import find_images, read_labels
from ml_backend.labelstudio.config import parse_label_config
from ml_backend.labelstudio.results import annotation_from_json
from ml_backend.records import LabelSchema, Selection
from tests import hostile

SCHEMA = LabelSchema("choice", "image", "image", ("cat", "dog"))
SLOWEST_S = 30.0
"""For one of them, on the slowest machine: more is taken for a hang."""
MEMORY = 3 * 2**30
ROWS = 5


def label_configs(rng: random.Random, _folder: Path) -> None:
    config = hostile.label_config(rng)
    chosen = Selection(rng.choice((None, "choice", hostile.text(rng, 5))), None)
    schema = parse_label_config(config, chosen)
    assert all(isinstance(label, str) for label in schema.labels)


def annotation_results(rng: random.Random, _folder: Path) -> None:
    moment = "2026-01-01T00:00:00Z"
    raw = {"id": 1, "task": 1, "created_at": moment, "updated_at": moment, "result": hostile.annotation_result(rng)}
    annotation = annotation_from_json(SCHEMA, raw)
    "".join(annotation.labels).encode()


def csv_rows(rng: random.Random, folder: Path) -> None:
    file = folder / "list.csv"
    file.write_bytes(hostile.csv_file(rng, ROWS))
    find_images([str(file)])
    read_labels(file)


WHOLE = hostile.images()


def image_headers(rng: random.Random, _folder: Path) -> None:
    decode(hostile.image(rng, WHOLE), rng.choice((None, 1, 32)))


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    kind.__name__: kind for kind in (label_configs, annotation_results, csv_rows, image_headers)
}


def try_all(kind: str, seed: int, count: int, folder: Path) -> tuple[int, float]:
    """Make and read so many. Returns how many were taken, and the longest that one took. Raises for anything but a sentence."""
    good, slowest = 0, 0.0
    for number in range(count):
        began = time.monotonic()
        try:
            KINDS[kind](random.Random(f"{seed} {number}"), folder)
            good += 1
        except BackendError:
            pass
        except Exception as error:
            error.add_note(f"{kind}, seed {seed}, number {number}")
            raise
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < SLOWEST_S
    return good, slowest


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "image_headers"])
def test_what_a_hostile_writer_puts_into_a_text_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    good, _ = try_all(kind, seed=0, count=400, folder=tmp_path)
    assert 0 < good < 400 or kind == "annotation_results"


IN_A_PROCESS = """
import resource, sys
from pathlib import Path
from tests.imports.test_hostile import MEMORY, try_all
resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
print(*try_all("image_headers", int(sys.argv[1]), int(sys.argv[2]), Path()))
"""


def try_images(seed: int, count: int) -> tuple[int, float]:
    """In a process of its own, whose memory is limited: a decoder may crash it."""
    command = [sys.executable, "-W", "ignore", "-c", IN_A_PROCESS, str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    good, slowest = done.stdout.split()
    return int(good), float(slowest)


def test_what_a_hostile_writer_puts_into_an_image_is_refused_in_a_sentence() -> None:
    good, _ = try_images(seed=0, count=400)
    assert 0 < good < 400


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nor_do_a_hundred_thousand_of_them_crash_or_hang(tmp_path: Path) -> None:
    counts = {"label_configs": 30_000, "annotation_results": 30_000, "csv_rows": 6_000}
    for kind, count in counts.items():
        began = time.monotonic()
        good, slowest = try_all(kind, 1, count, tmp_path)
        made = count * ROWS if kind == "csv_rows" else count
        print(
            f"\n{kind}: {made:,} in {time.monotonic() - began:.0f} s, {good:,} taken, the slowest took {slowest:.2f} s"
        )
    began = time.monotonic()
    good, slowest = try_images(1, 30_000)
    print(
        f"\nimage_headers: 30,000 in {time.monotonic() - began:.0f} s, {good:,} taken, the slowest took {slowest:.2f} s"
    )

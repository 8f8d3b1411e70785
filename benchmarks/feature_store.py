"""The feature store against Lance, on the same vectors, in one run.

python -m benchmarks.feature_store [--rows 1000000] [--dim 512] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml_backend.store.vectors import FeatureStore

CHUNK = 10_000


class LanceStore:
    """The same work as FeatureStore's on a Lance data set: hash and vector columns, a scalar index on the hash."""

    def __init__(self, root: Path) -> None:
        self.path = str(root / "features.lance")

    def append(self, hashes: list[str], vectors: NDArray[np.float16]) -> None:
        import lance
        import pyarrow as pa

        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        keys = pa.array([bytes.fromhex(key) for key in hashes], pa.binary(32))
        lance.write_dataset(pa.table({"hash": keys, "vector": flat}), self.path, mode="append")

    def index(self) -> None:
        import lance

        lance.dataset(self.path).create_scalar_index("hash", "BTREE")

    def matrix(self) -> NDArray[np.float16]:
        import lance

        column = lance.dataset(self.path).to_table(columns=["vector"])["vector"].combine_chunks()
        values = column.values.to_numpy(zero_copy_only=False)
        return values.reshape(len(column), -1)  # type: ignore[no-any-return]

    def rows(self, hashes: list[str]) -> int:
        import lance

        listed = ", ".join(f"X'{key}'" for key in hashes)
        return int(
            lance.dataset(self.path).to_table(columns=[], filter=f"hash IN ({listed})", with_row_id=True).num_rows
        )


def timed(name: str, run: Callable[[], object]) -> object:
    start = time.perf_counter()
    result = run()
    print(f"  {name:<44} {time.perf_counter() - start:8.3f} s")
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(argv)
    hashes = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest() for number in range(options.rows)]
    block = np.random.default_rng(0).standard_normal((CHUNK, options.dim)).astype(np.float16)
    wanted = [hashes[number] for number in np.random.default_rng(1).permutation(options.rows)[:100]]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        print(f"FeatureStore, {options.rows:,} x {options.dim} float16")
        store = FeatureStore(root / "numpy")

        def fill() -> None:
            for start in range(0, options.rows, CHUNK):
                part = hashes[start : start + CHUNK]
                store.append("e-1", part, block[: len(part)])

        timed(f"append, {CHUNK:,} at a time, each synced", fill)
        small = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(1600)]

        def append_few() -> None:
            for start in range(0, 1600, 16):
                store.append("e-1", small[start : start + 16], block[:16])

        timed("append 100 times 16", append_few)
        fresh = FeatureStore(root / "numpy")
        timed("open and find 100 hashes (first time)", lambda: fresh.rows("e-1", wanted))
        timed("find 100 hashes (again)", lambda: fresh.rows("e-1", wanted))
        timed("find all hashes", lambda: fresh.rows("e-1", hashes))
        timed("read all vectors once (sum)", lambda: np.asarray(fresh.matrix("e-1")).view(np.uint16).sum())
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        print(f"  size {size / 1e6:.0f} MB")

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("Lance, the same")
        lance_store = LanceStore(Path(folder))

        def fill_lance() -> None:
            for start in range(0, options.rows, CHUNK):
                part = hashes[start : start + CHUNK]
                lance_store.append(part, block[: len(part)])

        def append_few_to_lance() -> None:
            for start in range(0, 1600, 16):
                lance_store.append(small[start : start + 16], block[:16])

        timed(f"append, {CHUNK:,} at a time", fill_lance)
        timed("append 100 times 16", append_few_to_lance)
        timed("index the hashes", lance_store.index)
        timed("open and find 100 hashes", lambda: lance_store.rows(wanted))
        timed("read all vectors once (sum)", lambda: lance_store.matrix().view(np.uint16).sum())
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"  size {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

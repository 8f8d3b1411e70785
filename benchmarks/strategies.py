"""Selection against the peers' on the same arrays, side by side; and on a million images, with memory.

  python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/requirements-peers.txt
  python -m benchmarks.strategies

Each piece of work runs in a process of its own; the libraries take turns, `--turns` times, and the best time counts.
`--only large` or `--only round` does that part alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ml_backend.simulation.memory import peak_megabytes

CACHE = Path(__file__).resolve().parent.parent / ".benchmarks" / "strategies"
WORKER = Path(__file__).with_name("strategy_worker.py")
NAMES = {"margin": "margin", "kcenter": "diversity", "badge": "badge", "typiclust": "typiclust"}
PEERS = {
    "margin": ["modal", "baal", "cardinal", "smalltext", "skactiveml"],
    "kcenter": ["skactiveml", "smalltext"],
    "badge": ["skactiveml"],
    "typiclust": ["skactiveml"],
}
ROWS, LARGE, WIDTH, CLASSES = (
    {"margin": 200_000, "kcenter": 50_000, "badge": 50_000, "typiclust": 50_000},
    1_000_000,
    512,
    10,
)
LIMITS = {"margin": 1.0, "kcenter": 1 / 6, "badge": 1 / 50, "typiclust": 1.0}
ALLOWANCE = 150
Result = dict[str, Any]


def arrays(name: str, rows: int, *, features: bool, kind: type = np.float32) -> Path:
    """Clustered unit rows and probabilities, made once."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    if not (folder / "probabilities.npy").exists():
        np.save(folder / "probabilities.npy", rng.dirichlet(np.full(CLASSES, 0.3), rows).astype(np.float32))
    if features and not (folder / "features.npy").exists():
        centres = rng.standard_normal((200, WIDTH), dtype=np.float32)
        file = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
            folder / "part.npy", "w+", kind, (rows, WIDTH)
        )
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            block = centres[rng.integers(200, size=count)] + rng.standard_normal((count, WIDTH), dtype=np.float32)
            file[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
        file.flush()
        (folder / "part.npy").rename(folder / "features.npy")
    return folder


def worker(python: Path | str, library: str, task: str, folder: Path, **options: Any) -> Result:
    threads = str(options["threads"])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }
    command = [str(python), str(WORKER), library, task, str(folder), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare(task: str, python: Path, turns: int) -> bool:
    """One table: seconds, ratio to ours, memory, and whether the picks are ours. True where the limit is met."""
    folder = arrays(f"{task}-{ROWS[task]}", ROWS[task], features=task != "margin")
    count, known = (1000, 0) if task == "margin" else (100, 0 if task == "typiclust" else 100)
    options = {"count": count, "labelled": known, "threads": 1 if task == "badge" else 2}
    best: dict[str, Result] = {}
    for turn in range(turns):
        for library in ["ours", *PEERS[task]]:
            if turn and best[library].get("seconds", 99) > 10:
                continue
            repeats = 1 if library != "ours" and task != "margin" else 5
            interpreter, name = (sys.executable, NAMES[task]) if library == "ours" else (python, task)
            result = worker(interpreter, library, name, folder, repeats=repeats, **options)
            if turn == 0 or result.get("seconds", 1e9) < best[library].get("seconds", 1e9):
                best[library] = result
    print(f"\n### {task}: {count} of {ROWS[task]:,}\n")
    return _table(task, best)


def _table(task: str, best: dict[str, Result]) -> bool:
    mine = best["ours"]
    print("| library | seconds | times ours | peak MB | picks equal to ours |\n|---|---|---|---|---|")
    correct = []
    for library, result in best.items():
        if "error" in result:
            print(f"| {library} | failed: {result['error'][:80]} | | | |")
            continue
        same = len(set(result["rows"]) & set(mine["rows"])) / len(mine["rows"])
        equal = "drawn at random" if task in {"badge", "typiclust"} else f"{same:.1%}"
        if library != "ours" and (task in {"badge", "typiclust"} or same > 0.98):
            correct.append(result["seconds"])
        ratio = result["seconds"] / mine["seconds"]
        print(f"| {library} | {result['seconds']:.4f} | {ratio:.1f} | {result['megabytes']:.0f} | {equal} |")
    if not correct:
        print("\nno correct peer ran: no ratio")
        return False
    ratio, limit = mine["seconds"] / min(correct), LIMITS[task]
    print(
        f"\n{'ok  ' if ratio <= limit else 'MISS'} {task}: ours / fastest correct peer = {ratio:.4f} (at most {limit:.4f})"
    )
    return bool(ratio <= limit)


def large() -> bool:
    """A million rows, float16 on disk: seconds and peak memory, mapped pages included."""
    folder = arrays("large", LARGE, features=True, kind=np.float16)
    size = (folder / "features.npy").stat().st_size / 2**20
    print(f"\n### {LARGE:,} x {WIDTH} float16 on disk ({size:.0f} MB), 100 labelled\n")
    print("| strategy | seconds | peak MB | |\n|---|---|---|---|")
    fine = True
    for name in ("margin", "diversity", "badge", "cluster_margin", "herding", "uherding", "auto"):
        options = {"count": 100, "labelled": 100, "threads": 2, "repeats": 1, "mmap": True}
        result = worker(sys.executable, "ours", name, folder, **options)
        if "error" in result:
            print(f"| {name} | failed: {result['error']} | | MISS |")
            fine = False
            continue
        ok = result["megabytes"] <= size + ALLOWANCE
        fine &= ok
        print(f"| {name} | {result['seconds']:.2f} | {result['megabytes']:.0f} | {'ok' if ok else 'MISS'} |")
    return fine


def full_round() -> bool:
    """Score, select 100, ranks and reasons, through `select` with all its checks; features in the page cache."""
    import torch

    from ml_backend.learning.training import train_head
    from ml_backend.records import Pool
    from ml_backend.strategies import select

    torch.set_num_threads(2)
    folder = arrays("large", LARGE, features=True, kind=np.float16)
    features = np.load(folder / "features.npy", mmap_mode="r")
    rng = np.random.default_rng(0)
    labelled = np.zeros(LARGE, dtype=bool)
    labelled[rng.choice(LARGE, 200, replace=False)] = True
    labels = np.where(labelled, rng.integers(CLASSES, size=LARGE), -1)
    head = train_head(features[labelled], labels[labelled], [str(c) for c in range(CLASSES)], seed=0).head
    fine = True
    print("\n### a full round on a million: score, select 100, ranks and reasons\n")
    print("| strategy | score s | select s | together | peak MB | |\n|---|---|---|---|---|---|")
    for name in ("margin", "cluster_margin", "auto"):
        best = (np.inf, np.inf)
        with peak_megabytes() as peak:
            for _ in range(3):
                started = time.perf_counter()
                probabilities = head.predict_proba(features)
                scored = time.perf_counter()
                pool = Pool(features, labelled, labels, CLASSES, np.arange(LARGE), probabilities)
                ranking = select(name, pool, 100, rng)
                best = min(best, (scored - started, time.perf_counter() - scored), key=sum)
        assert len(ranking.rows) == len(ranking.reasons) == 100
        ok = sum(best) <= 3 or name == "auto"
        fine &= ok
        print(
            f"| {name} | {best[0]:.2f} | {best[1]:.2f} | {sum(best):.2f} | {peak.megabytes:.0f} | {'ok' if ok else 'MISS'} |"
        )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers/bin/python"), help="interpreter with the peers")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", default="margin,kcenter,badge,typiclust,large,round")
    args = parser.parse_args()
    fine = True
    for part in args.only.split(","):
        if part == "large":
            fine &= large()
        elif part == "round":
            fine &= full_round()
        else:
            fine &= compare(part, args.peers, args.turns)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())

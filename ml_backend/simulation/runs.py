"""Every run into one CSV; what is already there is not done again."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FunctionType
from typing import cast

import numpy as np
from tqdm import tqdm

from ml_backend.errors import ConflictError
from ml_backend.simulation.code_version import code_digest
from ml_backend.simulation.data import Data, Source
from ml_backend.simulation.live_protocol import live_replay
from ml_backend.simulation.replay import FULL_POOL, Round, Settings, Trainer, full_pool, parts, replay
from ml_backend.strategies import STRATEGIES, Strategy
from ml_backend.strategies.uncertainty import ByScore
from ml_backend.tabular import atomic_file

COLUMNS = [field.name for field in fields(Round)]


def simulate(
    source: Source,
    strategies: Sequence[str],
    seeds: Iterable[int],
    settings: Settings,
    train: Trainer,
    path: Path,
    *,
    progress: bool = True,
) -> list[Round]:
    """Run each strategy under each seed, a run at a time into `path`; finished runs are read back from it.

    Returns the rounds of these runs alone, whatever else `path` holds. Raises ConflictError where it is no file of runs.
    """
    strategies = list(dict.fromkeys(strategies))
    for strategy in strategies:
        parts(strategy)
    seeds = list(seeds)
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[tuple[str, str, int], list[Round]] = {}
    for r in read(path):
        known.setdefault((r.key, r.strategy, r.seed), []).append(r)
    rounds: list[Round] = []
    bar = tqdm(total=len(seeds) * len(strategies) + min(3, len(seeds)), unit="run", disable=not progress)
    for seed in seeds:
        data = source(seed)
        digest = data_digest(data)
        for strategy in (*([FULL_POOL] if seed in seeds[:3] else []), *strategies):
            bar.set_description(f"{strategy}, seed {seed}")
            key = run_key(digest, strategy, settings, train)
            run = known.get((key, strategy, seed))
            if run is None:
                run = _once(replace(r, key=key) for r in _rounds(data, strategy, seed, settings, train))
                _append(path, run)
            rounds += run
            bar.update()
    bar.close()
    return rounds


def _rounds(data: Data, strategy: str, seed: int, settings: Settings, train: Trainer) -> Iterator[Round]:
    if strategy == FULL_POOL:
        yield full_pool(data, seed, train)
    elif settings.live:
        yield from live_replay(data, strategy, seed, settings, train)
    else:
        yield from replay(data, strategy, seed, settings, train)


def data_digest(data: Data) -> str:
    """Of features, labels and classes, those to test on included; encoder and weights are in the features."""
    digest = hashlib.sha256(json.dumps(data.classes).encode())
    for array in (data.features, data.labels, data.test_features, data.test_labels):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def run_key(data: str, strategy: str, settings: Settings, train: Trainer) -> str:
    """What a run came from, seed and strategy apart: digest of the data, settings, and the code of replay and training."""
    made_of = [] if strategy == FULL_POOL else [f for name in parts(strategy) for f in _functions(STRATEGIES[name])]
    protocol = live_replay if settings.live and strategy != FULL_POOL else replay
    code = code_digest(protocol.__module__, train.__module__, *(f.__module__ for f in made_of))
    named = [f"{f.__module__}.{f.__qualname__}" for f in made_of]
    rules = {} if strategy == FULL_POOL else asdict(settings)
    return hashlib.sha256(json.dumps([data, code, named, rules]).encode()).hexdigest()[:16]


def _functions(strategy: Strategy) -> list[FunctionType]:
    """What the registry makes the strategy of."""
    made_of = (
        [strategy.measure, strategy.without_model, type(strategy)] if isinstance(strategy, ByScore) else [strategy]
    )
    return cast("list[FunctionType]", made_of)


def read(path: Path) -> list[Round]:
    """The rounds in `path`, each run once; none if it is not there yet. Raises ConflictError where it is no file of runs.

    Those of a release before keys have none, so no run is theirs.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - {"key", "balanced"} - set(reader.fieldnames or ())
        if missing:
            raise ConflictError(f"{path} is no file of runs, it has no column {min(missing)}: choose another --out.")
        try:
            return _once(_parsed(row) for row in reader)
        except (TypeError, ValueError, csv.Error) as error:
            raise ConflictError(
                f"{path} cannot be read as runs, at line {reader.line_num}: {error}. Correct it, or choose another --out."
            ) from error


def _once(rounds: Iterable[Round]) -> list[Round]:
    """One round for each number of labels of a run: what two commands wrote at once counts once."""
    taken: dict[object, Round] = {}
    for i, r in enumerate(rounds):
        taken.setdefault((r.key, r.strategy, r.seed, r.labels) if r.key else i, r)
    return list(taken.values())


def _parsed(row: dict[str, str]) -> Round:
    types = {"data": str, "strategy": str, "seed": int, "labels": int, "key": str}
    row = {"key": "", "balanced": "nan", **row}
    return Round(**{name: types.get(name, float)(row[name]) for name in COLUMNS})


def _append(path: Path, run: list[Round]) -> None:
    """The whole file anew and renamed: a run is there in full or not at all, and once, whoever else writes to it."""
    with _alone(path):
        there = read(path)
        if {(r.key, r.strategy, r.seed) for r in run} & {(r.key, r.strategy, r.seed) for r in there}:
            return
        with atomic_file(path) as new, new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(r) for r in [*there, *run])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process writes to `path`, and keep them waiting meanwhile."""
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

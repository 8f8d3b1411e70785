"""Every run into one CSV; what is already there is not done again."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from ml_backend.errors import ConflictError
from ml_backend.simulation.data import Source
from ml_backend.simulation.replay import FULL_POOL, Round, Settings, Trainer, full_pool, parts, replay

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

    Raises ConflictError where `path` holds runs made under other settings.
    """
    for strategy in strategies:
        parts(strategy)
    check_settings(path, settings)
    _keep_settings(path, settings)
    seeds = list(seeds)
    rounds = read(path)
    done = {(r.data, r.strategy, r.seed) for r in rounds}
    bar = tqdm(total=len(seeds) * len(strategies) + min(3, len(seeds)), unit="run", disable=not progress)
    for seed in seeds:
        data = source(seed)
        for strategy in (*([FULL_POOL] if seed in seeds[:3] else []), *strategies):
            bar.set_description(f"{strategy}, seed {seed}")
            if (data.name, strategy, seed) not in done:
                run = (
                    [full_pool(data, seed, train)]
                    if strategy == FULL_POOL
                    else list(replay(data, strategy, seed, settings, train))
                )
                _append(path, run)
                rounds += run
            bar.update()
    bar.close()
    return [r for r in rounds if r.strategy in {FULL_POOL, *strategies} and r.seed in set(seeds)]


def read(path: Path) -> list[Round]:
    """The rounds in `path`, none if it is not there yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_parsed(row) for row in csv.DictReader(file)]


def _parsed(row: dict[str, str]) -> Round:
    types = {"data": str, "strategy": str, "seed": int, "labels": int}
    return Round(**{name: types.get(name, float)(row[name]) for name in COLUMNS})


def _append(path: Path, run: list[Round]) -> None:
    """The whole file anew and renamed: a run is there in full or not at all."""
    new = path.with_suffix(".part")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(r) for r in [*read(path), *run])
    new.replace(path)


def check_settings(path: Path, settings: Settings) -> None:
    """Raise ConflictError where `path` holds runs made under other settings."""
    beside = path.with_suffix(".json")
    now = dataclasses.asdict(settings)
    if path.exists() and beside.exists():
        before = json.loads(beside.read_text())
        if before != now:
            raise ConflictError(
                f"{path} contains runs made with {before}, not {now}: choose another --out, or delete it."
            )


def _keep_settings(path: Path, settings: Settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(settings), indent=1) + "\n")

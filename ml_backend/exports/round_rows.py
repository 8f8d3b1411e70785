"""The history of queries as rows: one a round, or one a task asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.version_meta import VersionMeta
from ml_backend.task_names import task_filename

ROUND_COLUMNS: Mapping[str, type] = {
    "round": int, "model_version": str, "served_as": str, "strategy": str, "seed": int, "params": str, "state": str,
    "queries": int, "held_out": int, "labels": int, "accuracy": float, "accuracy_low": float, "accuracy_high": float,
    "accuracy_n": int, "created_at": str, "pushed_at": str, "verified_at": str, "error": str,
}  # fmt: skip
QUERY_COLUMNS: Mapping[str, type] = {
    "round": int, "rank": int, "task_id": int, "filename": str, "arm": str, "strategy": str, "acquisition": float,
    "reason": str, "confidence": float, "prediction": str, "model_version": str, "queried_at": str,
}  # fmt: skip


def round_rows(project: Project, ledger: Ledger, versions: Versions) -> Iterator[dict[str, Any]]:
    """Oldest first. Accuracy is that of the round's model on the held-out slice, when it was trained."""
    meta = {version.number: version.meta for version in versions.list(project)}
    for round_ in reversed(ledger.rounds(project)):
        queries = ledger.queries(round_)
        model = meta.get(round_.version, VersionMeta())
        measured = model.metrics.holdout or {}
        yield {
            "round": round_.number,
            "model_version": f"v{round_.version}",
            "served_as": round_.served_name,
            "strategy": round_.strategy,
            "seed": round_.seed,
            "params": json.dumps(round_.params, sort_keys=True),
            "state": round_.state,
            "queries": len(queries),
            "held_out": sum(query.arm == "holdout" for query in queries),
            "labels": model.labels,
            "accuracy": measured.get("accuracy"),
            "accuracy_low": measured.get("low"),
            "accuracy_high": measured.get("high"),
            "accuracy_n": measured.get("n"),
            "created_at": round_.created_at.isoformat(),
            "pushed_at": round_.pushed_at.isoformat() if round_.pushed_at else None,
            "verified_at": round_.verified_at.isoformat() if round_.verified_at else None,
            "error": round_.error,
        }


def query_rows(project: Project, ledger: Ledger) -> Iterator[dict[str, Any]]:
    """By round, then rank."""
    names = {row.task.id: task_filename(row.task) for row in ledger.rows(project) if row.round is not None}
    for round_ in reversed(ledger.rounds(project)):
        for query in ledger.queries(round_):
            yield vars(query) | {
                "round": round_.number,
                "filename": names.get(query.task_id),
                "strategy": round_.strategy,
                "prediction": "|".join(query.prediction),
                "model_version": f"v{round_.version}",
                "queried_at": round_.created_at.isoformat(),
            }

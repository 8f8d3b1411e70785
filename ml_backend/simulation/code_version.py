"""Which code decides a run, as a digest of its source: another version never reads these runs as its own."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
DECIDING = {"learning", "strategies", "simulation", "steps", "split", "records", "predictor", "settings", "store.rows"}
"""Rooms and modules that imports are followed into. The others carry, keep or show what these decide."""
REGISTRY = "ml_backend.strategies.registry"
"""Not followed: a run is decided by its own strategy (`runs.run_key`), and stays what it was when another one changes."""


@functools.cache
def code_digest(*modules: str) -> str:
    """Digest of these modules and of all that they import of the deciding rooms, by full names.

    Comments, docstrings and layout do not count; names outside this package are passed over.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or name == REGISTRY or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += _imported(tree)
        found[name] = ast.unparse(_without_docstrings(tree))
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _file(module: str) -> Path | None:
    package, *parts = module.split(".")
    if package != PACKAGE.name or not parts or not {parts[0], ".".join(parts[:2])} & DECIDING:
        return None
    path = PACKAGE.joinpath(*parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file if file.exists() else None


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

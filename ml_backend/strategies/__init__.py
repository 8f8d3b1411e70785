"""Query strategies: pure functions from a pool and a generator to a ranking. `select` is the way in."""

from ml_backend.strategies.registry import STRATEGIES, Strategy
from ml_backend.strategies.selection import select

__all__ = ["STRATEGIES", "Strategy", "select"]

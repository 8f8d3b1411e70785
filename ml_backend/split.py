"""Which tasks are held out: decided by what is in the image, when it is first read, and never by what is left.

Each image has a place in [0, 1) that a keyed hash of its content gives it. Those below the project's share are held out:
a draw that no strategy, import, clock or order of labelling has a say in, and that puts identical images on one side.
"""

from __future__ import annotations

import hashlib
import math

PLACES = 1 << 53
"""How many there are: what a double tells apart exactly, so that every database gives back the very number."""


LARGEST = 0.2
"""Of a small project, at most this share is held out for a start, whatever `first` says."""


def place(content: str, seed: int) -> float:
    """Where an image stands in [0, 1), evenly, by its content (the hash that equal images share) and the project's seed."""
    digest = hashlib.blake2b(content.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest) % PLACES / PLACES


def reserved_share(share: float, first: int, tasks: int) -> float:
    """The share of places held out in a project of so many tasks; `first` of them at least. 0 where `share` is 0."""
    return max(share, min(LARGEST, first / max(tasks, 1))) if share else 0.0


def wanted(share: float, first: int, tasks: int, labels: int) -> int:
    """How many held-out tasks are to be asked for by the time that the project has so many labels."""
    return max(min(first, int(LARGEST * tasks)), math.ceil(share * labels))

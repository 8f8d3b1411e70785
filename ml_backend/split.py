"""Which tasks are held out: decided by what is in the image, when it is first read, and never by what is left.

Each image has a place in [0, 1) that a keyed hash of its content gives it. Those below the project's share are held out:
a draw that no strategy, import, clock or order of labelling has a say in, and that puts identical images on one side.
"""

from __future__ import annotations

import hashlib

PLACES = 1 << 53
"""How many there are: what a double tells apart exactly, so that every database gives back the very number."""


def place(content: str, seed: int) -> float:
    """Where an image stands in [0, 1), evenly, by its content (the hash that equal images share) and the project's seed."""
    digest = hashlib.blake2b(content.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest) % PLACES / PLACES

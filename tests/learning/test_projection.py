"""Vectors on a plane: what is alike lies together, whoever is placed, and as often as it is asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_backend.learning.projection import GRID, Plane, main_directions, neighbourhoods


def heaps(count: int, seed: int = 0, dim: int = 16) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Unit vectors (n, dim) in three heaps, and which heap each is of."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, dim))
    of = rng.integers(3, size=count)
    found = centres[of] + 0.15 * rng.normal(size=(count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16), of


def apart(plane: Plane, seed: int) -> bool:
    """Whether other vectors of these heaps lie in three heaps on the plane: nearer to their own middle than to the others'."""
    vectors, of = heaps(90, seed)
    places = plane.places(vectors).astype(np.float64)
    middles = np.stack([places[of == heap].mean(axis=0) for heap in range(3)])
    nearest = np.linalg.norm(places[:, None] - middles[None], axis=2).argmin(axis=1)
    return bool((nearest == of).all())


def test_new_vectors_come_to_lie_with_their_likes_by_either_method() -> None:
    sample, _ = heaps(200)
    assert apart(main_directions(sample), seed=1)
    assert apart(neighbourhoods(sample, seed=0), seed=2)


def test_the_same_sample_gives_the_same_plane() -> None:
    sample, _ = heaps(100)
    for one, other in (
        (main_directions(sample), main_directions(sample)),
        (neighbourhoods(sample, 3), neighbourhoods(sample, 3)),
    ):
        assert (one.places(sample) == other.places(sample)).all()


def test_what_lies_further_out_than_the_sample_is_put_on_the_edge() -> None:
    sample, _ = heaps(50)
    plane = main_directions(sample)
    far = 100 * plane.about["directions"].T.astype(np.float64)
    assert set(plane.places(far).flatten().tolist()) & {0, GRID}


def test_one_image_and_images_all_alike_have_a_place() -> None:
    for count in (1, 5):
        same = np.ones((count, 4), np.float16) / 2
        places = main_directions(same).places(same)
        assert places.shape == (count, 2)
        assert (places == places[0]).all()

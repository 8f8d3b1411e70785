"""The map of a project: where images lie, and of which of them it says what the model thinks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_backend.errors import NotFoundError
from ml_backend.store.map_points import UNSURE, Points
from ml_backend.store.map_rows import LEARNED, MEASURES, NONE, TO_MEASURE, WAITS
from tests.bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """1 to 20 are held out, 1 to 5 of them labelled; so are 21 to 60 of the others."""
    made = Bench(tmp_path_factory.mktemp("map"))
    made.label(*range(1, 6), *range(21, 61))
    made.turn()
    return made


def of(points: Points, *tasks: int) -> list[int]:
    return [int(place) for place in points.at(np.array(tasks, np.int64))]


def test_of_what_is_held_out_the_map_has_no_guess_labelled_or_not(bench: Bench) -> None:
    points = bench.services.atlas.points(bench.project)
    held, others = of(points, *range(1, 21)), of(points, *range(21, 121))
    assert (points.guess[held] == NONE).all()
    assert (points.doubt[held] == UNSURE).all()
    assert (points.guess[others] != NONE).all()
    assert (points.doubt[others] <= 100).all()


def test_each_point_has_its_tasks_label_split_and_annotator(bench: Bench) -> None:
    points = bench.services.atlas.points(bench.project)
    assert sorted(points.ids.tolist()) == bench.ids
    for task, kind in ((1, MEASURES), (15, TO_MEASURE), (30, LEARNED), (100, WAITS)):
        (place,) = of(points, task)
        assert points.kind[place] == kind
        labelled = kind in {MEASURES, LEARNED}
        assert (points.label[place] != NONE) == labelled
        assert (points.annotator[place] != NONE) == labelled
        if labelled:
            assert points.labels[points.label[place]] == bench.truth[task]
    assert of(points, 10**9) == [-1]


def test_an_image_lies_where_it_lay_though_others_come_and_t_sne_is_kept(bench: Bench, tmp_path: Path) -> None:
    mine = bench_of(tmp_path, bench)
    atlas = mine.services.atlas
    before = atlas.points(mine.project)
    assert before.method == "pca"
    assert atlas.outdated(mine.project)
    assert atlas.lay_out(mine.project)
    assert not atlas.outdated(mine.project)
    first, again = atlas.points(mine.project), atlas.points(mine.project)
    assert first.method == "t-sne"
    assert (first.places == again.places).all()


def test_a_layout_that_cannot_be_read_is_made_anew(bench: Bench, tmp_path: Path) -> None:
    mine = bench_of(tmp_path, bench)
    atlas = mine.services.atlas
    atlas.lay_out(mine.project)
    path = mine.services.map_files.path(mine.project.id)
    path.write_bytes(path.read_bytes()[:100])
    assert atlas.points(mine.project).method == "pca"


def test_the_nearest_images_are_those_of_the_same_kind_itself_first(bench: Bench) -> None:
    points = bench.services.atlas.points(bench.project)
    matrix = bench.services.features.matrix(points.encoder_id)
    (place,) = of(points, 50)
    found = points.ids[points.alike(matrix[points.rows[place]], matrix, 10)].tolist()
    near = matrix[points.rows].astype(np.float32) @ matrix[points.rows[place]].astype(np.float32)
    assert found[0] == 50
    assert set(found) == set(points.ids[np.argsort(-near, kind="stable")[:10]].tolist())
    assert len(points.alike(matrix[0], matrix, 10_000)) == len(bench.ids)


def test_where_no_image_was_read_it_says_what_to_do(tmp_path: Path) -> None:
    empty = Bench(tmp_path, tasks=0, measured=0)
    with pytest.raises(NotFoundError, match="import images"):
        empty.services.atlas.points(empty.project)
    assert not empty.services.atlas.outdated(empty.project)
    assert not empty.services.atlas.lay_out(empty.project)


def bench_of(folder: Path, bench: Bench) -> Bench:
    bench.services.database.close()
    return bench.copied(folder / "copy")

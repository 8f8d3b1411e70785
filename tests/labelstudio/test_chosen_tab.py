"""The tab of chosen images: conditions that Label Studio's own page knows, and no more of them than it takes."""

from __future__ import annotations

import pytest

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.chosen_tab import CONDITIONS, filters_of


def test_ids_that_follow_one_another_are_one_condition_and_single_ones_each_one() -> None:
    found = [(item["operator"], item["value"]) for item in filters_of([9, 3, 2, 5, 1, 2, 8])]
    assert found == [("in", {"min": 1, "max": 3}), ("equal", 5), ("in", {"min": 8, "max": 9})]


def test_more_than_the_page_takes_are_refused_but_a_long_row_is_one() -> None:
    assert len(filters_of(range(1, 5_000))) == 1
    assert len(filters_of(range(0, 2 * CONDITIONS, 2))) == CONDITIONS
    with pytest.raises(InvalidInputError, match="Choose fewer"):
        filters_of(range(0, 2 * CONDITIONS + 2, 2))

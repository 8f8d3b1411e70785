"""Pictures to learn from."""

import pytest

from tests.pictures import Digits, handwritten_digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    return handwritten_digits()

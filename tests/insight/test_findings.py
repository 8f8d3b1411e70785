"""What takes long is found out once, beside the requests that ask for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ml_backend.insight.findings import Findings, Found


def test_a_request_is_told_what_was_known_while_something_new_is_found_out_once() -> None:
    findings, go_on, looked = Findings(), threading.Event(), [0]

    def slowly() -> str:
        looked[0] += 1
        assert go_on.wait(10)
        return "new"

    assert findings.of("labels", 1, lambda: "old") == Found("old", is_current=True)
    with ThreadPoolExecutor(5) as pool:
        told = list(pool.map(lambda _: findings.of("labels", 2, slowly), range(5)))
    assert told == [Found("old", is_current=False)] * 5
    go_on.set()
    while not (found := findings.of("labels", 2, slowly)).is_current:
        pass
    assert found.value == "new"
    assert looked == [1]


def test_what_goes_wrong_is_raised_and_tried_again() -> None:
    findings = Findings()

    def fail() -> str:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        findings.of("labels", 1, fail)
    assert findings.of("labels", 1, lambda: "there").value == "there"

"""What is killed right before or right after one of its requests to a real Label Studio, in the middle of its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.client import LabelStudio

Work = Callable[[int, LabelStudio], object]
"""What is done to the project of this id, with this client."""


class KilledError(BaseException):
    """Nobody catches it."""


class Moment(NamedTuple):
    """Right before a request, or right after it; they are counted from 0, and mere reading does not count."""

    at: int
    after: bool


class Dying(LabelStudio):
    """Is killed at a moment, once it is armed."""

    def arm(self, moment: Moment) -> None:
        sent, real = 0, self.transport.send

        def send(method: str, path: str, **kwargs: Any) -> Any:
            nonlocal sent
            if method == "GET":
                return real(method, path, **kwargs)
            sent += 1
            now = sent - 1 == moment.at
            if now and not moment.after:
                raise KilledError
            answer = real(method, path, **kwargs)
            if now:
                raise KilledError
            return answer

        self.transport.send = send  # type: ignore[method-assign]


def before(at: int) -> Moment:
    return Moment(at, after=False)


def after(at: int) -> Moment:
    return Moment(at, after=True)


def killed_at(requests: int, *some: Moment) -> pytest.MarkDecorator:
    """For a work of so many requests, `moments` of a test: those that differ in kind, and in a long run every one."""
    every = [Moment(at, late) for late in (False, True) for at in range(requests)]
    given = [pytest.param(some, id="some"), pytest.param(every, id="all", marks=pytest.mark.long)]
    return pytest.mark.parametrize("moments", given)


def survived(server: EmbeddedLabelStudio, work: Work, project_id: int, moment: Moment) -> bool:
    """Do the work, and be killed at that moment; whether it ended before that."""
    with Dying(server.url, server.token) as dying:
        dying.lean_import(project_id)  # asked once, and no request of the work
        dying.arm(moment)
        try:
            work(project_id, dying)
        except KilledError:
            return False
        return True


def left_by_kills(
    server: EmbeddedLabelStudio, make: Callable[[], int], work: Work, moments: Sequence[Moment], requests: int
) -> Iterator[tuple[Moment, int]]:
    """For each moment, a project as `make` makes it in which the work was killed then. It takes exactly so many requests."""
    for moment in moments:
        project_id = make()
        assert not survived(server, work, project_id, moment), f"it ended before {moment}"
        yield moment, project_id
    assert survived(server, work, make(), before(requests)), f"it takes more than {requests} requests"

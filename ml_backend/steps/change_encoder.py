"""Another encoder was set: its vectors are made beside the turns, which go on with the old one, and it serves once they are there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml_backend.encoding import Encoding
from ml_backend.errors import DiskFullError, ImageError, LabelStudioUnavailableError, StoreError
from ml_backend.project_encoders import ProjectEncoders
from ml_backend.steps.encode_images import places
from ml_backend.store.faults import translated
from ml_backend.store.ledger import Ledger
from ml_backend.store.project_state import NextEncoder, ServingEncoder
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.wording import amount

if TYPE_CHECKING:
    from ml_backend.encoders.encoder import Encoder

logger = logging.getLogger(__name__)

REASON = "another encoder"
"""Why a turn is due that is to begin a change, or to end it."""
Reached = Literal["nothing to do", "part", "all there", "stuck"]

AWAY, MOST_AWAY = 0.01, 500
"""Images that cannot be fetched at present hold the change up, unless they are no larger a share, and no more, than this."""
NOTED_S = 2.0
"""Between two notes of how far it is."""
AT_MOST_S = 2.0
"""What a waiting turn waits for a first image to be encoded."""


class _EnoughError(Exception):
    """Somebody else's turn."""


@dataclass
class _Watch:
    """Called often; remembers what it was stopped with, so that this is told from what the encoder does wrong.

    known: how far it was. tell: how many images are done, of how many; may raise. enough: whether a turn waits, or the time is up.
    """

    known: NextEncoder
    tell: Callable[[int, int], None]
    enough: Callable[[], bool]
    note: Callable[[int], None] = lambda _: None
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    noted: float = field(default_factory=time.monotonic)
    stopped: BaseException | None = None

    def __call__(self, done: int = 0) -> None:
        try:
            self._look(done)
        except BaseException as error:
            self.stopped = error
            raise

    def _look(self, done: int) -> None:
        now, self.done = time.monotonic(), done
        self.tell(self.known.done + done, self.known.total)
        if done and now - self.noted > NOTED_S:
            self.noted = now
            self.note(done)
        if (done or now - self.began > AT_MOST_S) and self.enough():
            raise _EnoughError


@dataclass(frozen=True)
class EncoderChange:
    """Brings projects from one encoder to another."""

    ledger: Ledger
    features: FeatureStore
    encoding: Encoding
    encoders: ProjectEncoders
    told: set[tuple[int, str, str]] = field(default_factory=set)

    def is_outdated(self, project: Project) -> bool:
        """Whether the settings ask for something else than is known of the project, so that a turn is to settle it."""
        wanted, state = self.encoders.wanted.slug, project.state
        if state.imported:
            return False
        if state.encoder is None:
            return self.encoders.before(project) is not None
        asked = state.next_encoder.choice if state.next_encoder else state.encoder.choice
        return asked != wanted

    def settle(self, project: Project) -> Project:
        """At the beginning of a turn: note what is set by now, or that the old encoder stays; switch where all vectors are there.

        Where nothing was encoded yet, or the old encoder cannot be loaded any more, the new one is taken at once.
        """
        known, wanted = project.state.next_encoder, self.encoders.wanted
        before = None if project.state.imported else self.encoders.before(project)
        if before is None or not self._is_worth_keeping(project, before) or not self.encoders.former(project, before):
            at_once = {} if before is None else {"encoder": None}
            return self._configure(project, next_encoder=None, **at_once)
        if known is None or known.choice != wanted.slug:
            logger.info(
                "%s: the vectors of the encoder %s are made beside the turns; %s serves until then.",
                project.key, wanted.name, before.name,
            )  # fmt: skip
            known = NextEncoder(choice=wanted.slug, name=wanted.name)
            return self._configure(project, encoder=before, next_encoder=known)
        if self._is_ready(project, before, known):
            logger.info("%s: the encoder %s serves from now on, in place of %s.", project.key, known.name, before.name)
            serving = ServingEncoder(choice=known.choice, name=known.name, id=known.id)
            return self._configure(project, encoder=serving, next_encoder=None)
        return project

    def go_on(
        self,
        project: Project,
        enough: Callable[[], bool],
        tell: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Reached:
        """Make some of the vectors, at least a few, until there is `enough`; returns how far that got.

        What does not work is noted with the project, and fails nothing. tell: how many images are done, of how many; what it raises
        is raised.
        """
        project = self.ledger.project(project.key)
        known, serving = project.state.next_encoder, project.state.encoder
        if known is None or serving is None or known.choice != self.encoders.wanted.slug:
            return "nothing to do"
        watch = _Watch(known, tell, enough)
        try:
            with translated(str(self.features.root)):
                encoder = self.encoders.build(project, watch)
                watch.known = known = known.model_copy(update={"id": encoder.id})
                return self._encode(project, serving, encoder, watch)
        except _EnoughError:
            watch.note(watch.done)
            return "part"
        except Exception as error:
            fault = isinstance(error, StoreError) and not isinstance(error, DiskFullError)
            if error is watch.stopped or fault:
                raise
            passing = isinstance(error, ImageError | LabelStudioUnavailableError | DiskFullError)
            why = str(error) or type(error).__name__
            return self._stuck(project, known, why if passing else f"it cannot be used ({why})")

    def tidy(self, project: Project) -> None:
        """At the end of a turn: delete encoders and vectors that nobody needs any more."""
        self.encoders.tidy(self.ledger.project(project.key), self.features)

    def _encode(self, project: Project, serving: ServingEncoder, encoder: Encoder, watch: _Watch) -> Reached:
        """Of the images that have a vector of the old encoder: those that came since are encoded by whichever serves."""
        rows = self.ledger.pool(project)
        lacking, total = self._lacking(rows.hashes, serving.id, encoder.id)
        before = total - len(lacking)
        watch.known = self._note(project, watch.known, before, total)

        def note(done: int) -> None:
            self._note(project, watch.known, before + done, total)

        watch.note = note
        todo = rows.ids[lacking[~rows.resting[lacking]]].tolist()
        found = self.encoding.encode(project, encoder, self.ledger.tasks(project, todo), watch)
        lacking, total = self._lacking(self.ledger.pool(project).hashes, serving.id, encoder.id)
        known = self._note(project, watch.known, total - len(lacking), total)
        if _few(len(lacking), total):
            return "all there"
        why = next(iter(found.errors.values()), "they were not read yet.")
        return self._stuck(project, known, f"{amount(len(lacking), 'image')} cannot be fetched at present: {why}")

    def _is_worth_keeping(self, project: Project, before: ServingEncoder) -> bool:
        """Whether anything stands on the old encoder: a version, or vectors."""
        if self.encoders.versions.newest(project) is not None:
            return True
        hashes = self.ledger.pool(project).hashes
        return bool((places(self.features, before.id, hashes) >= 0).any())

    def _lacking(self, hashes: NDArray[np.bytes_], old: str, new: str) -> tuple[NDArray[np.int64], int]:
        """Positions of the images that have a vector of the old encoder alone, and how many have one of the old."""
        known = places(self.features, old, hashes) >= 0
        return np.flatnonzero(known & (places(self.features, new, hashes) < 0)), int(known.sum())

    def _is_ready(self, project: Project, serving: ServingEncoder, known: NextEncoder) -> bool:
        """Whether it can serve: it can be loaded, and next to all vectors are there."""
        lacking, total = self._lacking(self.ledger.pool(project).hashes, serving.id, known.id)
        if not known.id or not _few(len(lacking), total):
            return False
        try:
            return self.encoders.build(project).id == known.id
        except Exception as error:  # noqa: BLE001 - somebody's own class: the old one stays
            self._stuck(project, known, f"it cannot be used ({error})")
            return False

    def _note(self, project: Project, known: NextEncoder, done: int, total: int) -> NextEncoder:
        got_on = (
            done > known.done or done == total
        )  # what holds it up is told until then, while it is tried again as well
        known = known.model_copy(update={"done": done, "total": total, "problem": None if got_on else known.problem})
        self._change_next(project, known)
        return known

    def _stuck(self, project: Project, known: NextEncoder, problem: str) -> Reached:
        """Keep with the project, and log once, why the new encoder does not get on."""
        if known.problem != problem and (project.id, known.choice, problem) not in self.told:
            self.told.add((project.id, known.choice, problem))
            logger.warning("%s: the encoder %s does not serve yet: %s", project.key, known.name, problem)
        self._change_next(project, known.model_copy(update={"problem": problem}))
        return "stuck"

    def _change_next(self, project: Project, after: NextEncoder) -> None:
        """Unless another one was set meanwhile."""
        known = self.ledger.project(project.key).state.next_encoder
        if known is not None and known.choice == after.choice and known != after:
            self.ledger.configure(project, next_encoder=after)

    def _configure(self, project: Project, **changes: Any) -> Project:
        changed = {name: value for name, value in changes.items() if getattr(project.state, name) != value}
        return self.ledger.configure(project, **changed) if changed else project


def _few(lacking: int, total: int) -> bool:
    return lacking <= min(AWAY * total, MOST_AWAY)

"""The work of the page for accepting the rest: who may ask for it, one act of a project at a time, and how far that is.

An act is done in a thread of the web process. What it is, and what came of it, is kept in the store: after the service was
stopped in the middle, everybody is told so.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from ml_backend.acceptance.project_rest import Plan
from ml_backend.dry_run import copied
from ml_backend.errors import BackendError, ConflictError, NothingVouchedError
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.job import Job
from ml_backend.store.project_state import AskedAct
from ml_backend.store.projects import Project
from ml_backend.task_names import printable
from ml_backend.web.accept_acts import AT_WORK, GOES_ON, Act
from ml_backend.web.visitors import Caller, Visitor, Visitors
from ml_backend.wording import encodable, shortened
from ml_backend.worker.accepting import Watch
from ml_backend.worker.requeue import requeue_job_of_dead_process

logger = logging.getLogger(__name__)

ERRORS = (0.005, 0.01, 0.02, 0.05)
CONFIDENCE = 0.95
COUNTED = {"labels": "", "tidying up": "Tidying up"}
LONGEST_SAID = 2_000
"""Characters that the log keeps of what came of an act."""
INTERNAL = "It failed for a reason that is not known: see the service's log, then try again."


@dataclass
class Running:
    """An act under way in this process. waits: for what, before it begins. total: None where nothing is counted."""

    act: Act
    person: str
    began: float = field(default_factory=time.monotonic)
    phase: str = ""
    done: int = 0
    total: int | None = None

    def waiting(self, _share: float, message: str) -> None:
        self.phase = message[:1].upper() + message[1:]

    @contextmanager
    def counting(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if total is not None:
            self.phase, self.done, self.total = "", 0, total

        def advance(more: int) -> None:
            if total is None:
                self.phase, self.total = COUNTED[what], None
            else:
                self.done += more

        yield advance


@dataclass
class Planning:
    """A plan that is worked out, or was. basis: what it is of; another basis, and it says nothing any more."""

    basis: tuple[object, ...]
    began: float = field(default_factory=time.monotonic)
    plan: Plan | None = None
    error: str = ""

    @property
    def is_on(self) -> bool:
        return self.plan is None and not self.error


class AcceptWork:
    """The acts and plans of all projects of this process."""

    def __init__(
        self,
        services: Services,
        visitors: Visitors,
        copy: Callable[[Settings], AbstractContextManager[Services]] = copied,
    ) -> None:
        self._services, self._visitors, self._copy = services, visitors, copy
        self._process = secrets.token_hex(8)
        self._running: dict[int, Running] = {}
        self._plans: dict[int, Planning] = {}
        self._unread: dict[int, tuple[Act, datetime | None]] = {}
        self._lock = threading.Lock()

    # -- acts ---------------------------------------------------------------------------------------------------------

    def would(self, project: Project, caller: Caller, act: Act) -> str:
        """What it would come to, found out on a copy of the store. Raises what `begin` does, and what doing it would."""
        person = self._may(project, caller, act)
        with self._copy(self._services.settings) as copy:
            try:
                return act.do(copy.ledger.project(project.key), copy, person.account, Watch())
            except NothingVouchedError as error:
                raise ConflictError(error.blind) from None

    def begin(self, project: Project, caller: Caller, act: Act) -> None:
        """Have it done, and return. Raises ForbiddenError for who may not change the project, ConflictError beside another act."""
        person = self._may(project, caller, act)
        mine = Running(act, person.name)
        with self._lock:
            self._refuse_another(project)
            self._running[project.id] = mine
        try:
            asked = self._note(project, act, person)
        except BaseException:
            self._running.pop(project.id, None)
            raise
        threading.Thread(target=self._do, args=(project, mine, asked), name=act.reason, daemon=True).start()

    def running(self, project: Project) -> Running | None:
        return self._running.get(project.id)

    def ended(self, project: Project) -> tuple[AskedAct, str] | None:
        """The last act, where it is over, with what to say of it; None where there was none, or it is under way."""
        asked = project.state.act
        if asked is None or project.id in self._running or self.elsewhere(project) is not None:
            return None
        if not asked.process:
            return asked, asked.said
        said = f"{AT_WORK[asked.what]} was interrupted: the service was stopped. {GOES_ON[asked.what]}"
        return asked, said

    def elsewhere(self, project: Project) -> Job | None:
        """The job of an act that is under way, and not by this page: by a command, or by another process of the service."""
        asked = project.state.act
        if asked is not None and asked.process not in {"", self._process}:
            requeue_job_of_dead_process(project, self._services)
        running = self._services.jobs.status(project).running
        return running if running is not None and running.reason in {f"accept {what}" for what in AT_WORK} else None

    def unread(self, project: Project) -> Act | None:
        """What was done since labels were last read: how many there are is known by the turn that follows."""
        act, then = self._unread.get(project.id, (None, None))
        return act if then == project.reconciled_at else None

    def _may(self, project: Project, caller: Caller, act: Act) -> Visitor:
        person = self._visitors.acts(project, caller)
        self._refuse_another(project)
        act.check(project, self._services.acceptances)
        return person

    def _refuse_another(self, project: Project) -> None:
        if other := self._running.get(project.id):
            raise ConflictError(
                f"{AT_WORK[other.act.what]}, asked for by {other.person}, is under way: wait until it has ended, one act at a time."
            )

    def _note(self, project: Project, act: Act, person: Visitor) -> AskedAct:
        """Keep that it was begun. Nothing that a person is called ends a line of the log."""
        asked = AskedAct(
            what=act.what,
            by=person.account,
            person=person.name,
            at=self._services.ledger.clock().isoformat(timespec="seconds"),
            process=self._process,
            certificate=act.certificate,
            error=act.error,
            confidence=act.confidence,
        )
        self._services.ledger.configure(project, act=asked.as_json())
        logger.info("%s on %s: asked for by %s", act.reason, project.key, printable(person.account))
        return asked

    def _do(self, project: Project, mine: Running, asked: AskedAct) -> None:
        """In a thread: do it, and keep and tell what came of it."""
        said, failed, about = INTERNAL, True, (asked.what, project.key, printable(asked.by))
        watch = Watch(mine.waiting, mine.counting, _ask_for_turn)
        try:
            said, failed = mine.act.do(project, self._services, asked.by, watch), False
            told = {"said": shortened(encodable(said), LONGEST_SAID)}
            self._services.acts.record(project, mine.act.reason, account=asked.by, person=asked.person, detail=told)
            self._unread[project.id] = mine.act, self._services.ledger.project(project.key).reconciled_at
            logger.info("accept %s on %s: done for %s: %s", *about, printable(said))
        except NothingVouchedError as error:
            said = error.blind
            logger.warning("accept %s on %s: refused to %s: %s", *about, printable(said))
        except BackendError as error:
            said = str(error)
            logger.warning("accept %s on %s: failed for %s: %s", *about, printable(said))
        except Exception:
            logger.exception("accept %s on %s: failed for %s", *about)
        finally:
            self._end(project, asked, encodable(said), failed=failed)

    def _end(self, project: Project, asked: AskedAct, said: str, *, failed: bool) -> None:
        ended = asked.model_copy(update={"process": "", "said": said, "failed": failed})
        try:
            self._services.ledger.configure(project, act=ended.as_json())
        except BackendError as error:  # the store is away: it will be told as interrupted
            logger.warning("what came of accept %s on %s cannot be kept: %s", asked.what, project.key, error)
        finally:
            self._running.pop(project.id, None)

    # -- plans --------------------------------------------------------------------------------------------------------

    def plan(self, project: Project, caller: Caller, basis: tuple[object, ...]) -> None:
        """Have it worked out what several shares of wrong labels would take, and return; one that is there is kept."""
        self._visitors.looks(project, caller)
        if self._services.acceptances.is_blind(project):
            raise ConflictError("An audit is on: what another one would take is told once it is over.")
        with self._lock:
            known = self._plans.get(project.id)
            if known is not None and (known.is_on or (known.basis == basis and known.plan is not None)):
                return
            planning = self._plans[project.id] = Planning(basis)
        threading.Thread(target=self._work_out, args=(project, planning), name="accept plan", daemon=True).start()

    def planned(self, project: Project, basis: tuple[object, ...]) -> Planning | None:
        """The plan of this basis, or one that is being worked out."""
        known = self._plans.get(project.id)
        return known if known is not None and (known.is_on or known.basis == basis) else None

    def _work_out(self, project: Project, planning: Planning) -> None:
        error = INTERNAL
        try:
            with self._copy(self._services.settings) as copy:
                twin = copy.ledger.project(project.key)
                planning.plan, error = copy.project_rest.plan(twin, ERRORS, CONFIDENCE), ""
        except BackendError as told:
            error = str(told)
        except Exception:
            logger.exception("accept plan on %s failed", project.key)
        finally:
            planning.error = error


def _ask_for_turn(project: Project, services: Services, reason: str) -> None:
    """By the worker of the service: nothing is trained in this process."""
    services.jobs.mark_due(project, immediately=True, reason=reason)

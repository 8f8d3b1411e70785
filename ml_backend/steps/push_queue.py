"""Step 5: hand the round to Label Studio, check that it is what Label Studio serves, and record that.

What it replaces stays in Label Studio for a while, because browsers hold it; `tidy` takes it away in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError, NotFoundError
from ml_backend.hosts import Hosts
from ml_backend.labelstudio.queue import (
    OrderBentError,
    QueueItem,
    bent_by,
    hide_guesses,
    push,
    refill,
    replaced_by,
    show_everything,
    superseded,
    sweep,
    verify,
)
from ml_backend.labelstudio.results import prediction_result
from ml_backend.predictor import Predictor, confident_from_meta, serving_score, ticked_from
from ml_backend.records import BLIND, Query
from ml_backend.settings import Settings
from ml_backend.steps import check_owner
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rounds import UNGUESSED, Round

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueuePusher:
    """Gives queues to Label Studio and takes them away. store_id: of this store, which the project has to belong to."""

    hosts: Hosts
    ledger: Ledger
    versions: Versions
    predictor: Predictor
    settings: Settings
    store_id: str

    def serve(self, project: Project, round_: Round, spare: Sequence[int] = ()) -> Round:
        """Make Label Studio serve the round, and check that it does; a round that is served already is only checked.

        spare: tasks to serve after it, without a guess, until the next one is there; those used up are replaced. None where
        projects have members: Label Studio then serves what has a prediction in random order, and would mix them in.

        A refusal is kept with the round and raised; the annotators then keep the queue they have. A setting of the project that
        puts other tasks before the queue is kept with the round and logged, and no reason to push again. Raises AnotherStoreError
        before anything is changed where another store has the project.
        """
        client, ledger, number = self.hosts.client(project.key.host), self.ledger, project.key.project_id
        # Again: encoding may have taken minutes.
        check_owner.hold(project, client=client, ledger=ledger, store_id=self.store_id)
        held_back = ledger.hold_back(project, round_)
        queries = ledger.queries(round_)
        spare = () if client.has_members() else spare
        if round_.state in {"pushed", "verified"} and not held_back:
            checked = self._checked(project, round_, queries, spare)
            if checked is not None:
                return checked
        try:
            items = queue_items(project, queries, self._ticked_from(project, round_))
            hide_guesses(client, number, without_former_guesses(round_, queries))
            served = push(client, number, project.schema, round_.served_name, items, spare)
            round_ = ledger.mark_pushed(round_)
            self._show_everything_once(project)
            verify(client, number, round_.served_name, served)
        except OrderBentError as error:
            return self._note_bent(project, round_, error)
        except LabelStudioError as error:
            ledger.mark_failed(round_, str(error))
            raise
        return ledger.mark_verified(round_)

    def _checked(self, project: Project, round_: Round, queries: Sequence[Query], spare: Sequence[int]) -> Round | None:
        """A round that was pushed before, as Label Studio serves it now; None where it has to be pushed again."""
        client, number = self.hosts.client(project.key.host), project.key.project_id
        try:
            verify(client, number, round_.served_name, [query.task_id for query in queries])
        except LabelStudioUnavailableError:
            raise
        except OrderBentError as error:
            refill(client, number, round_.served_name, spare)
            return self._note_bent(project, round_, error)
        except LabelStudioError as error:
            logger.warning("%s: %s Pushing the queue again.", project.key, error)
            return None
        refill(client, number, round_.served_name, spare)
        return round_ if round_.state == "verified" else self.ledger.mark_verified(round_)

    def _note_bent(self, project: Project, round_: Round, error: OrderBentError) -> Round:
        if round_.error != str(error):
            logger.warning("%s: %s", project.key, error)
        return self.ledger.mark_unserved(round_, str(error))

    def _show_everything_once(self, project: Project) -> None:
        """Beside the queue's tab one that shows all tasks; a person who removes or renames it is not given it again."""
        if not project.state.all_tasks_tab:
            show_everything(self.hosts.client(project.key.host), project.key.project_id)
            self.ledger.configure(project, all_tasks_tab=True)

    def _ticked_from(self, project: Project, round_: Round) -> float | None:
        try:
            version = self.versions.version(project, round_.version)
        except NotFoundError:  # before any model, or pruned
            return None
        return ticked_from(project, self.settings.prelabels, confident_from_meta(version, project.schema))

    def tidy(self, project: Project, *, idle: bool) -> None:
        """Delete predictions of former queues once their grace period is over: nobody has them open any more.

        An answer given in a browser names the prediction it was shown, and is refused if that is gone. So the time counts
        from when the queue was found replaced, and answered tasks get it, too: they can be open for an update. While people
        label (not `idle`), it waits twice as long: deleting holds them up, and they may have opened an old task just now.
        """
        served = self.predictor.served_name(project)
        noted = self._superseded(project, served)
        grace = timedelta(seconds=self.settings.prediction_grace_seconds)
        limit = datetime.now(UTC) - (grace if idle else 2 * grace)
        expired = {name for name, since in noted.items() if datetime.fromisoformat(since) <= limit}
        if expired:
            gone = sweep(self.hosts.client(project.key.host), project.key.project_id, expired)
            left = {name: since for name, since in noted.items() if name not in gone}
            self.ledger.configure(project, superseded={"by": served, "since": left})

    def _superseded(self, project: Project, served: str) -> dict[str, str]:
        """Former queues that Label Studio has predictions of -> since when they are out of service; looked up once a queue."""
        noted: dict[str, Any] = project.state.superseded or {}
        since: dict[str, str] = noted.get("since", {})
        if noted.get("by") != served:
            now = datetime.now(UTC).isoformat()
            names = superseded(self.hosts.client(project.key.host), project.key.project_id, served)
            since = {name: since.get(name, now) for name in sorted(names)}
            self.ledger.configure(project, superseded={"by": served, "since": since})
        return since


def notice(project: Project, settings: Mapping[str, Any], ledger: Ledger, jobs: Jobs) -> None:
    """Label Studio says that the project's settings are these now: see whether the queue is still what it serves.

    Where it is not, that is known from now on, and a turn is due that puts it right. It says so of our own pushes, too.
    """
    round_ = ledger.last_round(project)
    why = replaced_by(settings, round_.served_name) or bent_by(settings) if round_ else None
    if round_ is None or why is None or round_.state != "verified":
        return
    ledger.mark_unserved(round_, why)
    jobs.mark_due(project, immediately=True, reason="PROJECT_UPDATED")


def without_former_guesses(round_: Round, queries: Sequence[Query]) -> list[int]:
    """Tasks that former queues may have left a guess on, which nobody is to see: those of an audit, and all until it is certified."""
    return [query.task_id for query in queries if query.arm == "audit" or round_.params.get(UNGUESSED)]


def queue_items(project: Project, queries: Sequence[Query], least: float | None) -> list[QueueItem]:
    """Predictions whose scores are the order. Guesses of at least `least` confidence are ticked, None: none is.

    A held-out or audited task never carries one, so that no opinion leans on it: `serve` has made sure of the arms.
    """

    def result(query: Query) -> list[dict[str, Any]]:
        confidence = query.confidence or 0.0
        if query.arm in BLIND or least is None or confidence < least:
            return []
        return prediction_result(project.schema, query.prediction, confidence, query.reason)

    return [QueueItem(query.task_id, serving_score(query.rank, len(queries)), result(query)) for query in queries]

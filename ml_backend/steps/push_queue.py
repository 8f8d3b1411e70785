"""Step 5: hand the round to Label Studio, check that it is what Label Studio serves, and record that.

What it replaces stays in Label Studio for a while, because browsers hold it; `tidy` takes it away in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError, NotFoundError
from ml_backend.labelstudio.config import prediction_result
from ml_backend.labelstudio.queue import (
    OrderBentError,
    QueueItem,
    bent_by,
    push,
    refill,
    replaced_by,
    show_everything,
    superseded,
    sweep,
    verify,
)
from ml_backend.predictor import confident_from_meta, serving_score, ticked_from
from ml_backend.records import Query
from ml_backend.services import Services
from ml_backend.steps import check_owner
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round

logger = logging.getLogger(__name__)

SHOWN = "all_tasks_tab"
"""Set in a project's settings once it has had a tab of all tasks."""


def serve(project: Project, services: Services, round_: Round, spare: Sequence[int] = ()) -> Round:
    """Make Label Studio serve the round, and check that it does; a round that is served already is only checked.

    spare: tasks to serve after it, without a guess, until the next one is there; those used up are replaced. None where
    projects have members: Label Studio then serves what has a prediction in random order, and would mix them in.

    A refusal is kept with the round and raised; the annotators then keep the queue they have. A setting of the project that
    puts other tasks before the queue is kept with the round and told, and no reason to push again. Raises AnotherStoreError
    before anything is changed where another store has the project.
    """
    client, ledger, number = services.hosts.client(project.key.host), services.ledger, project.key.project_id
    # Again: encoding may have taken minutes.
    check_owner.hold(project, client=client, ledger=ledger, store_id=services.database.store_id)
    held_back = ledger.hold_back(project, round_)
    queries = ledger.queries(round_)
    spare = () if client.has_members() else spare
    if round_.state in {"pushed", "verified"} and not held_back:
        try:
            verify(client, number, round_.served_name, [query.task_id for query in queries])
        except LabelStudioUnavailableError:
            raise
        except OrderBentError as error:
            refill(client, number, round_.served_name, spare)
            return _bent(project, services, round_, error)
        except LabelStudioError as error:
            logger.warning("%s: %s Pushing the queue again.", project.key, error)
        else:
            refill(client, number, round_.served_name, spare)
            return round_ if round_.state == "verified" else ledger.mark_verified(round_)
    try:
        items = queue_items(project, queries, _ticked_from(project, services, round_))
        pushed = push(client, number, project.schema, round_.served_name, items, spare)
        round_ = ledger.mark_pushed(round_)
        _show_everything_once(project, services)
        verify(client, number, round_.served_name, pushed.task_ids)
    except OrderBentError as error:
        return _bent(project, services, round_, error)
    except LabelStudioError as error:
        ledger.mark_failed(round_, str(error))
        raise
    return ledger.mark_verified(round_)


def _bent(project: Project, services: Services, round_: Round, error: OrderBentError) -> Round:
    if round_.error != str(error):
        logger.warning("%s: %s", project.key, error)
    return services.ledger.mark_unserved(round_, str(error))


def notice(project: Project, services: Services, settings: Mapping[str, Any]) -> None:
    """Label Studio says that the project's settings are these now: see whether the queue is still what it serves.

    Where it is not, that is known from now on, and a turn is due that puts it right. Our own pushes are told, too.
    """
    round_ = services.ledger.last_round(project)
    why = replaced_by(settings, round_.served_name) or bent_by(settings) if round_ else None
    if round_ is None or why is None or round_.state != "verified":
        return
    services.ledger.mark_unserved(round_, why)
    services.jobs.mark_due(project, immediately=True, reason="PROJECT_UPDATED")


def _show_everything_once(project: Project, services: Services) -> None:
    """Beside the queue's tab one that shows all tasks; a person who removes or renames it is not given it again."""
    if not project.settings.get(SHOWN):
        show_everything(services.hosts.client(project.key.host), project.key.project_id)
        services.ledger.configure(project, **{SHOWN: True})


def tidy(project: Project, services: Services, *, idle: bool) -> None:
    """Delete predictions of former queues once their grace period is over: nobody has them open any more.

    An answer given in a browser names the prediction it was shown, and is refused if that is gone. So the time counts
    from when the queue was found replaced, and answered tasks get it, too: they can be open for an update. While people
    label (not `idle`), it waits twice as long: deleting holds them up, and they may have opened an old task just now.
    """
    served = services.predictor.served_name(project)
    noted = _superseded(project, services, served)
    grace = timedelta(seconds=services.settings.prediction_grace_seconds)
    limit = datetime.now(UTC) - (grace if idle else 2 * grace)
    expired = {name for name, since in noted.items() if datetime.fromisoformat(since) <= limit}
    if expired:
        gone = sweep(services.hosts.client(project.key.host), project.key.project_id, expired)
        left = {name: since for name, since in noted.items() if name not in gone}
        services.ledger.configure(project, superseded={"by": served, "since": left})


def _superseded(project: Project, services: Services, served: str) -> dict[str, str]:
    """Former queues that Label Studio has predictions of -> since when they are out of service; looked up once a queue."""
    noted: dict[str, Any] = project.settings.get("superseded", {})
    since: dict[str, str] = noted.get("since", {})
    if noted.get("by") != served:
        now = datetime.now(UTC).isoformat()
        names = superseded(services.hosts.client(project.key.host), project.key.project_id, served)
        since = {name: since.get(name, now) for name in sorted(names)}
        services.ledger.configure(project, superseded={"by": served, "since": since})
    return since


def _ticked_from(project: Project, services: Services, round_: Round) -> float | None:
    try:
        version = services.versions.version(project, round_.version)
    except NotFoundError:  # before any model, or pruned
        return None
    return ticked_from(project, services.settings.prelabels, confident_from_meta(version, project.schema))


def queue_items(project: Project, queries: Sequence[Query], least: float | None) -> list[QueueItem]:
    """Predictions whose scores are the order. Guesses of at least `least` confidence are ticked, None: none is.

    A held-out task never carries one, so that no opinion leans on it: `serve` has made sure of the arms.
    """

    def result(query: Query) -> list[dict[str, Any]]:
        confidence = query.confidence or 0.0
        if query.arm == "holdout" or least is None or confidence < least:
            return []
        return prediction_result(project.schema, query.prediction, confidence)

    return [QueueItem(query.task_id, serving_score(query.rank, len(queries)), result(query)) for query in queries]

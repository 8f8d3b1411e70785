"""Step 5: hand the round to Label Studio, check that it is what Label Studio serves, and record that."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError
from ml_backend.labelstudio.config import prediction_result
from ml_backend.labelstudio.queue import QueueItem, push, verify
from ml_backend.records import Query
from ml_backend.services import Services
from ml_backend.serving import serving_score
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round

logger = logging.getLogger(__name__)


def serve(project: Project, services: Services, round_: Round) -> Round:
    """Make Label Studio serve the round, and check that it does; a round that is served already is only checked.

    A refusal is kept with the round and raised; the annotators then keep the queue they have.
    """
    client, ledger, number = services.client(project.key.host), services.ledger, project.key.project_id
    queries = ledger.queries(round_)
    if round_.state == "verified":
        try:
            verify(client, number, round_.served_name, [query.task_id for query in queries])
        except LabelStudioUnavailableError:
            raise
        except LabelStudioError as error:
            logger.warning("%s: %s The queue is pushed again.", project.key, error)
        else:
            return round_
    try:
        pushed = push(client, number, project.schema, round_.served_name, queue_items(project, queries))
        round_ = ledger.mark_pushed(round_)
        verify(client, number, round_.served_name, pushed.task_ids)
    except LabelStudioError as error:
        ledger.mark_failed(round_, str(error))
        raise
    return ledger.mark_verified(round_)


def queue_items(project: Project, queries: Sequence[Query]) -> list[QueueItem]:
    """Predictions whose scores are the order. A held-out task carries no prelabel, so that no opinion leans on it."""
    return [
        QueueItem(
            task_id=query.task_id,
            score=serving_score(query.rank, len(queries)),
            result=[]
            if query.arm == "holdout"
            else prediction_result(project.schema, query.prediction, query.confidence or 0.0),
        )
        for query in queries
    ]

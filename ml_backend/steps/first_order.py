"""Before step 1, once a project: a few tasks at random, so that people need not wait until every image was read."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError
from ml_backend.hosts import Hosts
from ml_backend.project_settings import settings_of
from ml_backend.records import Query
from ml_backend.settings import Settings
from ml_backend.steps import choose
from ml_backend.steps.push_queue import QueuePusher
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round

logger = logging.getLogger(__name__)

STRATEGY = "first_order"
SIZE, SPARE = 20, 10
"""Each of them costs a large project a request. Label Studio itself draws at random once they are labelled; until then
it tells an annotator that no task is left where colleagues have the rest of them open, so a few are in reserve."""


@dataclass(frozen=True)
class FirstOrder:
    """Serves the first queue of projects."""

    hosts: Hosts
    ledger: Ledger
    label_sync: LabelSync
    queue_pusher: QueuePusher
    settings: Settings

    def serve(self, project: Project) -> None:
        """Serve a random order of unlabelled tasks where the project never had a queue; the turn's own queue replaces it.

        The tasks come from Label Studio, for the ledger knows none yet. None is held out: what is asked is a random sample,
        and so is what is left. A refusal by Label Studio is noted and is no reason to stop the turn.
        """
        last = self.ledger.last_round(project)
        if last is not None and (last.number > 0 or last.state == "verified"):
            return
        project = self.label_sync.refresh(project)
        try:
            if round_ := last or self._drawn(project):
                spare = choose.spare(project, None, round_, self.ledger, settings_of(project, self.settings))
                self.queue_pusher.serve(project, round_, spare)
        except LabelStudioUnavailableError:
            raise
        except LabelStudioError as error:
            logger.warning("%s: no first order could be pushed: %s", project.key, error)

    def _drawn(self, project: Project) -> Round | None:
        """Draw tasks by the seed alone, so that the same project gets the same order; None where nothing is unlabelled."""
        client, number = self.hosts.client(project.key.host), project.key.project_id
        settings = settings_of(project, self.settings)
        total = client.unlabelled(number)
        rng = np.random.default_rng([settings.seed, project.id, 0, 1])  # not the draw of the first queue
        asked = min(settings.batch_size, SIZE)
        places = rng.choice(total, min(total, asked + SPARE), replace=False)
        tasks = client.unlabelled_at(number, places.tolist(), schema=project.schema)
        if not tasks:
            return None
        # All the others come with step 1, whose listing begins where the last one did.
        self.ledger.reconcile(project, [(task, None) for task in tasks], full=False, now=project.reconciled_at)
        reason = "drawn at random before the images were read"
        queries = [Query(task.id, rank, "random", 0.0, reason) for rank, task in enumerate(tasks[:asked])]
        return self.ledger.open_round(
            project, version=0, strategy=STRATEGY, seed=settings.seed, queries=queries, first=True
        )

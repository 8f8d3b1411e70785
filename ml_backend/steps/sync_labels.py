"""Step 1: reconcile with Label Studio's API, which is the truth; webhooks only say that something happened."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_backend.errors import InvalidInputError, NotFoundError, ProjectGoneError, ProjectReplacedError
from ml_backend.hosts import Hosts, Registry, created_at, is_another, selected
from ml_backend.labelstudio.client import PAGE, LabelStudio
from ml_backend.records import Annotation, Task
from ml_backend.settings import Settings
from ml_backend.steps import check_owner, repair_webhooks
from ml_backend.steps.hold_out import reserve
from ml_backend.store.events import Inbox
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.reconcile import ReconcileReport
from ml_backend.wording import amount

logger = logging.getLogger(__name__)

OVERLAP = timedelta(seconds=15)
"""Listings overlap by this much, for what was being written while the last one ran; reading twice changes nothing."""


@dataclass(frozen=True)
class LabelSync:
    """Reads projects from Label Studio into the ledger. store_id: of this store, which other stores' projects do not bear."""

    hosts: Hosts
    registry: Registry
    ledger: Ledger
    inbox: Inbox
    jobs: Jobs
    versions: Versions
    settings: Settings
    store_id: str
    repairs_webhooks: bool

    def sync(self, project: Project, *, full: bool, lazily: bool = False) -> tuple[Project, ReconcileReport]:
        """Bring the ledger up to date; returns the project as it is now, and what changed.

        lazily: put off a full comparison that is due by the clock alone; somebody waits for the answer.
        """
        client, ledger = self.hosts.client(project.key.host), self.ledger
        project = self.refresh(project)
        touched = self.inbox.pending(project)
        began = client.clock()
        since = project.reconciled_at
        if since is None or project.full_at is None or full or (not lazily and self._full_is_due(project, began)):
            report = ledger.reconcile(project, everything(project, client), full=True, now=began)
        else:
            changed = _changed_since(project, since, client, ledger)
            there = client.existing(project.key.project_id, sorted(touched.task_ids))
            report = ledger.reconcile(project, changed, full=False, gone=touched.task_ids - there, now=began)
            if there - {task.id for task in ledger.tasks(project, sorted(there))}:
                # A long import ends after tasks that carry later times: what an event names and no listing showed.
                report = ledger.reconcile(project, everything(project, client), full=True, now=began)
        self.inbox.acknowledge(project, touched)
        if self.repairs_webhooks:
            repair_webhooks.watch(project, hosts=self.hosts, ledger=ledger, settings=self.settings)
        return reserve(project, ledger, self.versions, self.settings), report

    def refresh(self, project: Project) -> Project:
        """Read title and label config again: labels are judged by the config as it is now.

        Raises ProjectGoneError for a project that was deleted, InvalidInputError for a config that cannot be learned (any more).
        What is known of it stays: its labels cost money.
        Raises AnotherStoreError for a project that another store has, ProjectReplacedError for one that is another by now:
        that one is made known and due.
        """
        client = self.hosts.client(project.key.host)
        try:
            remote = client.get_project(project.key.project_id)
        except NotFoundError as error:
            if not project.state.gone:
                self.ledger.configure(project, gone=datetime.now(UTC).isoformat())
            raise ProjectGoneError(
                f"{project.key} no longer exists in Label Studio, or the access token may not see it; its labels are "
                "kept here."
            ) from error
        created = created_at(remote)
        self._refuse_replaced(project, remote, created)
        check_owner.check(project, remote, self.ledger, self.store_id)
        state = {"gone": None, "overlap": remote["maximum_annotations"], "created": created}
        known = {
            "title": remote["title"],
            "label_config": remote["label_config"],
            "rule": self.registry.rule,
            "state": state,
        }
        try:
            schema = self.registry.schema(remote["label_config"], selected(project))
        except InvalidInputError:
            # The config is kept, so that the next one counts as changed, even where it is the former one brought back.
            self.ledger.upsert_project(project.key, schema=project.schema, **known)
            raise
        return self.ledger.upsert_project(project.key, schema=schema, **known)

    def _refuse_replaced(self, project: Project, remote: Mapping[str, Any], created: int | None) -> None:
        """A Label Studio that was installed anew counts its projects from 1 again; the time of creation tells them apart."""
        if created is None or not is_another(project, created):
            return
        config = remote["label_config"]
        new = self.ledger.replace(
            project,
            title=remote["title"],
            label_config=config,
            schema=self.registry.schema(config, selected(project)),
            created=created,
        )
        self.jobs.mark_due(new, immediately=True, reason="set up")
        labels = self.ledger.counts(project).labelled
        sentence = (
            f"{project.key} is another project in Label Studio than before, created at another time: it begins anew. The "
            f"{amount(labels, 'label')} of the former one, {project.title!r}, are kept, and not used for it."
        )
        logger.warning(sentence)
        raise ProjectReplacedError(sentence)

    def _full_is_due(self, project: Project, now: datetime) -> bool:
        if project.full_at is None or project.reconciled_at is None:
            return True
        return now - project.full_at >= timedelta(seconds=self.settings.full_sync_seconds)


def everything(project: Project, client: LabelStudio) -> Iterator[tuple[Task, list[Annotation]]]:
    """Every task of the project with its annotations, from two lean listings by ascending id, merged as they come."""
    number = project.key.project_id
    annotated: Iterable[tuple[Task, list[Annotation]]] = client.annotated(number, schema=project.schema)
    answers = iter(annotated)
    task, annotations = next(answers, (None, []))
    for plain in client.tasks(number, schema=project.schema):
        while task is not None and task.id < plain.id:
            task, annotations = next(answers, (None, []))
        yield (plain, annotations) if task is not None and task.id == plain.id else (plain, [])


def _changed_since(
    project: Project, since: datetime, client: LabelStudio, ledger: Ledger
) -> Iterator[tuple[Task, list[Annotation]]]:
    """Every task changed since then or in the overlap before.

    After an import the overlap is full of tasks that were read just now, at 0.3 ms each: where Label Studio has as many
    without an answer as are known here, none has come in late, and only the answered ones are read again.
    """
    number, start = project.key.project_id, since - OVERLAP
    known = ledger.unanswered_between(project, start, since)
    if known >= PAGE and client.unlabelled(number, (start, since)) == known:
        yield from client.annotated_between(number, start, since, schema=project.schema)
        start = since
    yield from client.annotated(number, schema=project.schema, updated_since=start)

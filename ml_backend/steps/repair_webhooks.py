"""Part of step 1: see to it now and then that Label Studio still sends its events here."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_backend.errors import BackendError
from ml_backend.hosts import Hosts
from ml_backend.labelstudio.checks import Access, our_backends
from ml_backend.labelstudio.connection import repair_webhooks
from ml_backend.settings import Settings
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project

logger = logging.getLogger(__name__)

EVERY = timedelta(minutes=5)
"""Two small requests each time. Meanwhile a lost webhook costs promptness only: polling finds the labels."""


def watch(project: Project, *, hosts: Hosts, ledger: Ledger, settings: Settings) -> None:
    """Repair a webhook that is missing, points elsewhere or is switched off; what was found is kept with the project.

    Only where our ML backend is connected: whoever removes that wants no events either. The webhook has to lead where
    the backend does, whatever address this process believes to have.
    """
    now, before = datetime.now(UTC), project.state.webhook
    if before and now - datetime.fromisoformat(before.checked_at) < EVERY:
        return
    found: dict[str, Any] = {**(before.as_json() if before else {}), "checked_at": now.isoformat(), "problem": None}
    try:
        if done := _repair(project, hosts, settings):
            logger.warning("%s: %s", project.key, "; ".join(done))
            found |= {"repaired": done, "repaired_at": now.isoformat()}
    except BackendError as error:
        logger.warning("%s: the webhook cannot be repaired: %s", project.key, error)
        found["problem"] = str(error)
    ledger.configure(project, webhook=found)


def _repair(project: Project, hosts: Hosts, settings: Settings) -> list[str]:
    client, number = hosts.client(project.key.host), project.key.project_id
    backends = our_backends(client, number, hosts.backend_url(project.key.host))
    if not backends:
        return []
    return repair_webhooks(client, number, backends[0]["url"], access=Access.of(settings.user, settings.password))

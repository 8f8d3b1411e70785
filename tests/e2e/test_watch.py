"""The cycle looks after its webhook in a real Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.labelstudio.checks import check
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.connection import connect
from ml_backend.steps import repair_webhooks
from ml_backend.store.project_state import WebhookState
from tests.e2e.helpers import FakeBackend, webhook_ids
from tests.e2e.stack import Stack, inline


@pytest.fixture
def stack(label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path) -> Iterator[Stack]:
    with inline(label_studio, client, tmp_path, tasks=20) as stack:
        yield stack


def watch_again(stack: Stack) -> WebhookState:
    """Look as if five minutes had passed; returns what was found."""
    stack.services.ledger.configure(stack.project, webhook=None)
    services = stack.services
    repair_webhooks.watch(stack.project, hosts=services.hosts, ledger=services.ledger, settings=services.settings)
    return noted(stack)


def noted(stack: Stack) -> WebhookState:
    assert stack.project.state.webhook is not None
    return stack.project.state.webhook


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ({"is_active": False}, "is switched off"),
        ({"url": "http://127.0.0.1:9/webhook"}, "points at http://127.0.0.1:9/webhook"),
        (None, "created the webhook"),
    ],
    ids=["switched off", "pointing elsewhere", "missing"],
)
def test_a_broken_webhook_is_repaired_by_the_next_cycle_and_told(
    stack: Stack, backend: FakeBackend, harm: dict[str, Any] | None, told: str
) -> None:
    connect(stack.client, stack.project_id, backend.url)
    _, hook = webhook_ids(stack.client, stack.project_id)
    if harm is None:
        stack.client.delete_webhook(hook)
    else:
        stack.client.update_webhook(hook, **harm)
    stack.turn()
    assert told in noted(stack).repaired[0]
    assert {f.name: f.ok for f in check(stack.client, stack.project_id, backend.url)}["webhook"]
    assert stack.services.status.of(stack.project)["problems"] == []


def test_a_webhook_that_is_right_is_left_alone_and_looked_at_only_now_and_then(
    stack: Stack, backend: FakeBackend
) -> None:
    connect(stack.client, stack.project_id, backend.url)
    _, hook = webhook_ids(stack.client, stack.project_id)
    stack.turn()
    assert not noted(stack).repaired
    stack.client.update_webhook(hook, is_active=False)
    stack.turn()
    assert [left["is_active"] for left in stack.client.webhooks(stack.project_id) if left["id"] == hook] == [False]
    assert "is switched off" in watch_again(stack).repaired[0]


def test_no_webhook_is_made_for_a_project_that_was_disconnected(stack: Stack, backend: FakeBackend) -> None:
    connect(stack.client, stack.project_id, backend.url)
    for connected in stack.client.backends(stack.project_id):
        stack.client.delete_backend(connected["id"])
    for left in stack.client.webhooks(stack.project_id):
        stack.client.delete_webhook(left["id"])
    assert watch_again(stack).problem is None
    assert stack.client.webhooks(stack.project_id) == []

"""Connecting a project to this service: the ML backend, its webhook, the sampling; and looking whether all still holds.

Every refusal of Label Studio becomes one sentence that names the setting to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import LabelStudioError
from ml_backend.labelstudio.checks import (
    BACKEND_ADDRESS,
    MARK,
    TITLE,
    WEBHOOK_ADDRESS,
    WORKING,
    Access,
    Finding,
    Hook,
    added,
    check,
    check_selection,
    matching,
    our_backends,
    our_webhooks,
    refusal,
    wanted_hooks,
    webhook_faults,
)
from ml_backend.labelstudio.client import Json, LabelStudio
from ml_backend.labelstudio.config import NOTHING
from ml_backend.labelstudio.queue import FIRST_ORDER, UNCERTAINTY
from ml_backend.records import Selection


@dataclass(frozen=True)
class ConnectionReport:
    """`changed`: what was set up or repaired, in words; empty where everything was so already."""

    changed: list[str]
    findings: list[Finding]


def connect(
    client: LabelStudio,
    project_id: int,
    backend_url: str,
    *,
    access: Access | None = None,
    selection: Selection | None = None,
    default: Selection = NOTHING,
) -> ConnectionReport:
    """Connect the project to the service at `backend_url` (as Label Studio reaches it), and look at the result.

    Safe to repeat: what is right already stays. The service must be up, for Label Studio calls its /health and /setup.
    selection: which choices and image to learn from now on. Label Studio keeps it with the backend, and sends it along.
    Raises InvalidInputError for a label config that cannot be learned, LabelStudioError for a refusal.
    """
    check_selection(client.get_project(project_id), client.backends(project_id), selection, default)
    before = {hook["id"] for hook in client.webhooks(project_id)}
    # The webhook first: Label Studio makes one beside a new backend, without auth, unless its address is taken.
    webhook_ids, changed = _set_webhooks(client, project_id, backend_url, access)
    try:
        changed += _set_backend(client, project_id, backend_url, access, selection)
    except LabelStudioError:
        for webhook_id in set(webhook_ids) - before:
            client.delete_webhook(webhook_id)
        raise
    changed += _set_project(client, project_id)
    return ConnectionReport(changed, check(client, project_id, backend_url, access=access, default=default))


def disconnect(client: LabelStudio, project_id: int, backend_url: str) -> list[str]:
    """Remove the backend and its webhooks (Label Studio would leave those); says what was removed. Labels stay."""
    removed = []
    for backend in our_backends(client, project_id, backend_url):
        client.delete_backend(backend["id"])
        removed.append(f"ML backend {backend['url']}")
    for hook in our_webhooks(client, project_id, backend_url):
        client.delete_webhook(hook["id"])
        removed.append(f"webhook {hook['url']}")
    return removed


def repair_webhooks(
    client: LabelStudio, project_id: int, backend_url: str, *, access: Access | None = None
) -> list[str]:
    """Bring back webhooks that are missing, switched off, doubled, without auth or pointing elsewhere; says what it did."""
    return _set_webhooks(client, project_id, backend_url, access)[1]


def _set_webhooks(
    client: LabelStudio, project_id: int, backend_url: str, access: Access | None
) -> tuple[list[int], list[str]]:
    hooks, kept, done = wanted_hooks(project_id, backend_url), [], []
    with _explained(hooks[0].url, WEBHOOK_ADDRESS):
        ours = our_webhooks(client, project_id, backend_url)
        for hook in hooks:
            webhook_id, changed = _set_webhook(client, project_id, hook, matching(hook, ours), access)
            kept.append(webhook_id)
            done += changed
        for double in ours:
            if double["id"] not in kept:
                client.delete_webhook(double["id"])
                done.append(f"removed a duplicate webhook to {double['url']}")
    return kept, done


def _set_webhook(
    client: LabelStudio, project_id: int, hook: Hook, found: list[Json], access: Access | None
) -> tuple[int, list[str]]:
    wanted: Json = {
        "url": hook.url,
        "headers": {MARK: hook.kind} | ({"Authorization": access.header} if access else {}),
        "is_active": True,
        "send_payload": hook.payload,
        "send_for_all_actions": False,
        "actions": list(hook.events),
    }
    if not found:
        return client.create_webhook(project_id, **wanted)["id"], [f"created the webhook of {hook.kind}, {hook.url}"]
    keep = found[0]["id"]
    if faults := webhook_faults(found[0], hook, access):
        client.update_webhook(keep, **wanted)
        return keep, [f"repaired the webhook for {hook.kind}: it {', '.join(faults)}"]
    return keep, []


def _set_backend(
    client: LabelStudio, project_id: int, backend_url: str, access: Access | None, selection: Selection | None
) -> list[str]:
    auth: Json = {"auth_method": "NONE"}
    if access:
        auth = {"auth_method": "BASIC_AUTH", "basic_auth_user": access.user, "basic_auth_pass": access.password}
    wanted: Json = {"url": backend_url, "title": TITLE, "is_interactive": False, **auth}
    with _explained(backend_url, BACKEND_ADDRESS):
        backends = our_backends(client, project_id, backend_url)
        wanted["extra_params"] = _extra_params(backends[0] if backends else {}, selection)
        if not backends:
            client.create_backend(project_id, **wanted)
            return [f"connected the ML backend {backend_url}"]
        keep = backends[0]
        same = all(keep.get(key) == value for key, value in wanted.items() if key != "basic_auth_pass")
        if same and keep["state"] in WORKING:
            return []
        # Label Studio checks a change by calling the backend with what the change itself says: all of it, each time.
        client.update_backend(keep["id"], project=project_id, **wanted)
    return [f"changed the ML backend to {backend_url}"]


@contextmanager
def _explained(url: str, what: str) -> Iterator[None]:
    """Raise a sentence that names the setting to change, where a refusal in the block is a known one."""
    try:
        yield
    except LabelStudioError as error:
        if (sentence := refusal(str(error), url, what)) is None:
            raise
        raise LabelStudioError(sentence) from error


def _extra_params(backend: Json, selection: Selection | None) -> Any:
    """What Label Studio passes on with each /setup: what it did so far, with the new selection."""
    before = backend.get("extra_params")
    if selection is None:
        return before
    others = before if isinstance(before, dict) else {}
    return others | {key: name for key, name in vars(added(selection, [backend])).items() if name}


def _set_project(client: LabelStudio, project_id: int) -> list[str]:
    """Uncertainty sampling, and no model version that no prediction can have.

    Connecting a backend sets an empty model version to the backend's title; sampling is then silently random.
    """
    project = client.get_project(project_id)
    changes: Json = {}
    done = []
    if project["sampling"] != UNCERTAINTY:
        changes["sampling"] = UNCERTAINTY
        done.append(f"set the sampling to {UNCERTAINTY!r} (it was {project['sampling']!r})")
    version = project["model_version"]
    if version and not client.model_versions(project_id).get(version):
        changes["model_version"] = ""
        done.append(f"cleared the model version {version!r}, which no prediction has")
    if changes:
        client.update_project(project_id, **changes)
    if "model_version" in changes and client.model_versions(project_id).get(FIRST_ORDER):
        # It was pushed since the look above, and cleared with the other.
        client.set_model_version(project_id, FIRST_ORDER)
    return done

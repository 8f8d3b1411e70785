"""Looking whether a project is connected as it must be. Changes nothing; every fault says what to change."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ml_backend.errors import InvalidInputError, LabelStudioError, NotFoundError
from ml_backend.labelstudio.client import Json, LabelStudio
from ml_backend.labelstudio.config import NOTHING, parse_label_config, selection_from
from ml_backend.labelstudio.queue import UNCERTAINTY
from ml_backend.records import LabelSchema, Selection

TITLE = "Active learning"
MARK = "X-Active-Learning"  # a header that tells our webhooks from others, also when they point elsewhere
LABEL_EVENTS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
"""Sent inside an annotator's request, so without payload: to build that, Label Studio counts the whole project, which
makes Submit take 1.2 times as long with 600 tasks, 1.3 times with 20,000. The API has it all anyhow."""
TASK_EVENTS = ("TASKS_CREATED", "TASKS_DELETED", "PROJECT_UPDATED")
"""Sent with their payload: which tasks are gone, no listing shows. PROJECT_UPDATED also follows our own pushes."""
CONNECTING = frozenset({"ML backend", "webhook", "sampling", "model version"})
"""Findings that connecting again puts right."""
BACKEND_ADDRESS, WEBHOOK_ADDRESS = "backend address", "webhook address"
SAMPLING_PAGE = "Settings, General, Task Sampling"
"""Where Label Studio shows the sampling. Its Community edition lets nobody choose uncertainty there; its API does."""
WORKING = frozenset({"CO", "TR", "PR"})  # states of a backend: connected, training, predicting


@dataclass(frozen=True)
class Access:
    """Basic auth that this service asks of its callers. Label Studio sends it itself, but not from a webhook."""

    user: str
    password: str

    @classmethod
    def of(cls, user: str, password: str) -> Access | None:
        """None for an empty user: nothing is asked then."""
        return cls(user, password) if user else None

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Hook:
    """A webhook as it must be. `kind` is the value of its MARK."""

    kind: str
    url: str
    events: tuple[str, ...]
    payload: bool


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `message` says how it is; where `state` is FIX, what to change."""

    name: str
    state: Literal["ok", "note", "FIX"]
    message: str

    @property
    def ok(self) -> bool:
        return self.state != "FIX"


def check(
    client: LabelStudio,
    project_id: int,
    backend_url: str,
    *,
    access: Access | None = None,
    selection: Selection | None = None,
    default: Selection = NOTHING,
) -> list[Finding]:
    """Look, in order, at everything a project needs; changes nothing. Raises only where Label Studio does not answer."""
    project = client.get_project(project_id)
    backends = our_backends(client, project_id, backend_url)
    hooks = our_webhooks(client, project_id, backend_url)
    return [
        *check_addresses(client, backend_url),
        _label_config(project, backends, selection, default),
        _backend(backends, backend_url),
        _webhook(hooks, wanted_hooks(project_id, backend_url), access),
        *_serving(project, client.model_versions(project_id), {backend["title"] for backend in backends}),
    ]


def check_addresses(client: LabelStudio, backend_url: str) -> list[Finding]:
    """Whether Label Studio would accept these addresses, found out without creating anything.

    A backend or webhook without a project is never saved, yet its address is looked at first.
    """
    findings = []
    for name, path, url in (
        (BACKEND_ADDRESS, "/api/ml/", backend_url),
        (WEBHOOK_ADDRESS, "/api/webhooks/", webhook_url(backend_url)),
    ):
        sentence: str | None = None
        try:
            client.transport.call("POST", path, json={"url": url})
        except LabelStudioError as error:
            sentence = refusal(str(error), url, name)
        except NotFoundError:
            pass
        accepted = Finding(name, "ok", f"Label Studio accepts {url}.")
        findings.append(Finding(name, "FIX", sentence) if sentence else accepted)
    return findings


def webhook_url(backend_url: str) -> str:
    return backend_url.rstrip("/") + "/webhook"


def our_backends(client: LabelStudio, project_id: int, backend_url: str) -> list[Json]:
    """Backends at our address, then those of our title elsewhere (the service has moved)."""
    backends = client.backends(project_id)
    here = [b for b in backends if b["url"].rstrip("/") == backend_url.rstrip("/")]
    return here + [b for b in backends if b["title"] == TITLE and b not in here]


def wanted_hooks(project_id: int, backend_url: str) -> tuple[Hook, Hook]:
    """Both webhooks of a project. What is sent without payload names its project in the address."""
    url = webhook_url(backend_url)
    return (
        Hook("tasks", url, TASK_EVENTS, payload=True),
        Hook("labels", f"{url}?project={project_id}", LABEL_EVENTS, payload=False),
    )


def our_webhooks(client: LabelStudio, project_id: int, backend_url: str) -> list[Json]:
    """Every webhook of the project that leads here or bears our mark."""
    urls = {hook.url for hook in wanted_hooks(project_id, backend_url)}
    return [h for h in client.webhooks(project_id) if h["url"] in urls or MARK in h["headers"]]


def matching(hook: Hook, ours: list[Json]) -> list[Json]:
    """Those of our webhooks that are meant to be this one, the best first."""
    here = [h for h in ours if h["url"] == hook.url]
    return here + [h for h in ours if h["headers"].get(MARK) == hook.kind and h not in here]


def check_selection(
    project: Json, backends: list[Json], selection: Selection | None, default: Selection
) -> LabelSchema:
    """What would be learned with this selection, added to the one that is kept. Raises InvalidInputError."""
    return parse_label_config(project["label_config"], added(selection, backends), default=default)


def added(selection: Selection | None, backends: list[Json]) -> Selection:
    """The selection that is kept with a backend, with what this one names in its place."""
    kept = next(filter(None, (selection_from(backend.get("extra_params")) for backend in backends)), NOTHING)
    new = selection or NOTHING
    return Selection(new.choices or kept.choices, new.image or kept.image)


def _label_config(project: Json, backends: list[Json], selection: Selection | None, default: Selection) -> Finding:
    name = "label config"
    try:
        schema = check_selection(project, backends, selection, default)
    except InvalidInputError as error:
        return Finding(name, "FIX", str(error))
    message = (
        f'The {len(schema.labels)} labels of "{schema.from_name}" are learned from the image in "{schema.image_key}".'
    )
    return Finding(name, "ok", message)


def _backend(backends: list[Json], backend_url: str) -> Finding:
    name = "ML backend"
    if not backends:
        return Finding(name, "FIX", f"No ML backend is connected: connect {backend_url}.")
    backend = backends[0]
    if backend["url"].rstrip("/") != backend_url.rstrip("/"):
        return Finding(
            name, "FIX", f"The ML backend points at {backend['url']}, not at {backend_url}: connect it again."
        )
    if backend["state"] not in WORKING:
        reason = backend.get("error_message") or "no answer to /health"
        return Finding(
            name, "FIX", f"Label Studio cannot reach {backend_url} ({reason}): check that the service is running."
        )
    return Finding(name, "ok", f"Label Studio reaches {backend_url}.")


def _webhook(ours: list[Json], wanted: tuple[Hook, ...], access: Access | None) -> Finding:
    """Both webhooks in one finding: one repair sets both right, and whoever reads of one alone looks for one alone."""
    wrong = []
    for hook in wanted:
        found = matching(hook, ours)
        if not found:
            wrong.append(f"The webhook for {hook.kind} is missing, so changes to {hook.kind} are noticed late.")
        elif faults := webhook_faults(found[0], hook, access):
            wrong.append(f"The webhook for {hook.kind} ({hook.url}) is wrong: it {', '.join(faults)}.")
    if wrong:
        return Finding("webhook", "FIX", f"{' '.join(wrong)} Connect the project again.")
    kinds = " and ".join(hook.kind for hook in wanted)
    return Finding("webhook", "ok", f"Label Studio sends its events about {kinds} to {wanted[0].url}.")


def webhook_faults(found: Json, hook: Hook, access: Access | None) -> list[str]:
    """What is wrong with a webhook, each a phrase that follows "it"."""
    faults = []
    if found["url"] != hook.url:
        faults.append(f"points at {found['url']}")
    if not found["is_active"]:
        faults.append("is switched off")
    if access and found["headers"].get("Authorization") != access.header:
        faults.append("has a missing or wrong Authorization header")
    if found["send_payload"] != hook.payload:
        faults.append("sends no payload" if hook.payload else "sends a payload, which slows Submit down")
    if not found["send_for_all_actions"] and not set(hook.events) <= set(found["actions"]):
        faults.append("does not send all the events needed")
    elif found["send_for_all_actions"] or set(found["actions"]) != set(hook.events):
        faults.append("sends more events than needed")
    return faults


def _serving(project: Json, versions: Mapping[str, int], titles: Collection[str]) -> list[Finding]:
    """Whether what is pushed decides what is served."""
    sampling, version = project["sampling"], project["model_version"]
    right = Finding("sampling", "ok", f"Tasks are served by {sampling!r}.")
    instead = f"not by {UNCERTAINTY!r}, which {SAMPLING_PAGE} does not offer: connect the project again."
    wrong = Finding("sampling", "FIX", f"Tasks are served by {sampling!r}, {instead}")
    findings = [right if sampling == UNCERTAINTY else wrong]
    if version and not versions.get(version):
        why = "the title of a backend, not a version" if version in titles else "which no prediction has"
        message = (
            f"The project's model version is {version!r}, {why}, so tasks come in random order: push a queue "
            "with `ml-backend sync run`."
        )
        findings.append(Finding("model version", "FIX", message))
    else:
        message = f"Label Studio serves the queue {version!r}." if version else "No queue has been pushed yet."
        findings.append(Finding("model version", "ok", message))
    if project["maximum_annotations"] > 1:
        message = (
            "Each task is labelled more than once: Label Studio serves tasks already started first, then the queue."
        )
        findings.append(Finding("overlap", "ok", message))
    return findings


def refusal(text: str, url: str, what: str) -> str | None:
    """What to change, from Label Studio's words about an address; None where it says nothing against the address."""
    host = urlsplit(url).hostname
    setting = "ML_BLOCK_LOCAL_IP=false" if what == BACKEND_ADDRESS else "SSRF_PROTECTION_ENABLED=false"
    sentences = {
        "reserved network address": (
            f"Label Studio refuses {url} because it is in a private network: start Label Studio with {setting}."
        ),
        "valid URL": (
            f"Label Studio refuses {url} for a webhook because the host name needs a dot: give this service a name "
            f"such as {host}.internal (a network alias in docker compose), or use its IP address."
        ),
        "resolve hostname": (
            f"Label Studio cannot resolve {host!r}: use an address that can be resolved where Label Studio runs."
        ),
        "authentication parameters": (
            f"The service at {url} needs a user and password, and got none or the wrong ones: set ML_BACKEND_USER "
            "and ML_BACKEND_PASSWORD as they are for the service."
        ),
        "health check failed": (
            f"Label Studio cannot reach {url}: check that the service is running there and answers /health, that Label "
            "Studio can use this address (not localhost, if Label Studio runs in another container), and that it is "
            "the ML_BACKEND_URL of the service, or one of its ML_BACKEND_NAMES."
        ),
        "valid ML backend": f"The service at {url} refused the project: {text}",
    }
    return next((sentence for phrase, sentence in sentences.items() if phrase in text), None)

"""Everything that has to be right, looked at in order; each with ok, or what to change. Changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import requests

from ml_backend.encoders import compute
from ml_backend.errors import BackendError, ConfigError, ImageError, LabelStudioError
from ml_backend.host_lists import split
from ml_backend.hosts import Hosts
from ml_backend.images.decoding import decode
from ml_backend.labelstudio import ownership
from ml_backend.labelstudio.checks import CONNECTING, Access, Finding, check, check_addresses
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.queue import OrderBentError, verify
from ml_backend.project_settings import pause_sentence
from ml_backend.records import Task
from ml_backend.settings import Settings
from ml_backend.status import encoder_problem, encoder_status
from ml_backend.store.database import Database
from ml_backend.store.encoder_origins import origin_of
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from ml_backend.store_identity import Store
from ml_backend.task_names import SHOWN, Unreadable, and_more
from ml_backend.wording import amount

TESTED = ("1.23.",)
GIB = 2**30
LEAST_DISK = 1 * GIB
LEAST_MEMORY = 1 * GIB
SAMPLE = 2_000
"""Tasks looked through for the kinds of image addresses a project has, and for images that nobody has read yet."""
TRIED = 48
"""Of the latter, as many are read."""
READERS = 8


@dataclass(frozen=True)
class Diagnosis:
    """Puts together what has to be right."""

    hosts: Hosts
    ledger: Ledger
    jobs: Jobs
    database: Database
    settings: Settings

    def examine(self, host: str, wanted: Callable[[], list[Project]]) -> Iterator[Finding]:
        """Look at Label Studio, the way to it and back, and the projects that `wanted` names; then at this machine.

        What cannot be looked at before something else is repaired is left out: run again afterwards.
        """
        settings = self.settings
        found = list(_label_studio(host, self.hosts))
        yield from found
        yield _service(settings.url)
        yield Finding("store", "ok", f"{Store.of(settings)}.")
        yield from _machine(settings)
        if not all(result.ok for result in found):
            return
        try:
            projects = wanted()
        except BackendError as error:
            yield Finding("project", "FIX", str(error))
            return
        client = self.hosts.client(host)
        if not projects:
            yield from check_addresses(client, self.hosts.backend_url(host))
            yield Finding("project", "note", "No project is connected yet: run `ml-backend setup-project`.")
        for project in projects:
            prefix = f"{project.title}: " if len(projects) > 1 else ""
            for finding in self._project(project, client):
                yield replace(finding, name=prefix + finding.name)

    def _project(self, project: Project, client: LabelStudio) -> Iterator[Finding]:
        """The connection, the order really served, the images, and what the worker last said."""
        settings, number = self.settings, project.key.project_id
        access = Access.of(settings.user, settings.password)
        try:
            url = self.hosts.backend_url(project.key.host)
            findings = check(client, number, url, access=access, default=settings.selection)
            made = partial(self.ledger.made, project.key)
            findings.append(ownership.finding(client.get_project(number), self.database.store_id, made))
        except BackendError as error:
            yield Finding("project", "FIX", str(error))
            return
        for finding in findings:
            again = not finding.ok and finding.name in CONNECTING
            how = f" Run `ml-backend setup-project --project {number}`." if again else ""
            yield replace(finding, message=finding.message + how)
        yield _order(project, client, self.ledger)
        tasks = list(islice(client.tasks(number, schema=project.schema), SAMPLE))
        yield from _images(project, tasks, client, self.hosts)
        yield _every_image(project, tasks, self.ledger, self.hosts)
        if project.state.next_encoder is not None:
            words = encoder_status(project, settings)["in_words"] or ""
            fault = encoder_problem(project)
            yield Finding("next encoder", "FIX", fault) if fault else Finding("next encoder", "note", f"{words}.")
        yield _encoder(project, settings)
        if paused := pause_sentence(project):
            yield Finding("paused", "note", paused)
        stopped = self.jobs.status(project).stopped
        yield _found("training", "No training has failed.", stopped and f"Training stopped: {stopped}")


def _found(name: str, well: str, fault: str | None) -> Finding:
    return Finding(name, "FIX", fault) if fault else Finding(name, "ok", well)


def _label_studio(host: str, hosts: Hosts) -> Iterator[Finding]:
    """Reachable, a version that was tested, a token that is accepted."""
    try:
        client = hosts.client(host)
    except BackendError as error:
        yield Finding("token", "FIX", str(error))
        return
    try:
        answer = requests.get(f"{host}/health", timeout=10)
        if not answer.ok:
            raise requests.RequestException(f"it answers {answer.status_code}")  # noqa: TRY301 - the same sentence for both
    except requests.RequestException as error:
        why = "it answers, but not like Label Studio" if getattr(error, "response", None) else type(error).__name__
        yield Finding("Label Studio", "FIX", f"{host} cannot be reached ({why}): start it, or set LABEL_STUDIO_URL.")
        return
    yield Finding("Label Studio", "ok", f"{host} answers.")
    try:
        user = client.whoami()
        kind = "personal access token" if client.transport.auth.renewable else "legacy token"
        yield Finding("token", "ok", f"A {kind} of {user.get('email', 'an unknown user')}.")
        version = client.version()
    except LabelStudioError as error:
        yield Finding("token", "FIX", str(error))
        return
    tested = version.startswith(TESTED)
    yield Finding(
        "version", "ok" if tested else "note", version + ("" if tested else f"; only tested with {TESTED[0]}x.")
    )


def _service(url: str) -> Finding:
    """This service, as seen from here; how Label Studio sees it is the project's `ML backend`."""
    name = "this service"
    try:
        answer = requests.get(f"{url}/health", timeout=10)
        if answer.ok and answer.json().get("status") == "UP":
            return Finding(name, "ok", f"{url} answers.")
        if answer.status_code == HTTPStatus.MISDIRECTED_REQUEST:
            return Finding(name, "FIX", f"{url} answers: {answer.json()['error']}")
        why = f"something else answers there, with status {answer.status_code}"
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        why = type(error).__name__
    return Finding(
        name, "FIX", f"{url} does not answer ({why}): start the service with `ml-backend serve`, or set ML_BACKEND_URL."
    )


def _order(project: Project, client: LabelStudio, ledger: Ledger) -> Finding:
    """Ask Label Studio what it serves, and compare with the round it was given."""
    name = "order"
    round_ = ledger.current_round(project)
    if round_ is None:
        return Finding(name, "note", "No queue has been pushed yet: start the service, or run `ml-backend sync run`.")
    tasks = [query.task_id for query in ledger.queries(round_)]
    try:
        verify(client, project.key.project_id, round_.served_name, tasks)
    except OrderBentError as error:
        return Finding(name, "FIX", str(error))
    except LabelStudioError as error:
        return Finding(name, "FIX", f"{error} To push the queue again, run `ml-backend sync run`.")
    if not ledger.left(round_).waiting:
        return Finding(
            name, "note", f"The queue {round_.served_name} is used up: all its tasks are answered or skipped."
        )
    return Finding(name, "ok", f"Label Studio serves {round_.served_name} in its order.")


def _images(project: Project, tasks: Sequence[Task], client: LabelStudio, hosts: Hosts) -> Iterator[Finding]:
    """One image of each kind of address: as this service reads it, and as an annotator's browser gets it."""
    kinds: dict[str, Task] = {}
    for task in tasks:
        kinds.setdefault(kind_of(task.image), task)
    if not kinds:
        yield Finding("images", "note", "The project has no tasks yet: run `ml-backend import-images`.")
    for kind, task in sorted(kinds.items()):
        problem = _unreadable(project, task, hosts) or _not_served(task, client)
        well = f"Images can be read ({kind}), for example that of task {task.id}."
        yield _found(f"images ({kind})", well, problem)


def _every_image(project: Project, tasks: Sequence[Task], ledger: Ledger, hosts: Hosts) -> Finding:
    """All images: those that the service could not read, by name, and a sample of those that it has not read yet."""
    name = "every image"
    counts, faulty = ledger.counts(project), ledger.image_errors(project)
    read = ledger.content_hashes(project, tasks)
    unread = [task for task in tasks if task.id not in read and task.id not in faulty]
    unread = unread or list(islice(ledger.tasks_without_hash(project), SAMPLE))
    tried = unread[:: max(len(unread) // TRIED, 1)][:TRIED]
    with ThreadPoolExecutor(READERS) as readers:
        faults = list(readers.map(lambda task: _unreadable(project, task, hosts), tried))
    found = [Unreadable(*known) for known in ledger.unreadable(project, limit=SHOWN)]
    found += [Unreadable(task, fault) for task, fault in zip(tried, faults, strict=True) if fault]
    failed = counts.failed_images + sum(map(bool, faults))
    if failed:
        images = "1 image cannot be read and is" if failed == 1 else f"{failed} images cannot be read and are"
        return Finding(name, "FIX", f"{images} left out of the queue: {and_more(found, failed)}.")
    if unread:
        images = f"{amount(len(tried), 'image')} of those not read yet {'was' if len(tried) == 1 else 'were'}"
        return Finding(name, "ok", f"{images} tried and can be read.")
    return Finding(name, "ok", f"The service has read all it knows of ({counts.tasks:,}).")


def _encoder(project: Project, settings: Settings) -> Finding:
    """Which one makes the vectors and why; before the first turn, which would."""
    from ml_backend.encoders.encoder_choice import foreseen  # noqa: PLC0415 - torch

    name = "encoder"
    if origin := origin_of(settings, project):
        return Finding(name, "note" if origin.better else "ok", f"{origin.told}. {origin.better}".strip())
    weights = Path(settings.encoder_weights) if settings.encoder_weights else None
    try:
        would_be = foreseen(settings.encoder, weights, allowed=settings.downloads == "yes")
    except BackendError as error:
        return Finding(name, "FIX", str(error))
    return Finding(name, "note", f"None yet. The first turn takes {would_be}.")


def kind_of(image: str | None) -> str:
    """Return the kind of storage an address names."""
    if not image:
        return "none"
    parts = split(image)
    if parts.path.startswith("/data/upload/"):
        return "upload"
    if parts.path.startswith("/data/local-files/"):
        return "local files"
    return parts.scheme or "unknown"


def _unreadable(project: Project, task: Task, hosts: Hosts) -> str | None:
    try:
        decode(hosts.images(project.key.host).read(task))
    except (ImageError, LabelStudioError) as error:
        return str(error)
    return None


def _not_served(task: Task, client: LabelStudio) -> str | None:
    """Why Label Studio would not show a file that it serves itself, even where this service reads it from disk."""
    kind = kind_of(task.image)
    if kind not in {"upload", "local files"} or task.image is None:
        return None
    path = task.image.removeprefix(client.url)
    answer = client.transport.send("GET", path if path.startswith("/") else urlsplit(path).path)
    if answer.ok:
        return None
    if kind == "local files" and answer.status_code == 403:
        return (
            "Label Studio does not serve local files: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=<the folder above the images>."
        )
    return (
        f"Label Studio answers {answer.status_code} to {task.image} (task {task.id}): the file is gone, or the "
        "project has no local storage that covers it; `ml-backend import-images FOLDER` adds one."
    )


def _machine(settings: Settings) -> Iterator[Finding]:
    """GPU, memory, disk. No GPU is no fault: the default head trains on a CPU in about a second."""
    import torch  # noqa: PLC0415 - slow to import

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpu = f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GiB free."
    else:
        gpu = "None that PyTorch can use; the default training does not need one."
    yield Finding("GPU", "ok" if torch.cuda.is_available() else "note", gpu)
    yield _device(settings)
    memory = free_memory()
    text = "unknown" if memory is None else f"{memory / GIB:.1f} GiB available"
    little = memory is not None and memory < LEAST_MEMORY
    fix = f"Only {text}: close other programs, or add 1 GiB of memory."
    yield _found("memory", f"{text}.", fix if little else None)
    yield disk(settings.data_dir)


def _device(settings: Settings) -> Finding:
    """Where networks compute, as ML_BACKEND_DEVICE and ML_BACKEND_THREADS say."""
    compute.choose(settings.device, settings.threads)
    try:
        device = compute.chosen_device()
    except ConfigError as error:
        return Finding("device", "FIX", str(error))
    where = "the processor" if device.type == "cpu" else str(device)
    return Finding("device", "ok", f"Networks compute on {where}; {compute.threads()} lanes read and prepare images.")


def disk(data_dir: Path) -> Finding:
    """Room and permission for state, vectors and versions."""
    there = next(path for path in (data_dir.resolve(), *data_dir.resolve().parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", "FIX", f"{there} is not writable: set ML_BACKEND_DATA_DIR to a folder you can write to.")
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB free in {data_dir}"
    if free < LEAST_DISK:
        return Finding("disk", "FIX", f"Only {text}: free some space, or point ML_BACKEND_DATA_DIR to another disk.")
    return Finding("disk", "ok", f"{text}.")


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that may still be used, by the machine and by the container's limit; None where neither says."""
    known = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        known.append(int(limit) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):  # "max": no limit
        pass
    return min(known, default=None)

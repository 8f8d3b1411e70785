"""What a person wants to know of a project, as plain JSON: for HTTP, the command line and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_backend.project_settings import as_json, pause_sentence
from ml_backend.records import LabelSchema
from ml_backend.settings import Settings
from ml_backend.store.acceptances import Acceptance, Acceptances
from ml_backend.store.encoder_origins import origin_of
from ml_backend.store.faults import disk_full, scarce
from ml_backend.store.job import Job, JobStatus
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.rounds import Round
from ml_backend.store.rows import Counts
from ml_backend.store.version import Version
from ml_backend.store.version_meta import FROM_NAMES
from ml_backend.task_names import Unreadable
from ml_backend.wording import amount, imbalance, small_slice, undecided

LISTED = 100
"""Unreadable images in a status; GET /projects/{number}/unreadable-images has them all."""

_UNTAUGHT = "guesses from the class names: no label yet has taught or measured it"


@dataclass(frozen=True)
class ProjectStatus:
    """Puts together what is known of a project."""

    ledger: Ledger
    jobs: Jobs
    versions: Versions
    acceptances: Acceptances
    settings: Settings

    def of(self, project: Project, counts: Counts | None = None) -> dict[str, Any]:
        """Counts, the version and queue in service, the job under way, and what is wrong, if anything.

        counts: of a moment ago, where counting now would take too long.
        """
        counts = counts or self.ledger.counts(project)
        jobs = self.jobs.status(project)
        version = self.versions.current(project)
        last = self.ledger.last_round(project)
        acceptance = self.acceptances.last(project)
        return {
            "id": project.id,
            "project": str(project.key),
            "title": project.title,
            "counts": dict(vars(counts)),
            "version": self._served(project, version) if version else None,
            "pinned": self.versions.pinned(project),
            "settings": as_json(project, self.settings),
            "queue": self._queue(last) if last else None,
            "job": {
                "due": job_status(jobs.due),
                "waiting_for": self._waiting_for(jobs),
                "running": job_status(jobs.running),
                "last": job_status(jobs.last),
                "stopped": jobs.stopped,
            },
            "encoder": encoder_status(project, self.settings),
            "acceptance": acceptance_status(acceptance) if acceptance else None,
            "advice": project.state.advice and project.state.advice.as_json(),
            "former": [self._former(known) for known in self.ledger.former(project)],
            "problems": [
                *([paused] if (paused := pause_sentence(project)) else []),
                *self._obstacles(jobs),
                *_problems(counts, project, last, jobs.stopped),
                *self._unserved(project, version),
                *self._faulty_images(project, counts),
                *([problem] if (problem := encoder_problem(project)) else []),
                *self._held_back(project),
                *self._doubted(project),
                *self._speechless(project),
            ],
            "unreadable": self.unreadable(project, limit=LISTED) | {"total": counts.failed_images},
        }

    def unreadable(self, project: Project, *, after: int = 0, limit: int) -> dict[str, Any]:
        """Up to `limit` images that cannot be read, by task id from above `after`, each with its name and the reason."""
        listed = self.ledger.unreadable(project, after=after, limit=limit)
        return {"images": [Unreadable(task, reason).as_json() for task, reason in listed]}

    def _served(self, project: Project, version: Version) -> dict[str, Any]:
        """The version in service; in words where a newer one, which is not served, was measured on more labels."""
        newest = self.versions.newest(project) or version
        before, now = ((each.meta.metrics.holdout or {}).get("n", 0) for each in (version, newest))
        fix = (
            "`ml-backend versions unpin` serves the newest that was good enough"
            if self.versions.pinned(project)
            else "nothing is to be done, the next that is good enough is served by itself"
        )
        words = (
            f"{version.name} was measured on {amount(before, 'label')}, and {newest.name}, which is not served, on {now:,}: "
            f"{fix}"
        )
        return version_status(version) | {"outdated_in_words": words if now > before else None}

    def _former(self, former: Project) -> dict[str, Any]:
        """A project that had the same number in Label Studio before, whose labels are kept."""
        return {
            "id": former.id,
            "title": former.title,
            "labelled": self.ledger.counts(former).labelled,
            "replaced_at": former.state.replaced and former.state.replaced.at,
        }

    def _queue(self, last: Round) -> dict[str, Any]:
        """The last round, and how much of it waits for an answer; "used_up" where nothing does."""
        left = self.ledger.left(last)
        status = round_status(last) | {"tasks": left.tasks, "waiting": left.waiting, "waiting_held_out": left.held_out}
        return status | ({"state": "used_up"} if last.state == "verified" and not left.waiting else {})

    def _obstacles(self, jobs: JobStatus) -> list[str]:
        """What keeps the work from being done just now, whatever the project; sentences, each with its fix."""
        found = []
        if scarce(self.settings.data_dir):
            found.append(str(disk_full(str(self.settings.data_dir))))
        elif jobs.due is not None and jobs.due.delays and jobs.due.error:
            found.append(f"The last turn was put off and will be tried again by itself: {jobs.due.error}")
        running = jobs.running
        silence = datetime.now(UTC) - running.heartbeat_at if running and running.heartbeat_at else timedelta(0)
        if running and silence > 2 * self.jobs.retry_policy.lease:
            found.append(
                f"The worker {running.worker} has given no sign of life for {silence.total_seconds():.0f} s: see that "
                "`ml-backend serve` runs, and the service's log."
            )
        return found

    def _waiting_for(self, jobs: JobStatus) -> dict[str, Any] | None:
        """The project whose turn keeps a job that is due from starting; nothing is wrong with that."""
        if jobs.due is None or jobs.running or jobs.elsewhere is None or jobs.due.due_at > self.jobs.clock():
            return None
        other = next((p for p in self.ledger.projects() if p.id == jobs.elsewhere.project_id), None)
        if other is None:
            return None
        return {"project": str(other.key), "title": other.title, "message": jobs.elsewhere.message}

    def _faulty_images(self, project: Project, counts: Counts) -> Iterator[str]:
        away = self.ledger.away(project)
        if lasting := counts.failed_images - away.images:
            them = (
                "is left out of the queue. Once it is" if lasting == 1 else "are left out of the queue. Once they are"
            )
            yield f"{amount(lasting, 'image')} cannot be read and {them} mended, run `ml-backend sync retry-images`."
        if away.images and away.next_at:
            them = "is left out of the queue until it" if away.images == 1 else "are left out of the queue until they"
            yield (
                f"{amount(away.images, 'image')} cannot be fetched at present and {them} can be; tried again by itself, "
                f"next at {away.next_at:%H:%M:%S} UTC: {away.reason}"
            )
        if waiting := project.state.images_waiting:
            yield waiting

    def _held_back(self, project: Project) -> Iterator[str]:
        """Why fewer images are held out than are asked for (see `steps.hold_out.reserve`)."""
        wanted, share = self.settings.holdout_share, project.state.reserved_share
        if share is None or wanted <= share or self.versions.next_number(project) == 1:
            return
        yield (
            f"ML_BACKEND_HOLDOUT_SHARE asks for {wanted:.0%} of the images to be held out, and {share:.0%} are: the others "
            f"were answered with a guess in sight or learned from, since there is a model. They stay {share:.0%}: set it to "
            f"{share:g}."
        )

    def _doubted(self, project: Project) -> Iterator[str]:
        """What the last turn found against an audit that is on, or a certificate."""
        for acceptance in self.acceptances.all(project):
            told = acceptance.progress or {}
            found = {"auditing": told.get("problem"), "certified": told.get("broken"), "written": told.get("broken")}
            if sentence := found.get(acceptance.state):
                yield sentence

    def _speechless(self, project: Project) -> Iterator[str]:
        """Why the names of the classes give no guesses."""
        if (problem := project.state.names_problem) and self.settings.start_from_names == "yes":
            yield (
                f"The class names give no guesses, and all else goes on without: {problem} Correct the encoder, or set "
                "ML_BACKEND_START_FROM_NAMES=no."
            )

    def _unserved(self, project: Project, version: Version | None) -> Iterator[str]:
        """Why the version that is chosen makes no guesses, or fewer than it could."""
        if version is None:
            return
        pinned = self.versions.pinned(project)
        fix = (
            "Run `ml-backend versions unpin`." if pinned else "The next turn with labels of two classes trains another."
        )
        if not self.versions.folders.there(project.id, version.number):
            yield f"The files of {version.name}, which is served, were deleted or moved: it makes no guesses. {fix}"
        elif pinned and not version.fits(project.schema):
            yield (
                f"{version.name} is pinned, but was trained for other labels than the project has now: its guesses are not "
                f"ticked, and labels it does not know are never guessed. {fix}"
            )


def encoder_status(project: Project, settings: Settings) -> dict[str, Any]:
    """What makes the vectors and why, what is to make them, and how far that is; in words where there is something to say."""
    origin = origin_of(settings, project)
    serving, coming = project.state.encoder, project.state.next_encoder
    words = None
    if coming is not None and serving is not None:
        far = f"{coming.done:,} of {coming.total:,}" if coming.total else "not begun yet"
        words = f"the vectors of {coming.name} are being made: {far}; {serving.name} serves until then"
    elif project.state.imported and serving is not None and settings.encoder not in {"auto", serving.name}:
        words = f"{serving.name}, which came with the imported model, serves: ML_BACKEND_ENCODER={settings.encoder} is not used"
    return {
        "name": serving.name if serving else None,
        "next": coming and {"name": coming.name, "done": coming.done, "total": coming.total, "problem": coming.problem},
        "in_words": words,
        "why": origin.told if origin else None,
        "better": (origin and origin.better) or None,
        "source": (origin and origin.source) or None,
        "sha256": (origin and origin.sha256) or None,
        "licence": (origin and origin.licence) or None,
    }


def encoder_problem(project: Project) -> str | None:
    """Why an encoder that was set does not come to serve; None where nothing is in its way."""
    serving, coming = project.state.encoder, project.state.next_encoder
    if coming is None or coming.problem is None or serving is None:
        return None
    return (
        f"The encoder {coming.name} does not serve yet, and {serving.name} goes on: {coming.problem.rstrip('. ')}. It is tried "
        "again by itself; to stay with the old one, set ML_BACKEND_ENCODER back."
    )


def version_status(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "state": version.state,
        "reason": version.reason,
        "created_at": version.created_at.isoformat(),
        "encoder": version.meta.encoder.name,
        "from_names_in_words": _UNTAUGHT if version.meta.mode == FROM_NAMES else None,
        "holdout": (holdout := version.meta.metrics.holdout),
        "in_words": small_slice(holdout),
        "imbalance_in_words": imbalance(holdout),
        "undecided_in_words": undecided(holdout),
        "labels": version.meta.labels,
    }


def turn_sentence(summary: Mapping[str, Any]) -> str:
    """What a turn came to, by the summary that is kept with its job."""
    if "note" in summary:
        return str(summary["note"])
    model = f"model v{summary['version']}" if summary["version"] else "no model yet"
    queue = f"queue {summary['served']}" if summary["served"] else "no queue"
    as_before = "" if summary.get("new_queue", True) else " (unchanged)"
    seconds = sum(summary["seconds"].values())
    return f"{amount(summary['labelled'], 'label')}, {model}, {queue}{as_before}; {seconds:.1f} s."


def round_status(round_: Round) -> dict[str, Any]:
    return {"name": round_.served_name, **_fields(round_, "state", "strategy", "error", "created_at", "verified_at")}


def acceptance_status(acceptance: Acceptance) -> dict[str, Any]:
    """The last attempt to have the rest labelled by the model, as the last turn knew it.

    While its audit is on, not how many labels were found wrong: who is asked could count with it.
    """
    named = ("number", "certificate_id", "state", "error", "confidence", "size", "complete", "created_at", "created_by")
    told = acceptance.progress
    if told and acceptance.state == "auditing":
        told = {name: value for name, value in told.items() if name != "wrong"}
    return {**_fields(acceptance, *named), "version": f"v{acceptance.version}", "progress": told}


def job_status(job: Job | None) -> dict[str, Any] | None:
    named = ("id", "state", "reason", "labels", "progress", "message", "due_at", "finished_at", "summary", "error")
    return None if job is None else _fields(job, *named)


def _fields(record: object, *names: str) -> dict[str, Any]:
    """Fields of a record as JSON has them: times in ISO format."""
    values = {name: getattr(record, name) for name in names}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _why_blank(schema: LabelSchema) -> str:
    """Why answers in which nothing is chosen do not count, and what to do."""
    if schema.multiple:
        return (
            'as "none of them" is said only by an answer that says nothing else, given since the label config let several '
            "be chosen: answer again, or add a choice that says none."
        )
    return (
        'as one choice is asked for: answer again, and put required="true" into the <Choices> of the label config, so '
        "that nobody submits an empty answer."
    )


def _problems(counts: Counts, project: Project, last: Round | None, stopped: str | None) -> list[str]:
    """Sentences, each with its fix; empty when all is well."""
    found = []
    if stopped:
        found.append(f"Training stopped: {stopped}")
    if project.state.gone:
        found.append("Label Studio no longer has this project, or the access token may not see it.")
    if other := project.state.another_store:
        found.append(other)
    if project.state.webhook and (fault := project.state.webhook.problem):
        found.append(f"Label Studio's events do not arrive, so labels are noticed late: {fault}")
    if last is not None and last.error and last.state == "pushed":
        found.append(f"The queue {last.served_name} is not served in its order: {last.error}")
    elif last is not None and last.error:
        found.append(
            f"The queue {last.served_name} is not served: {last.error} To push it again, run `ml-backend sync run`."
        )
    if blanks := counts.blanks:
        them = "answer has nothing chosen and does" if blanks == 1 else "answers have nothing chosen and do"
        found.append(f"{blanks:,} {them} not count, {_why_blank(project.schema)}")
    if quarantined := counts.quarantined:
        fit = "does not fit the label config and does" if quarantined == 1 else "do not fit the label config and do"
        found.append(
            f"{amount(quarantined, 'annotation')} {fit} not count: put the missing labels back into it, give "
            "them the new name with `ml-backend relabel`, or annotate again."
        )
    return found

"""What the routes answer, so that the OpenAPI document says it. The fields are those of `status.py`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ml_backend.store.rows import Counts

Json = dict[str, Any]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Health(_Reply):
    status: str
    model_class: str
    store: str


class Setup(_Reply):
    model_version: str


class Prediction(_Reply):
    """One Label Studio prediction. error: why there is no guess, where there should be one."""

    model_version: str
    score: float
    result: list[Json]


class Predictions(_Reply):
    results: list[Prediction]


class ServedNames(_Reply):
    """Names under which a queue was served, newest first."""

    versions: list[str]


class Status(_Reply):
    status: str


class JobAnswer(_Reply):
    job_status: str
    job: str


class Cancelled(_Reply):
    cancelled: bool


class Interval(_Reply):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


class ClassMetrics(_Reply):
    name: str
    support: int
    recall: Interval | None
    precision: Interval | None


class Metrics(_Reply):
    """Of the held-out tasks; accuracy is None before any is labelled."""

    n: int
    accuracy: float | None
    low: float | None
    high: float | None
    balanced_accuracy: Interval | None = None
    commonest: Json | None = None
    macro_f1: Interval | None = None
    classes: list[ClassMetrics] = []


class ModelVersion(_Reply):
    name: str
    state: str
    reason: str
    created_at: str
    encoder: str | None
    holdout: Metrics | None
    in_words: str | None
    from_names_in_words: str | None = None
    imbalance_in_words: str | None = None
    undecided_in_words: str | None = None
    outdated_in_words: str | None = None
    labels: int | None


class Round(_Reply):
    name: str
    state: str
    strategy: str
    error: str | None
    created_at: str
    verified_at: str | None


class Queue(Round):
    """The last round. waiting: how many of its tasks still have to be answered."""

    tasks: int
    waiting: int
    waiting_held_out: int


class Job(_Reply):
    id: int
    state: str
    reason: str
    labels: int
    progress: float
    message: str
    due_at: str
    finished_at: str | None
    summary: Json | None
    error: str | None


class WaitingFor(_Reply):
    """Another project, whose turn is under way."""

    project: str
    title: str
    message: str


class Jobs(_Reply):
    due: Job | None
    waiting_for: WaitingFor | None
    running: Job | None
    last: Job | None
    stopped: str | None


class FileTold(_Reply):
    """A file that is made. said: how far it is. warnings: what is wrong with it. address: where it is had once, within a minute."""

    state: Literal["making", "ready"]
    said: str
    warnings: list[str]
    address: str | None


class ChoosableSettings(_Reply):
    strategy: str
    batch_size: int
    train_after_labels: int
    train_after_seconds: float


class ProjectSettings(ChoosableSettings):
    """service: what they are for a project that has none of its own. chosen: which of them it has. paused: since when, or None."""

    service: ChoosableSettings
    chosen: list[str]
    paused: str | None


class ComingEncoder(_Reply):
    """done, total: images. problem: why it does not get on."""

    name: str
    done: int
    total: int
    problem: str | None


class ProjectEncoder(_Reply):
    """name: of what makes the vectors; None before the first turn. next: what is to make them. in_words: of a change.

    why: it and no other. better: what a better one would take. source, sha256, licence: of its weights, where they were published.
    """

    name: str | None
    next: ComingEncoder | None
    in_words: str | None
    why: str | None
    better: str | None
    source: str | None
    sha256: str | None
    licence: str | None


class FormerProject(_Reply):
    id: int
    title: str
    labelled: int
    replaced_at: str


class UnreadableImage(_Reply):
    task_id: int
    filename: str
    image: str | None
    name: str
    reason: str


class UnreadableImages(_Reply):
    total: int
    images: list[UnreadableImage]


class Acceptance(_Reply):
    """An attempt to have the rest labelled by the model. progress: what the last turn knew; None before."""

    number: int
    certificate_id: str
    state: str
    error: float
    confidence: float
    size: int
    complete: bool
    created_at: str
    created_by: str
    version: str
    progress: Json | None


class Project(_Reply):
    """All that is known of a project. problems: sentences, each with its fix; empty when all is well."""

    id: int
    project: str
    title: str
    counts: Counts
    version: ModelVersion | None
    pinned: bool
    settings: ProjectSettings
    queue: Queue | None
    job: Jobs
    acceptance: Acceptance | None
    advice: Json | None
    encoder: ProjectEncoder
    former: list[FormerProject]
    problems: list[str]
    unreadable: UnreadableImages


class GridClass(_Reply):
    """tasks: how many of the unlabelled ones the model takes for it; None for an audit. key: as on Label Studio's page, or none."""

    name: str
    key: str
    tasks: int | None


class GridTask(_Reply):
    id: int
    name: str


class GridPage(_Reply):
    """person: whose token it is. tasks: look-alikes, the one the model is surest of first; none where no more are left.

    mode "audit": nothing of this is the model's. label: None. tasks: what the audit asks for, in the order drawn. asked: how many
    tasks are left for this person. next: what there is to do where an audit asks for nothing, or "".
    """

    mode: Literal["look-alikes", "audit"]
    label: str | None
    asked: int | None
    next: str
    person: str
    classes: list[GridClass]
    tasks: list[GridTask]


class GridWritten(_Reply):
    """label: None where each has its own. blind: held out, or drawn for an audit, meanwhile.

    answered: had an answer, which they keep. gone: deleted meanwhile.
    """

    label: str | None
    written: int
    answered: int
    gone: int
    blind: int


class GridUndone(_Reply):
    """label: None where each had its own. kept: answers that somebody has changed since."""

    label: str | None
    deleted: int
    kept: int


class AcceptWould(_Reply):
    """says: what the act would come to, in lines."""

    says: str


class PageWould(_Reply):
    """The question to be asked once. title, yes: of it. says: what the act would come to, in lines."""

    title: str
    yes: str
    says: str


class PageDone(_Reply):
    """said: what came of the act."""

    said: str


class MapColour(_Reply):
    """What points are coloured by. names: of the values, from 0; none for a doubt, which is from 0 to 100. counts: of each of them. width: bytes of a value; the largest is none."""

    name: str
    title: str
    names: list[str]
    counts: list[int]
    width: int


class MapState(_Reply):
    """key: None while the first map is being made. coming: another one is, which may have more points. parts: points of each part. method: how the images were laid out, in words.

    hidden: why there is no guess to colour by; "" where there is one. words: whether images can be looked for by words.
    labels_here: whether the caller can label here, which takes a person. in_label_studio: the project's address there.
    """

    title: str
    person: str
    may_act: bool
    labels_here: bool
    in_label_studio: str
    key: str | None
    coming: bool
    points: int
    parts: list[int]
    missing: int
    method: str
    hidden: str
    words: bool
    labels: list[str]
    kinds: list[str]
    colours: list[MapColour]


class FoundTask(_Reply):
    """confidence: of the guess, in per cent. kind: what the task is, in words. What is not known, or not to be shown, is None."""

    id: int
    name: str
    label: str | None
    guess: str | None
    confidence: int | None
    kind: str | None


class FoundTasks(_Reply):
    """ids: in order, so many at most. total: None where there are more, or it is not known. tasks: the first of them."""

    ids: list[int]
    total: int | None
    tasks: list[FoundTask]

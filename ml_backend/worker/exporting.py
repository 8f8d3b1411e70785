"""Labels, predictions, rounds, models and data sets taken out: what the commands and the project's page both call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ml_backend.cycle import Progress
from ml_backend.errors import InvalidInputError, LabelStudioUnavailableError, NotFoundError, OtherLabelsError
from ml_backend.exports.guesses import Answering
from ml_backend.exports.label_rows import COLUMNS, MINIMAL, OF_MODEL, Tally, export_rows
from ml_backend.exports.missing_vectors import encode_tasks, without_vector
from ml_backend.exports.prediction_rows import PredictionTally, check_separator, columns_of, prediction_rows
from ml_backend.exports.round_rows import QUERY_COLUMNS, ROUND_COLUMNS, query_rows, round_rows
from ml_backend.services import Services
from ml_backend.store.projects import Project
from ml_backend.store.rows import Counts
from ml_backend.store.version import Version, version_number
from ml_backend.tabular import Write
from ml_backend.worker.accepting import Advance
from ml_backend.worker.foreground import alone

Say = Callable[[str], None]
"""Told what is wrong, in a sentence."""
Open = Callable[[Mapping[str, type]], AbstractContextManager[Write]]
"""Where rows of these columns go; what was written is there when the block ends well."""
Count = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Passes rows on, and tells how far they are: what they are, and of how many."""


def uncounted(rows: Iterable[Any], _what: str, _total: int) -> Iterator[Any]:
    yield from rows


def up_to_date(
    project: Project,
    services: Services,
    reason: str,
    warn: Say,
    *,
    strict: bool = False,
    waiting: Progress | None = None,
) -> Project:
    """Bring the labels up to date; with Label Studio away, say of when they are, or raise where it is `strict`."""
    try:
        with alone(project, services, reason, waiting):
            return services.label_sync.sync(project, full=False, lazily=True)[0]
    except LabelStudioUnavailableError as error:
        if strict or project.reconciled_at is None:
            raise
        warn(f"{error} These labels are as of {project.reconciled_at:%Y-%m-%d %H:%M:%S} UTC.")
        return project


@dataclass(frozen=True)
class LabelOptions:
    """As the options of `ml-backend export labels`."""

    separator: str = "|"
    minimal: bool = False
    long: bool = False
    unlabelled: bool = False
    accepted: bool = False
    spreadsheet: bool = False
    strict: bool = False


@dataclass(frozen=True)
class WrittenLabels:
    tally: Tally
    counts: Counts
    warnings: list[str]


def write_labels(
    project: Project, services: Services, open_: Open, options: LabelOptions | None = None, *, count: Count = uncounted
) -> WrittenLabels:
    """One row a labelled task. Raises InvalidInputError for warnings where that is asked for (`strict`)."""
    how, tally = options or LabelOptions(), Tally()
    counts = services.ledger.counts(project)
    columns = {name: COLUMNS[name] for name in (MINIMAL if how.minimal else COLUMNS)}
    columns |= OF_MODEL if how.accepted else {}
    rows = export_rows(
        services.ledger.rows(project),
        separator=how.separator,
        long=how.long,
        include_unlabelled=how.unlabelled,
        include_accepted=how.accepted,
        tally=tally,
    )
    with open_(columns) as write:
        for row in count(rows, "labels", counts.labelled + (counts.accepted if how.accepted else 0)):
            write(row)
        warnings = tally.warnings(spreadsheet=how.spreadsheet, long=how.long, quarantined=counts.quarantined)
        if warnings and how.strict:
            raise InvalidInputError(f"Nothing was written (--strict): {' '.join(warnings)}")
    return WrittenLabels(tally, counts, warnings)


def write_rounds(
    project: Project, services: Services, open_: Open, *, queries: bool = False, count: Count = uncounted
) -> int:
    """One row a round, or with `queries` one a task chosen. Returns how many."""
    ledger = services.ledger
    rows = query_rows(project, ledger) if queries else round_rows(project, ledger, services.versions)
    written = 0
    with open_(QUERY_COLUMNS if queries else ROUND_COLUMNS) as write:
        for row in count(rows, "rows", 0):
            write(row)
            written += 1
    return written


@dataclass(frozen=True)
class PredictionOptions:
    """As the options of `ml-backend export predictions`. version: "v3"; None: the one served."""

    version: str | None = None
    separator: str = "|"
    probabilities: bool = False
    offline: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class WrittenPredictions:
    """version: its name; None where there is no model. unread: images that a dry run did not read."""

    tally: PredictionTally
    version: str | None
    unread: int


def write_predictions(
    project: Project,
    services: Services,
    open_: Open,
    reason: str,
    warn: Say,
    options: PredictionOptions | None = None,
    *,
    count: Count = uncounted,
    reading: Callable[[str, int], AbstractContextManager[Advance]],
    waiting: Progress | None = None,
) -> WrittenPredictions:
    """One row a task: its label, or else the model's guess. Images without a vector are read first.

    reading: tells how many of so many images are read.
    """
    how, tally = options or PredictionOptions(), PredictionTally()
    check_separator(project.schema, how.separator)
    version = _answering(project, services, how.version, warn)
    # Opened before images are read, which may take hours: where it cannot be written is said at once.
    with open_(columns_of(project.schema, probabilities=how.probabilities)) as write:
        unread = 0
        if version is not None and not how.offline:
            unread = _read_images(project, services, version, reason, warn, reading, waiting, dry_run=how.dry_run)
        given = services.ledger.rows(project)
        rows = prediction_rows(given, version, separator=how.separator, probabilities=how.probabilities, tally=tally)
        for row in count(rows, "tasks", services.ledger.size(project)):
            write(row)
    return WrittenPredictions(tally, version.name if version else None, unread)


def version_named(project: Project, services: Services, name: str | None) -> Version:
    """The version of that name, or the one served. Raises NotFoundError."""
    if name is not None:
        return services.versions.version(project, version_number(name))
    current = services.versions.current(project)
    if current is None:
        raise NotFoundError(
            f"{project.title!r} has no model yet: label two images of different classes, then run `ml-backend sync "
            "run`."
        )
    return current


def _answering(project: Project, services: Services, name: str | None, warn: Say) -> Answering | None:
    """The version asked for, or the one served, in memory; None where there is none yet. Raises what `Answering.load` does."""
    if name is not None:
        number = version_number(name)
    elif (current := services.versions.current(project)) is not None:
        number = current.number
    else:
        return None
    try:
        version = Answering.load(project, number, services.predictor, services.versions, services.features)
    except OtherLabelsError as error:
        raise OtherLabelsError(
            f"{error} Choose another with --version, or have one trained with `ml-backend sync run`."
        ) from error
    if not version.model.fits:
        warn(
            f"{version.name} was trained for other labels than the project has now: it never guesses those that it does "
            "not know."
        )
    return version


def _read_images(
    project: Project,
    services: Services,
    version: Answering,
    reason: str,
    warn: Say,
    reading: Callable[[str, int], AbstractContextManager[Advance]],
    waiting: Progress | None,
    *,
    dry_run: bool,
) -> int:
    """Read and encode what has no vector yet. In a dry run nothing is read; returns how many images would be."""
    ledger, encoder = services.ledger, version.model.encoder
    missing = without_vector(project, encoder.id, ledger, services.features)
    if dry_run or not missing:
        return len(missing)
    try:
        with alone(project, services, reason, waiting), reading("images", len(missing)) as advance:
            missing = without_vector(
                project, encoder.id, ledger, services.features
            )  # a turn may have read them meanwhile
            away = encode_tasks(project, encoder, missing, ledger, services.encoding, advance)
    except LabelStudioUnavailableError as error:
        away = str(error)
    if away:
        warn(away)
    return 0

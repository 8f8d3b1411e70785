"""Accepted labels into Label Studio, under their certificate, and out of it again. The ledger hears of both by the next sync."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ml_backend.errors import InvalidInputError
from ml_backend.labelstudio.bulk_annotations import Written, write_annotations
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.going_on import Progress, goes_on
from ml_backend.labelstudio.withdrawing import Withdrawn, withdraw
from ml_backend.records import Selection
from ml_backend.store.jobs import Jobs
from ml_backend.store.projects import Project

UNTIL_THEN = "Until then, Label Studio may show temporary predictions (ml-backend-writing-...); they go with it."


def write(
    project: Project,
    certificate: str,
    labels: Mapping[int, str],
    client: LabelStudio,
    jobs: Jobs,
    on_progress: Progress = lambda _: None,
    on_tidy: Progress = lambda _: None,
    *,
    until: Callable[[], object] = lambda: None,
) -> Written:
    """Have each task labelled in Label Studio under the certificate, but for those that somebody answered or skipped meanwhile.

    labels: task id -> a label of the project. on_progress: tasks done with. on_tidy: temporary predictions deleted then.
    until: raises where no more is to be written: somebody else may take it back, or ask people for it, by now.
    Ended at any line, the same call ends as if it had not been; `written` counts what is there of it already. Raises
    InvalidInputError, with nothing written, where several labels an image are asked for, or for labels that the project
    does not have now; ConflictError beside another writing; LabelStudioError, saying how far it came.
    """
    schema = client.schema(
        project.key.project_id, default=Selection(project.state.choices, project.state.image)
    )  # as it is now: Label Studio takes any label
    if schema.multiple:
        raise InvalidInputError("Only labels of projects with one choice for each image can be accepted as yet.")
    with goes_on(f"of {len(labels):,} tasks are labelled", on_progress, until_then=UNTIL_THEN) as count:
        done = write_annotations(
            project.key.project_id,
            schema,
            {task_id: (label,) for task_id, label in labels.items()},
            client,
            certificate=certificate,
            on_progress=count,
            on_tidy=on_tidy,
            until=until,
        )
    jobs.mark_due(project, immediately=True, reason="accept")
    return done


def undo(
    project: Project,
    certificate: str,
    client: LabelStudio,
    jobs: Jobs,
    on_progress: Progress = lambda _: None,
    *,
    task_ids: Sequence[int] | None = None,
) -> Withdrawn:
    """Take back every label that was written under the certificate; one that a person has touched stays, and is told.

    task_ids: of these tasks alone. Ended at any line, the same call goes on. Raises LabelStudioError, saying how far it came.
    """
    with goes_on("tasks are done with", on_progress, until_then=UNTIL_THEN) as count:
        done = withdraw(
            project.key.project_id, project.schema, certificate, client, task_ids=task_ids, on_progress=count
        )
    jobs.mark_due(project, immediately=True, reason="accept")
    return done

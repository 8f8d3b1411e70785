"""What to label next, with or without a running service.

  ml-backend sync status                                the project's progress, and what is wrong, if anything
  ml-backend sync query --strategy margin --size 50     choose a batch and print it; changes nothing
  ml-backend sync prioritize --strategy margin          choose a batch and make it the queue
  ml-backend sync prioritize --csv mine.csv             your own list: filename or task_id, optionally priority
  ml-backend sync run                                   one turn of the loop: labels, features, training, queue
  ml-backend sync watch                                 a turn whenever something changes, until Ctrl-C
  ml-backend sync retry-images                          try images again that could not be read
  ml-backend sync export                                the same as `ml-backend export labels`

A queue made by `prioritize` stays until half of it is answered; then the service chooses the next one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.commands import held_out
from ml_backend.commands.export import add_labels_arguments, run_labels
from ml_backend.commands.options import (
    ENVIRONMENT,
    add_common,
    add_sampling,
    existing_file,
    find_project,
    open_services,
    positive,
)
from ml_backend.commands.output import Answer, bar, table
from ml_backend.errors import InvalidInputError, LabelStudioUnavailableError
from ml_backend.project_settings import in_words
from ml_backend.store_identity import Store
from ml_backend.tabular import open_table
from ml_backend.task_names import SHOWN as FEW
from ml_backend.task_names import called, printable, task_filename
from ml_backend.wording import amount, interval, job_reason, measured

if TYPE_CHECKING:
    from ml_backend.manual_queue import Batch
    from ml_backend.services import Services
    from ml_backend.store.projects import Project

QUERY_COLUMNS = {
    "filename": str, "task_id": int, "priority": float, "rank": int, "acquisition": float, "confidence": float,
    "prediction": str, "reason": str,
}  # fmt: skip
SHOWN = 25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ENVIRONMENT
    verbs = parser.add_subparsers(dest="what", metavar="what", required=True)
    query = verbs.add_parser("query", help="choose the next batch with any strategy and print it")
    _add_choosing(query, _query)
    query.add_argument(
        "--out", type=Path, metavar="CSV", help="also write it to a file, which `prioritize --csv` can read"
    )
    prioritize = verbs.add_parser("prioritize", help=("make a batch the queue: chosen by a strategy, or your own list"))
    _add_choosing(prioritize, _prioritize)
    own = prioritize.add_mutually_exclusive_group()
    own.add_argument("--tasks", metavar="ID,ID,...", help="these tasks, in this order")
    own.add_argument("--files", nargs="+", metavar="NAME", help="these images by filename or path, in this order")
    own.add_argument(
        "--csv",
        type=existing_file,
        help="CSV with the column filename (or path, task_id) and optionally priority: higher is sooner",
    )
    add_labels_arguments(verbs.add_parser("export", help="the same as `ml-backend export labels`"))
    for name, do, text in (
        ("status", _status, "the project's progress: labels, accuracy, queue, job, problems"),
        ("run", _run, "one turn of the loop: labels, features, training, queue; does nothing if nothing is new"),
        ("watch", _watch, "a turn whenever something changes, until Ctrl-C"),
        (
            "retry-images",
            _retry_images,
            "try images again that could not be read, once their files or addresses are mended",
        ),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.set_defaults(do=do)
        if name == "watch":
            every = "seconds between checks for changes (default: 30)"
            verb.add_argument("--every", type=positive, default=30, metavar="SECONDS", help=every)
        add_common(verb, dry_run=name != "status")


def run(args: argparse.Namespace) -> int:
    if args.what == "export":
        return run_labels(args)
    services = open_services(dry_run=getattr(args, "dry_run", False), name_store=args.what != "status")
    project = find_project(services, args, register=args.what != "status")
    return int(args.do(project, services, args, Answer(as_json=args.json)))


def _add_choosing(parser: argparse.ArgumentParser, do: Callable[..., int]) -> None:
    parser.set_defaults(do=do)
    parser.add_argument(
        "--strategy", help=("query strategy (default: the project's, see `settings`); an unknown name lists them all")
    )
    parser.add_argument(
        "--size", type=positive, metavar="N", help="number of tasks in the batch (default: the project's)"
    )
    add_sampling(parser)
    parser.add_argument("--seed", type=int, help="seed for random draws (default: ML_BACKEND_SEED)")
    add_common(parser)


def _query(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    batch = _computed(project, services, args)
    rows = _rows(project, services, batch)
    if args.out and not args.dry_run:
        with open_table(args.out, QUERY_COLUMNS) as write:
            for row in rows:
                write(row)
    document = {"strategy": batch.strategy, "seed": batch.seed, "version": f"v{batch.version}", "queries": rows}
    instead = f"\nWould be written to {args.out} (--dry-run)." if args.out and args.dry_run else ""
    answer.result(document, lambda: _shown(batch, rows) + instead)
    return 0


def _prioritize(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    from ml_backend.worker.foreground import alone  # noqa: PLC0415 - torch takes seconds: `--help` does not wait

    batch = _chosen(project, services, args)
    left_out = _left_out(project, services, batch)
    for item in left_out[:SHOWN]:
        answer.warn(f"{item['name']} is left out: {item['reason']}")
    if len(left_out) > SHOWN:
        answer.warn(f"{len(left_out) - SHOWN} more left out; --json lists them all.")
    rows = _rows(project, services, batch)
    document = {
        "strategy": batch.strategy,
        "dry_run": args.dry_run,
        "queries": rows,
        "skipped": len(left_out),
        "left_out": left_out,
    }
    if args.dry_run:
        answer.result(document, lambda: f"{_shown(batch, rows)}\nNothing was changed (--dry-run).")
        return 0
    with alone(project, services, "prioritize"):
        round_ = services.manual_queue.push(project, batch)
    document |= {"served_as": round_.served_name, "state": round_.state}
    answer.result(
        document,
        f"The queue is now {round_.served_name}, with {amount(len(rows), 'task')}; checked that Label Studio "
        "serves it in this order.",
    )
    return 0


def _status(project: Project, services: Services, _args: argparse.Namespace, answer: Answer) -> int:
    status = services.status.of(project)
    answer.result(status, lambda: _status_text(status, Store.of(services.settings)))
    return 0


def _run(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    if args.dry_run:
        return _planned(project, services, answer)
    from ml_backend.status import turn_sentence  # noqa: PLC0415
    from ml_backend.worker.foreground import run_turn  # noqa: PLC0415

    before = services.ledger.last_round(project)
    with _progress(project.title) as on_progress:
        summary = run_turn(project, services, "sync run", on_progress)
    after = services.ledger.last_round(project)
    summary |= {"new_queue": after is not None and (before is None or before.number != after.number)}
    answer.result(summary, lambda: turn_sentence(summary))
    return 0


def _planned(project: Project, services: Services, answer: Answer) -> int:
    """What a turn would do now; `services` are those of a copy."""
    from ml_backend.dry_run import plan_turn  # noqa: PLC0415

    plan = plan_turn(project, services)
    answer.result({"dry_run": True, **vars(plan)}, "\n".join([*plan.sentences(), "Nothing was changed (--dry-run)."]))
    return 0


def _watch(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    if args.dry_run:
        return _planned(project, services, answer)
    from ml_backend.status import turn_sentence  # noqa: PLC0415
    from ml_backend.worker.foreground import run_turn  # noqa: PLC0415

    answer.say(f"Watching {project.title!r}: looks every {args.every} s. Press Ctrl-C to stop.")
    while True:
        try:
            summary = run_turn(project, services, "sync watch")
        except LabelStudioUnavailableError as error:
            answer.warn(str(error))
        else:
            if summary.get("labels_changed") or summary.get("note"):
                answer.result(summary, f"{time.strftime('%H:%M:%S')}  {turn_sentence(summary)}")
        time.sleep(args.every)


def _retry_images(project: Project, services: Services, args: argparse.Namespace, answer: Answer) -> int:
    images = services.ledger.retry_images(project)
    if images:
        services.jobs.mark_due(project, immediately=True, reason="images to be tried again")
    text = (
        f"{amount(images, 'image')} could not be read before and will be tried again: at once by the service, or with "
        "`ml-backend sync run`."
        if images
        else "Every image that was looked at could be read: there is nothing to try again."
    )
    dry = "\nNothing was changed (--dry-run)." if args.dry_run else ""
    answer.result({"images": images, "dry_run": args.dry_run}, text + dry)
    return 0


def _computed(project: Project, services: Services, args: argparse.Namespace) -> Batch:
    from ml_backend.manual_queue import QueryOptions  # noqa: PLC0415
    from ml_backend.worker.foreground import alone  # noqa: PLC0415

    options = QueryOptions(args.strategy, args.size, args.pool_size, args.power, args.seed)
    with _progress(project.title) as on_progress, alone(project, services, args.what, on_progress):
        return services.manual_queue.query(project, options, on_progress)


def _chosen(project: Project, services: Services, args: argparse.Namespace) -> Batch:
    """A list of the person's own, or what the strategy computes."""
    from ml_backend.manual_queue import priorities_from_csv, resolve  # noqa: PLC0415
    from ml_backend.worker.foreground import alone  # noqa: PLC0415

    if not (args.tasks or args.files or args.csv):
        return _computed(project, services, args)
    with alone(project, services, args.what):
        project, _ = services.label_sync.sync(project, full=False, lazily=True)
    if args.csv:
        return services.manual_queue.batch(project, priorities_from_csv(project, args.csv, services.ledger))
    names = [name.strip() for name in args.tasks.split(",") if name.strip()] if args.tasks else args.files
    if not names:
        raise InvalidInputError("--tasks names no task: give numbers separated by commas.")
    tasks = resolve(project, names, services.ledger)
    priorities = {task: float(len(tasks) - place) for place, task in enumerate(dict.fromkeys(tasks))}
    return services.manual_queue.batch(project, priorities)


def _left_out(project: Project, services: Services, batch: Batch) -> list[dict[str, Any]]:
    names = {task.id: called(task) for task in services.ledger.tasks(project, list(batch.skipped))}
    return [
        {"task_id": task, "name": names.get(task, f"task {task}"), "reason": printable(why)}
        for task, why in batch.skipped.items()
    ]


def _rows(project: Project, services: Services, batch: Batch) -> list[dict[str, Any]]:
    tasks = services.ledger.tasks(project, [query.task_id for query in batch.queries])
    names = {task.id: task_filename(task) for task in tasks}
    return [
        {
            "filename": names.get(query.task_id),
            "priority": float(len(batch.queries) - query.rank),
            "prediction": "|".join(query.prediction),
            **{name: getattr(query, name) for name in ("task_id", "rank", "acquisition", "confidence", "reason")},
        }
        for query in batch.queries
    ]


def _shown(batch: Batch, rows: list[dict[str, Any]]) -> str:
    model = f"model v{batch.version}" if batch.version else "no model yet"
    head = f"{amount(len(rows), 'task')} chosen by {batch.strategy}, seed {batch.seed}, {model}:"
    columns = ("rank", "task_id", "filename", "prediction", "confidence", "acquisition", "reason")
    lines = table(columns, [[row[name] for name in columns] for row in rows[:SHOWN]])
    rest = f"\n... and {len(rows) - SHOWN} more (use --json or --out to get them all)" if len(rows) > SHOWN else ""
    return f"{head}\n{lines}{rest}"


def _status_text(status: dict[str, Any], store: Store) -> str:
    counts, version, queue, job = status["counts"], status["version"], status["queue"], status["job"]
    running = job["running"] or job["due"]
    lines = [
        f"{status['title']} ({status['project']})",
        f"  labelled   {_labelled(counts)}",
        *([f"  held out   {words}"] if (words := held_out.described(counts)) else []),
        *([f"  accepted   {amount(counts['accepted'], 'task')}"] if counts["accepted"] else []),
        *([f"  set aside  {amount(counts['aside'], 'task')}"] if counts["aside"] else []),
        *([f"  skipped    {amount(counts['skips'], 'answer')}"] if counts["skips"] else []),
        *([f"  blank      {amount(counts['blanks'], 'answer')}"] if counts["blanks"] else []),
        *([f"  conflicts  {amount(counts['conflicts'], 'task')}"] if counts["conflicts"] else []),
        f"  model      {version['name'] if version else 'none yet'}" + (" (pinned)" if status["pinned"] else ""),
        *_encoder_lines(status["encoder"]),
        *_accuracy_lines(version or {}),
        *([f"  stop       {advice['stopping']}"] if (advice := status["advice"]) else []),
        f"  queue      {_queue_text(queue, counts)}",
        *([f"  audit      {words}"] if (words := _audit_text(status["acceptance"])) else []),
        *([f"  settings   {words}"] if (words := in_words(status["settings"])) else []),
        f"  job        {_job_text(running, job['waiting_for'])}" if running else "  job        none",
        f"  data       {store}",
    ]
    lines += [
        f"  former     another project, {former['title']!r}, had this number until {former['replaced_at'][:10]}: its "
        f"{amount(former['labelled'], 'label')} are kept, and not used"
        for former in status["former"]
    ]
    lines += [f"  FIX        {problem}" for problem in status["problems"]]
    return "\n".join([*lines, *_unreadable_lines(status["unreadable"])])


def _encoder_lines(encoder: dict[str, Any]) -> Iterator[str]:
    words = [encoder[name] for name in ("why", "in_words", "better") if encoder[name]]
    yield from (f"  {'' if row else 'encoder':<9}  {line}" for row, line in enumerate(words))


def _accuracy_lines(version: dict[str, Any]) -> Iterator[str]:
    holdout = version.get("holdout") or {}
    yield f"  accuracy   {measured(holdout)}"
    for kind in ("from_names_in_words", "in_words", "imbalance_in_words", "undecided_in_words", "outdated_in_words"):
        if words := version.get(kind):
            yield f"             {words}"
    if holdout.get("macro_f1"):
        yield f"  macro-F1   {interval(holdout['macro_f1'])}"


def _unreadable_lines(unreadable: dict[str, Any]) -> Iterator[str]:
    """The first images that cannot be read, a line each."""
    images, total = unreadable["images"], unreadable["total"]
    for image in images[:FEW]:
        yield f"    {image['name']}: {image['reason']}"
    if total > FEW:
        rest = "all of them" if total == len(images) else f"the first {len(images)}"
        yield f"    and {total - FEW} more; --json lists {rest}"


def _labelled(counts: dict[str, int]) -> str:
    """How many labels there are, and how many of them are held out."""
    measuring = counts["holdout_labelled"]
    return f"{counts['labelled']} of {counts['tasks']}, {measuring} of them held out to measure the accuracy"


def _queue_text(queue: dict[str, Any] | None, counts: dict[str, int]) -> str:
    if queue is None:
        return "none yet"
    if not counts["waiting"]:
        more = "take back what is set aside, or import" if counts["aside"] else "import"
        return f"used up, and no tasks are left; {more} more images to continue"
    if not queue["waiting"]:
        return f"{queue['name']} is used up; the next turn chooses a new one"
    state = "" if queue["state"] == "verified" else f", {queue['state']}"
    waiting = f"{queue['waiting']} of {amount(queue['tasks'], 'task')} to go"
    if queue["strategy"] == "audit":
        return f"{queue['name']} by audit{state}: {waiting}, drawn at random to check what the model would label"
    return f"{queue['name']} by {queue['strategy']}{state}: {waiting}, {queue['waiting_held_out']} of them held out to measure the accuracy"


def _audit_text(acceptance: dict[str, Any] | None) -> str | None:
    """How far the audit was at the last turn, or what became of its certificate; None where there is nothing to tell."""
    if acceptance is None or acceptance["state"] not in {"auditing", "certified", "written"}:
        return None
    told = acceptance["progress"] or {}
    if acceptance["state"] != "auditing":
        if not told:
            return f"certificate {acceptance['certificate_id']}"
        found, most = told["found_wrong"], told["wrong_at_most"]
        said = f"{found:,} wrong labels found, of at most {most:,}"
        said = "labels have other names now, so wrong ones are not counted" if found is None else said
        return f"certificate {acceptance['certificate_id']}: {said}"
    if not told:
        return "begun; the next turn asks for its tasks"
    done = f"{told['looked']:,} of {told['asked']:,} looked at"
    return (
        f"{done}; complete: `ml-backend accept status` says how to end it; no guess is shown before"
        if acceptance["complete"]
        else done
    )


def _job_text(job: dict[str, Any], other: dict[str, Any] | None) -> str:
    reason = job_reason(job["reason"])
    if other is not None:
        return f"waiting for project {other['title']!r}" + (f" ({other['message']})" if other["message"] else "")
    if job["state"] != "running":
        return f"waiting to start ({reason})"
    return f"running, {job['progress']:.0%}{', ' if job['message'] else ''}{job['message']} ({reason})"


@contextmanager
def _progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar in per cent, with what is being done."""
    with bar(title, 100, "%") as advance:
        shown = 0

        def on_progress(share: float, _message: str) -> None:
            nonlocal shown
            advance(max(round(share * 100) - shown, 0))
            shown = max(round(share * 100), shown)

        yield on_progress

"""From nothing to every image labelled, on a real Label Studio: labels, an audit, a certificate, the rest of them written.

    python -m benchmarks.finish --data ../shared/data                  MNIST-10k
    python -m benchmarks.finish --data ../shared/data --images 1500    a quick look

Simulated people, two of them in turn, answer what Label Studio serves, always truly, while `ml-backend serve` runs; all else
is done by commands. `accept write` is killed three times at random moments. Once every task has a label, the CSV is compared
with the truth; `accept undo` is to leave exactly what people said; and then the same is written once more, for its rate, in
one piece. Exits with 1 where a promise is broken. Aim: 400 labels a second until the last is in place.
"""

from __future__ import annotations

import argparse
import csv
import random
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.import_labels import project as beside
from benchmarks.import_labels import seconds_singly
from benchmarks.large_project import connected, project
from benchmarks.live import label_studio, machine
from ml_backend.commands.output import table
from ml_backend.labelstudio.bulk_annotations import MARK
from ml_backend.labelstudio.client import LabelStudio
from tests.e2e import stack as stacks
from tests.e2e.finishing import Annotators, Given, at_rest, audited, command, exported, given_in, killed, write
from tests.e2e.helpers import sign_up
from tests.e2e.stack import Stack, service

DIGITS = tuple("0123456789")
KILLS = 3
RATE = 400.0
SAMPLE = 40


@dataclass
class Report:
    """What is told, in its order: figures, the seconds of each part, and promises, kept or not."""

    figures: list[tuple[str, object]] = field(default_factory=list)
    promises: list[tuple[str, bool]] = field(default_factory=list)

    def note(self, name: str, value: object) -> None:
        self.figures.append((name, round(value, 2) if isinstance(value, float) else value))
        print(f"{name:<60} {self.figures[-1][1]}", flush=True)

    def promise(self, name: str, kept: object) -> None:
        self.promises.append((name, bool(kept)))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.note(f"{name}, s", time.monotonic() - began)

    def printed(self) -> str:
        kept = [(name, "kept" if kept else "BROKEN") for name, kept in self.promises]
        return f"{table(('what', 'figure'), self.figures)}\n\n{table(('promise', ''), kept)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist10k.tar.gz")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=180, help="answers before the audit")
    parser.add_argument("--error", default="2%")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which writing is killed")
    args = parser.parse_args(argv)
    stacks.PATIENCE = 900.0  # the first turn reads every image
    report = Report()
    report.note("machine", machine())
    with (
        tempfile.TemporaryDirectory() as name,
        label_studio(Path(name)) as server,
        LabelStudio(server.url, server.token) as client,
    ):
        truth = unpack(args.data / "mnist10k.tar.gz", Path(name) / "files" / "digits", args.images)
        people = [sign_up(server, f"annotator-{number}@example.com") for number in range(2)]
        with project(server, client, Path(name) / "service", truth, 0, DIGITS) as (stack, environment):
            stack.environment.update(environment)
            with service(environment, stack.settings):
                finish(stack, Annotators(stack, people), args, report, Path(name))
    report.note("machine", machine())
    print(report.printed())
    return 0 if all(kept for _, kept in report.promises) else 1


def finish(stack: Stack, people: Annotators, args: argparse.Namespace, report: Report, folder: Path) -> None:
    """The whole way, and back."""
    with report.timed("images read, first queue"):
        connected(stack)
    with report.timed("first labels"):
        people.answer(lambda: people.looks >= args.labels)
        at_rest(stack)
    first = people.looks
    with report.timed("audit, its answers"):
        command(stack, "accept", "audit", "--error", args.error)
        people.answer(lambda: audited(stack))
    sample = people.looks - first
    certificate = command(stack, "accept", "certify", "--out", str(folder))
    left = written_with_kills(stack, certificate, args, report)
    with report.timed("the rest, by people"):
        rest = people.answer()
    for name, looks in (
        ("before the audit", first),
        ("for the audit", sample),
        ("for the rest", rest),
        ("in all", people.looks),
    ):
        report.note(f"looks {name}", looks)
    report.note("of these, at what Label Studio had in reserve", len(people.beside))
    report.promise("people were asked for all that was not accepted, and for nothing else", rest == left)
    human = every_task_labelled(stack, people, certificate, report)
    compared(stack, certificate, report, folder)
    undone(stack, certificate, human, report)


def written_with_kills(stack: Stack, certificate: dict[str, Any], args: argparse.Namespace, report: Report) -> int:
    """Write what was certified, killed on the way; returns how many tasks are left to people."""
    total = int(certificate["accepted_unseen"])
    left = stack.client.unlabelled(stack.project_id) - total
    report.note("certificate", certificate["promise"])
    for name in (
        "sample",
        "looked_at",
        "wrong_in_sample",
        "part",
        "wrong_in_part_at_most",
        "accepted_unseen",
        "left_to_people",
    ):
        report.note(f"certificate: {name.replace('_', ' ')}", certificate[name])
    runs = killed(stack, left, total, KILLS, random.Random(args.seed))
    for place, run in enumerate(runs):
        what = f"killed when {total + left - run.left:,} were in place" if run.killed else "to its end"
        report.note(f"writing, run {place + 1}, {what}, s at work", run.ended - (run.began or run.ended))
    seconds = sum(run.seconds for run in runs[: 1 + next(i for i, run in enumerate(runs) if run.in_place)])
    report.note("killed on the way, until in place, s at work", seconds)
    report.note("killed on the way, until in place, labels/s", total / seconds)
    report.promise(f"killed {KILLS} times on the way", [run.killed for run in runs] == [True] * KILLS + [False])
    report.promise("then every label is in place", stack.client.unlabelled(stack.project_id) == left)
    return left


def every_task_labelled(
    stack: Stack, people: Annotators, certificate: dict[str, Any], report: Report
) -> dict[int, Given]:
    """See that each task has one answer, and no prediction of the writing is left; returns what people said."""
    given = given_in(stack)
    human = {number: each for number, each in given.items() if each.accepted is None}
    tasks = [each.task for each in given.values()]
    report.note("tasks without a label at the end", stack.client.unlabelled(stack.project_id))
    report.promise(
        "every task has a label", len(set(tasks)) == len(stack.truth) and not stack.client.unlabelled(stack.project_id)
    )
    report.promise("and no task has two", len(tasks) == len(set(tasks)))
    report.promise("people's are those that people gave", {each.task for each in human.values()} == people.answered)
    accepted = {each.accepted for each in given.values()} - {None}
    report.promise("all others carry the certificate", accepted == {certificate["certificate"]})
    versions = stack.client.model_versions(stack.project_id)
    report.promise("nothing temporary is left", not [name for name in versions if name.startswith(MARK)])
    return human


def compared(stack: Stack, certificate: dict[str, Any], report: Report, folder: Path) -> None:
    """The CSV against the truth."""
    with report.timed("export labels --include accepted"):
        rows = exported(stack, folder / "labels.csv")
    wrong = [row for row in rows if stack.truth[row["filename"]] != row["label"]]
    accepted = [row for row in rows if row["origin"] == "accepted"]
    allowed = certificate["wrong_among_these_at_most"]
    report.note("rows of the CSV, accepted ones", f"{len(rows):,}, {len(accepted):,}")
    report.note("wrong in the CSV", f"{len(wrong)} of {len(rows):,} ({len(wrong) / len(rows):.2%})")
    report.note("wrong among the accepted", f"{len(wrong)} of {len(accepted):,} ({len(wrong) / len(accepted):.2%})")
    report.note("the certificate allows", allowed)
    report.promise("the CSV has every image once", sorted(row["filename"] for row in rows) == sorted(stack.truth))
    report.promise("people's labels are right in it", {row["origin"] for row in wrong} <= {"accepted"})
    report.promise("errors within the certificate", len(wrong) <= allowed)


def undone(stack: Stack, certificate: dict[str, Any], human: dict[int, Given], report: Report) -> None:
    """Taken back, compared, and written once more in one piece."""
    number, total = certificate["certificate"], int(certificate["accepted_unseen"])
    with report.timed("accept undo"):
        told = command(stack, "accept", "undo", number)
    report.promise("undo takes back every accepted label", (told["taken_back"], told["kept"]) == (total, 0))
    report.promise("undo leaves exactly what people said", given_in(stack) == human)
    other, ids = beside(stack.client, len(stack.truth))
    singly = seconds_singly(stack.client, other, ids[:SAMPLE], 1)
    run = write(stack, 0)
    singly += seconds_singly(stack.client, other, ids[SAMPLE : 2 * SAMPLE], 1)
    report.note("written again in one piece, until in place, s at work", run.seconds)
    report.note("the same until the command ends, s", run.ended - run.started)
    report.note("written in one piece, labels/s", total / run.seconds)
    report.note("one by one, before and after it, labels/s", 2 * SAMPLE / singly)
    report.note("written in one piece, times one by one", total / run.seconds * singly / (2 * SAMPLE))
    report.promise(f"at least {RATE:.0f} labels a second", run.in_place and total / run.seconds >= RATE)
    after = given_in(stack)
    report.promise("as it was", len(after) == len(stack.truth) and human.items() <= after.items())


def unpack(archive: Path, folder: Path, count: int) -> dict[Path, str]:
    """Write the first images there; returns each file's truth."""
    with tarfile.open(archive) as tar:
        contents = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
        listed = contents.pop("labels.csv")
        assert listed is not None
        labels = {row["filename"]: row["label"] for row in csv.DictReader(listed.read().decode().splitlines())}
        folder.mkdir(parents=True)
        truth = {}
        for name in sorted(labels)[:count]:
            file = contents[name]
            assert file is not None
            (folder / name).write_bytes(file.read())
            truth[folder / name] = labels[name]
    return truth


if __name__ == "__main__":
    raise SystemExit(main())

"""The certificate: what a sample that people looked at says of labels that nobody looked at, as JSON and as a page."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import Any

import numpy as np

from ml_backend import __version__
from ml_backend.acceptance.audit import WRONG, ClassAudit
from ml_backend.acceptance.bounds import most_wrong
from ml_backend.acceptance.standing import Standing
from ml_backend.records import Label, Task
from ml_backend.store.projects import Project
from ml_backend.task_names import printable, task_filename
from ml_backend.wording import amount, per_cent

Json = dict[str, Any]

RARE_COLUMNS = ("label", "labels", "looked_at", "wrong", "accepted_unseen", "in_words")
WRONG_COLUMNS = ("task_id", "filename", "model", "people", "why")

NOT_PROMISED = (
    "This is said of all of them together: it is no word on any single label. The share is of the whole part, with the "
    "labels that were looked at, which are put right: of those that nobody looked at, a larger share may be wrong. Wrong is a "
    "label that these people, asked without a hint, would not have given. What a class lost to others is bounded by the sample of "
    "all alone, which for a small class is next to nothing."
)


def written(
    project: Project,
    standing: Standing,
    *,
    at: datetime,
    by: str,
    spent: float,
    labels: Mapping[int, Label],
    tasks: Mapping[int, Task],
    waiting: int,
) -> Json:
    """The document. spent: risk of all attempts, this one too. labels: people's, by task. tasks: those found wrong at least.

    waiting: tasks of the project without an answer, so that it can be said how many are left to people.
    """
    mine, finding = standing.acceptance, standing.finding
    accepted, part = int(standing.accepted.sum()), finding.size
    allowed = most_wrong(mine.error, part)
    count, sha256 = digest(standing)
    seen = standing.frozen.ids[standing.looked_at].tolist()
    return {
        "certificate": mine.certificate_id,
        "promise": promise(mine.error, mine.confidence, part, allowed, accepted, standing.wrong_at_most),
        "not_promised": NOT_PROMISED,
        "project": {"host": project.key.host, "number": project.key.project_id, "title": project.title},
        "certified_at": at.isoformat(timespec="seconds"),
        "certified_by": by,
        "audit": {"number": mine.number, "begun_at": mine.created_at.isoformat(timespec="seconds"), "begun_by": mine.created_by, "seed": str(mine.seed)},
        "model_version": f"v{mine.version}",
        "classes": list(mine.classes),
        "error": mine.error,
        "confidence": mine.confidence,
        "risk": {"taken": mine.risk, "of_each_rare_class": mine.class_risk, "left": max(1 - mine.confidence - spent, 0.0)},
        "proposed": mine.size,
        "sample": len(standing.sampled),
        "looked_at": standing.looked,
        "looked_at_by": _by_annotator(labels[task] for task in seen if task in labels),
        "wrong_in_sample": standing.wrong,
        "found_wrong": list(_found_wrong(standing, labels, tasks)),
        "part": part,
        "wrong_in_part_at_most": allowed,
        "accepted_unseen": accepted,
        "wrong_among_these_at_most": standing.wrong_at_most,
        "rare_classes": [_rare(standing, each) for each in finding.rare],
        "left_to_people": waiting - accepted,
        "digest": {"sha256": sha256, "lines": count},
        "software": f"label-studio-active-learning {__version__}",
    }  # fmt: skip


def digest(standing: Standing) -> tuple[int, str]:
    """How many labels will be written without a look, and SHA-256 over a line `task id, image's SHA-256, label` of each, by id."""
    kept, found = standing.frozen, hashlib.sha256()
    accepted = np.flatnonzero(standing.accepted)
    accepted = accepted[np.argsort(kept.ids[accepted])]
    for place in accepted.tolist():
        line = [int(kept.ids[place]), kept.hashes[place].decode(), standing.acceptance.classes[kept.labels[place]]]
        found.update(json.dumps(line).encode() + b"\n")
    return len(accepted), found.hexdigest()


def promise(error: float, confidence: float, part: int, allowed: int, accepted: int, wrong: int) -> str:
    return (
        f"Of {part:,} labels at most {allowed:,} are wrong ({per_cent(error)}), and of the {accepted:,} among them that nobody "
        f"looked at, at most {wrong:,}. Whoever certifies so, over all attempts in a project up to this one, is "
        f"mistaken with a probability of at most {per_cent(1 - confidence)}: the sample was drawn at random, and people answered it without seeing a guess."
    )


def page(document: Json) -> str:
    """The certificate for a person: one page of HTML that needs nothing else."""
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in _facts(document)
    )
    title = f"Certificate {document['certificate']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p><strong>{escape(document['promise'])}</strong></p>",
        f"<p>{escape(document['not_promised'])}</p>",
        f"<table>\n{rows}\n</table>",
    ]
    if document["rare_classes"]:
        parts += ["<h2>Rare classes</h2>", _table(document["rare_classes"], RARE_COLUMNS)]
    if document["found_wrong"]:
        parts += ["<h2>Found wrong</h2>", _table(document["found_wrong"], WRONG_COLUMNS)]
    style = (
        "body{font-family:sans-serif;max-width:52em;margin:2em auto;padding:0 1em;line-height:1.4}"
        "th,td{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}table{border-collapse:collapse}"
        "tr{border-bottom:1px solid #ddd}td{overflow-wrap:anywhere}"
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style>'
        f"</head>\n<body>\n{body}\n</body></html>\n"
    )


def _facts(document: Json) -> Iterable[tuple[str, object]]:
    project, risk, audit = document["project"], document["risk"], document["audit"]
    yield "project", f"{printable(project['title'])} ({project['host']}/projects/{project['number']})"
    yield "certified", f"{document['certified_at']} by {document['certified_by']}"
    yield "audit", f"number {audit['number']} of the project, begun {audit['begun_at']} by {audit['begun_by']}"
    yield "model", document["model_version"]
    yield "labels", ", ".join(printable(name) for name in document["classes"])
    yield "wrong at most", f"{per_cent(document['error'])}, at {per_cent(document['confidence'])} confidence"
    yield "risk", f"{risk['taken']:.4g} taken by this audit, {risk['left']:.4g} left for further ones"
    yield "labels of the model", f"{document['proposed']:,}, of which {document['part']:,} are certified"
    yield (
        "sample",
        f"{document['sample']:,} drawn at random, {document['wrong_in_sample']:,} of them wrong; {document['looked_at']:,} looked at in all",
    )
    yield (
        "accepted without a look",
        f"{document['accepted_unseen']:,}, of which at most {document['wrong_among_these_at_most']:,} are wrong",
    )
    yield "left to people", amount(document["left_to_people"], "task")
    yield (
        "SHA-256 of what is accepted",
        f"{document['digest']['sha256']}, over {amount(document['digest']['lines'], 'line')}",
    )
    yield "software", document["software"]


def _table(rows: list[Json], columns: tuple[str, ...]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    cells = (
        "".join(f"<td>{escape('' if row[name] is None else str(row[name]))}</td>" for name in columns) for row in rows
    )
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "\n</table>"


def _found_wrong(standing: Standing, labels: Mapping[int, Label], tasks: Mapping[int, Task]) -> Iterable[Json]:
    """Labels of the sample, or of the part that is certified, that people did not give; by task id."""
    kept, looks = standing.frozen, standing.looks
    inside = np.zeros(len(kept.ids), np.bool_)
    inside[standing.sampled], inside[: standing.finding.size] = True, True
    places = np.flatnonzero((standing.verdicts == WRONG) & inside)
    for place in places[np.argsort(kept.ids[places])].tolist():
        task = int(kept.ids[place])
        said = labels[task].labels if task in labels and not looks.lost[place] else ()
        why = "people gave another label" if said else "nobody could say"
        yield {
            "task_id": task,
            "filename": printable(task_filename(tasks[task])) if task in tasks else None,
            "model": standing.acceptance.classes[kept.labels[place]],
            "people": ", ".join(said) or None,
            "why": "the task is gone, or its image is another one or cannot be read" if looks.lost[place] else why,
        }


def _rare(standing: Standing, each: ClassAudit) -> Json:
    own = standing.accepted & (standing.frozen.labels == each.number)
    allowed = most_wrong(2 * standing.acceptance.error, each.labels)
    words = f"at most {allowed} of its labels are wrong" if each.more == 0 else "left to people"
    return {
        "label": standing.acceptance.classes[each.number],
        "labels": each.labels,
        "looked_at": each.looks,
        "wrong": each.wrong,
        "vouched_for": each.more == 0,
        "accepted_unseen": int(own.sum()),
        "in_words": words,
    }


def _by_annotator(labels: Iterable[Label]) -> dict[str, int]:
    """User id in Label Studio -> labels of the model that they looked at."""
    return {
        str(who): count for who, count in sorted(Counter(who for label in labels for who in label.annotators).items())
    }

"""May a new version be served? Not where it is worse than the one in service, nor than one of the last ten.

Two versions are compared task by task, on answers that neither had seen: the measured tasks, each by the heads of its folds
(`learning.fold_heads`), and the other labels that both learned from, each by its own folds. A version of another encoder is asked
in vectors of its own, or by what it said when it was measured. Labels that came later are no fair question to an earlier version: it chose most of
them itself, as those that it was least sure of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import InvalidInputError, NotFoundError, OtherLabelsError
from ml_backend.learning.evaluation import significantly_worse
from ml_backend.learning.fold_heads import FoldHeads
from ml_backend.learning.held_out_answers import HeldOutAnswers
from ml_backend.learning.record import Record, digests
from ml_backend.predictor import Predictor
from ml_backend.settings import Settings
from ml_backend.steps.corpus import Corpus, Examples
from ml_backend.steps.encode_images import places
from ml_backend.store.model_versions import LAST, Versions
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore
from ml_backend.store.version import PASSED, Version
from ml_backend.store.version_meta import FROM_NAMES

Pair = tuple[NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True)
class Answers:
    """A version's answers to what it had not seen. tasks, right: (m,) measured tasks. record: of what it learned from."""

    tasks: NDArray[np.int64]
    right: NDArray[np.bool_]
    record: Record | None


def answers_of(
    corpus: Corpus, held_out: Examples, probabilities: NDArray[np.float32], record: Record | None
) -> Answers:
    """A model's answers. probabilities: (n, C) of the held-out examples, by what has not seen them."""
    return Answers(corpus.rows.ids[held_out.tasks], held_out.right(probabilities), record)


def record_of(
    corpus: Corpus, learned: Examples, right: NDArray[np.bool_], apart: NDArray[np.bool_] | None = None
) -> Record:
    """right: (n,) on each row by folds, or empty. apart: (n,) those that are held out."""
    return Record.of(corpus.images(learned), digests(learned.targets, corpus.classes), right, apart)


def is_foreign_import(version: Version) -> bool:
    """Whether it came from elsewhere, so that it has seen none of the project's labels."""
    return version.meta.mode == "import" and not version.meta.knows_labels


@dataclass(frozen=True)
class Promotion:
    """Decides whether a version may be served."""

    versions: Versions
    predictor: Predictor
    features: FeatureStore
    settings: Settings

    def refusal(self, project: Project, corpus: Corpus, candidate: Answers, *, number: int | None = None) -> str | None:
        """Say why the candidate must not be served, None if it may. number: its own, if it is a version already.

        All comparisons together refuse an equally good candidate in `promotion_alpha` of cases at most: half of it is for the
        version in service, the rest is shared out among the others. An imported model is replaced only by one that is right
        at least as often: it has seen no label, so all of them measure it.
        """
        current = self.versions.current(project)
        stuck = self.predictor.current(project) is None
        former: list[tuple[Version, Answers]] = []
        for version in self._former(project, current, number):
            try:
                if stuck:  # then what could not be served either is no comparison: nothing would ever be
                    self.predictor.load(project, version.number)
                former.append((version, self.answers(project, corpus, version)))
            except (NotFoundError, InvalidInputError, OtherLabelsError):
                continue  # what cannot be asked is no comparison
        if not former:
            return None
        first, answers = former[0]
        if is_foreign_import(first) and current is not None and first.number == current.number:
            now, then = _compared(candidate, answers)
            return _sentence(first, candidate, answers) if now.sum() < then.sum() else None
        better = first_better(candidate, [known for _, known in former], self.settings.promotion_alpha)
        return None if better is None else _sentence(former[better][0], candidate, former[better][1])

    def answers(self, project: Project, corpus: Corpus, version: Version) -> Answers:
        """A stored version's answers. Raises NotFoundError, InvalidInputError or OtherLabelsError where it cannot be asked."""
        if not version.fits(project.schema):
            raise OtherLabelsError(f"{version.name} was trained for other labels than the project has now.")
        heads = self.predictor.fold_heads(project, version.number)
        record = known = Record.load(self.versions.folder(version))
        if is_foreign_import(version):
            learned = corpus.unseen(known, self._in_own_vectors(version, corpus, corpus.examples(held_out=False)))
            record = record_of(corpus, learned, learned.right(_asked(heads, corpus, learned)))
        held_out = self._in_own_vectors(version, corpus, corpus.examples(held_out=True))
        fair = corpus.unseen(known, held_out, heads)
        asked = answers_of(corpus, fair, _asked(heads, corpus, fair), record)
        return asked if version.meta.encoder.id == corpus.encoder.id else _and_recorded(asked, corpus, version)

    def _former(self, project: Project, current: Version | None, number: int | None) -> Sequence[Version]:
        """The version in service, then the newest others that were good enough; ten in all, since ten small losses add up.

        number: of the candidate, which is no comparison; nor is what guesses from names, which nobody has measured.
        """
        passed = [v for v in self.versions.list(project, states=PASSED, limit=LAST + 3) if v.meta.mode != FROM_NAMES]
        others = [v for v in passed if v.number != number and (current is None or v.number != current.number)]
        unmeasured = current is None or current.number == number or current.meta.mode == FROM_NAMES
        first = [] if current is None or unmeasured else [current]
        return [*first, *others[: LAST - len(first)]]

    def _in_own_vectors(self, version: Version, corpus: Corpus, examples: Examples) -> Examples:
        """The examples in vectors of the version's own encoder; those without one are left out."""
        encoder_id = version.meta.encoder.id
        if encoder_id == corpus.encoder.id or not len(examples.tasks):
            return examples
        at = places(self.features, encoder_id, corpus.rows.hashes[examples.tasks])
        there = np.flatnonzero(at >= 0)
        if not len(there):
            return Examples(examples.features[:0], examples.targets[:0], examples.tasks[:0])
        vectors = self.features.matrix(encoder_id)[at[there]]
        return Examples(vectors, examples.targets[there], examples.tasks[there])


def _and_recorded(asked: Answers, corpus: Corpus, version: Version) -> Answers:
    """With what it said when it was measured, of images that have no vector of its encoder any more, by the labels of now."""
    recorded = HeldOutAnswers.load(version.folder)
    if recorded is None:
        return asked
    measured = corpus.examples(held_out=True)
    ids = corpus.rows.ids[measured.tasks]
    _, now, then = np.intersect1d(ids, recorded.tasks, return_indices=True)
    left = ~np.isin(ids[now], asked.tasks)
    now, then = now[left], then[left]
    targets = measured.targets[now]
    truth = targets if targets.ndim == 2 else np.eye(len(corpus.classes), dtype=np.bool_)[targets]
    order = [corpus.classes.index(name) for name in version.meta.classes or corpus.classes]
    right = (recorded.said[then] == truth[:, order]).all(axis=1)
    return replace(asked, tasks=np.concatenate([asked.tasks, ids[now]]), right=np.concatenate([asked.right, right]))


def _asked(heads: FoldHeads, corpus: Corpus, examples: Examples) -> NDArray[np.float32]:
    return heads.predict_proba(examples.features, corpus.images(examples))


def first_better(candidate: Answers, former: Sequence[Answers], alpha: float) -> int | None:
    """Place of the first former version, the one in service leading, that is significantly better; None where none is."""
    others = len(former) - 1
    for place, known in enumerate(former):
        share = 1.0 if not others else 0.5 / (1 if place == 0 else others)
        if significantly_worse(*_compared(candidate, known), alpha=alpha * share):
            return place
    return None


def _compared(first: Answers, second: Answers) -> Pair:
    """Whether each was right, on all that both answered without having seen it."""
    both = zip(_measured(first, second), _learned(first, second), strict=True)
    mine, theirs = (np.concatenate(parts) for parts in both)
    return mine, theirs


def _measured(first: Answers, second: Answers) -> Pair:
    _, mine, theirs = np.intersect1d(first.tasks, second.tasks, assume_unique=True, return_indices=True)
    return first.right[mine], second.right[theirs]


def _learned(first: Answers, second: Answers) -> Pair:
    if first.record is None or second.record is None:
        return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
    return first.record.shared(second.record)


def _sentence(version: Version, candidate: Answers, former: Answers) -> str:
    def parts() -> Iterator[str]:
        for (now, then), what in (
            (_measured(candidate, former), "held-out tasks right"),
            (_learned(candidate, former), "training labels right when asked by folds"),
        ):
            if len(now):
                yield f"{now.sum()} of {len(now)} {what}, {version.name} has {then.sum()}"

    return "; ".join(parts())

"""The map of a project: where each image lies on a plane, and what is known and thought of it, as small arrays.

Of held-out tasks no guess is in it at all. While an audit is on nobody is shown one of any task: `shows_guesses` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import NotFoundError
from ml_backend.learning.projection import SAMPLE, SMALLEST, Method, Plane, main_directions, neighbourhoods
from ml_backend.predictor import Predictor
from ml_backend.settings import Settings
from ml_backend.store.acceptances import Acceptances
from ml_backend.store.database import Database
from ml_backend.store.ledger import Ledger
from ml_backend.store.map_files import Layout, MapFiles
from ml_backend.store.map_points import UNSURE, PointFiles, Points
from ml_backend.store.map_rows import MEASURES, NOBODY, NONE, TO_MEASURE, map_rows
from ml_backend.store.model_versions import Versions
from ml_backend.store.projects import Project
from ml_backend.store.vectors import FeatureStore, read_rows

if TYPE_CHECKING:
    from ml_backend.learning.head import Head

GROWN = 0.2
"""Share of images that came since the layout was made, from which on t-SNE lays them out anew."""
LARGE, SKETCHED = 150_000, 30_000
"""Of so many images or more a sketch is made first, of so many of them."""
ASKED = 50
"""Images by which it is found out which encoder has read the project, before there is a model."""


@dataclass(frozen=True)
class Atlas:
    """Makes the maps of projects. Seconds for a million images; memory in proportion to the tasks, not to their vectors."""

    database: Database
    ledger: Ledger
    versions: Versions
    features: FeatureStore
    predictor: Predictor
    acceptances: Acceptances
    files: MapFiles
    kept: PointFiles
    settings: Settings

    def basis(self, project: Project) -> tuple[object, ...]:
        """What a map is of: where it is another one, `points` gives another map."""
        encoder, served = self.encoder_id(project), self.versions.current(project)
        return (
            project.reconciled_at,
            project.label_config,
            project.reserved_share,
            encoder,
            served.number if served else 0,
            len(self.features.matrix(encoder)) if encoder else 0,
            self.files.stamp(project.id),
        )

    def encoder_id(self, project: Project) -> str | None:
        """Whose vectors the map is made of: those of the version that answers, or of what has read the images so far."""
        if (served := self.versions.current(project)) is not None:
            return served.meta.encoder.id
        some = []
        for _, digest in self.ledger.images(project):
            some += [digest] if digest else []
            if len(some) >= ASKED:
                break
        return self.features.encoder_of(some)

    def last(self, project: Project) -> Points | None:
        """The map as somebody last had it made, before a restart too; None where it fits no more."""
        if (encoder_id := self.encoder_id(project)) is None:
            return None
        return self.kept.read(project.id, encoder_id, len(self.features.matrix(encoder_id)))

    def points(self, project: Project) -> Points:
        """Everything; the last map is this one from then on. Raises NotFoundError, with what to do, where no image was read yet."""
        made = self._made(project)
        self.kept.write(project.id, made)
        return made

    def sketch(self, project: Project) -> Points | None:
        """A map of some images, drawn at random, to look at while that of all is made; None where that takes no time, or cannot be."""
        encoder_id = self.encoder_id(project)
        size = len(self.features.matrix(encoder_id)) if encoder_id else 0
        if size < LARGE:
            return None
        try:
            return self._made(project, SKETCHED / size)
        except NotFoundError:
            return None

    def _made(self, project: Project, share: float = 1.0) -> Points:
        encoder_id = self.encoder_id(project)
        if encoder_id is None:
            raise NotFoundError(_nothing_read(project))
        ids, rows, label, kind, annotator, missing = self._rows(project, encoder_id, share)
        if not len(ids):
            raise NotFoundError(_nothing_read(project))
        method, places = self._laid_out(project, encoder_id, ids, rows, keeps=share == 1)
        guess, doubt, version = self._guesses(project, encoder_id, rows, kind)
        order = np.random.default_rng(project.id).permutation(len(ids))
        people, whose = np.unique(annotator, return_inverse=True)
        whose = np.where(annotator == NOBODY, NONE, whose).astype(np.uint16)
        return Points(
            project.schema.labels, tuple(people.tolist()), encoder_id, method, version, missing, project.reserved_share,
            ids[order], rows[order], places[order], label[order], guess[order], doubt[order], kind[order],
            whose[order], np.argsort(ids[order]),
        )  # fmt: skip

    def shows_guesses(self, project: Project) -> bool:
        """Whether anybody may be shown what the model takes any image of the project for."""
        return (
            not self.acceptances.is_blind(project) and self.settings.prelabels != "never" and project.state.overlap <= 1
        )

    # -- where each lies ----------------------------------------------------------------------------------------------

    def outdated(self, project: Project) -> bool:
        """Whether t-SNE is to lay the project out anew: by another encoder, or because many images came."""
        encoder_id = self.encoder_id(project)
        if encoder_id is None:
            return False
        layout = self.files.read(project.id, encoder_id)
        size = self.ledger.size(project)
        if layout is None or layout.plane.method != "t-sne":
            return size >= SMALLEST
        return size > (1 + GROWN) * layout.size

    def lay_out(self, project: Project) -> bool:
        """Have t-SNE lay out a sample, put the others beside their likes, and keep that; takes minutes. False: too few images."""
        encoder_id = self.encoder_id(project)
        if encoder_id is None:
            return False
        ids, rows, *_ = self._rows(project, encoder_id)
        if len(ids) < SMALLEST:
            return False
        matrix = self.features.matrix(encoder_id)
        plane = neighbourhoods(_sample(matrix, rows, SAMPLE["t-sne"]), seed=project.id % 2**31)
        self.files.write(
            project.id, Layout(encoder_id, plane, ids, rows, _placed(plane, matrix, rows), self.ledger.size(project))
        )
        return True

    def _laid_out(
        self, project: Project, encoder_id: str, ids: NDArray[np.int64], rows: NDArray[np.int64], *, keeps: bool
    ) -> tuple[Method, NDArray[np.uint16]]:
        """Where these tasks lie, (n, 2): each where it was; those that came since where the layout puts them. keeps: for the next time."""
        matrix, layout = self.features.matrix(encoder_id), self.files.read(project.id, encoder_id)
        if layout is None or not _fits(layout.plane, matrix):
            plane = main_directions(_sample(matrix, rows, SAMPLE["pca"]))
            places = _placed(plane, matrix, rows)
            if keeps and self.files.read(project.id, encoder_id) is None:
                self.files.write(project.id, Layout(encoder_id, plane, ids, rows, places, self.ledger.size(project)))
            return plane.method, places
        here, places = layout.known(ids, rows)
        places[~here] = _placed(layout.plane, matrix, rows[~here])
        return layout.plane.method, places

    # -- what is known and thought of each ----------------------------------------------------------------------------

    def _rows(self, project: Project, encoder_id: str, share: float = 1.0) -> tuple[Any, ...]:
        """ids, rows, label, kind, annotator of the tasks that have a vector, by ascending id; and how many have none."""
        parts, missing = [], 0
        for part in map_rows(self.database, project, share=share):
            at = np.full(len(part.ids), -1, np.int64)
            known = [place for place, digest in enumerate(part.hashes) if digest]
            at[known] = self.features.rows(encoder_id, [part.hashes[place] for place in known])
            there = at >= 0
            missing += int((~there).sum())
            parts.append((part.ids[there], at[there], part.label[there], part.kind[there], part.annotator[there]))
        if not parts:
            return *(np.zeros(0, kind) for kind in (np.int64, np.int64, np.uint16, np.uint8, np.int64)), 0
        return *(np.concatenate(columns) for columns in zip(*parts, strict=True)), missing

    def _guesses(
        self, project: Project, encoder_id: str, rows: NDArray[np.int64], kind: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint8], int]:
        """(n,) guess, (n,) doubt, and the version; none of what is held out."""
        guess, doubt = np.full(len(rows), NONE, np.uint16), np.full(len(rows), UNSURE, np.uint8)
        model = self.predictor.current(project)
        if model is None or model.encoder.id != encoder_id:
            return guess, doubt, 0
        shown = np.flatnonzero((kind != MEASURES) & (kind != TO_MEASURE))
        for places, vectors in read_rows(self.features.matrix(encoder_id), rows[shown]):
            guess[shown[places]], doubt[shown[places]] = _believed(model.head, vectors)
        return guess, doubt, model.number


def _believed(head: Head, vectors: NDArray[np.float16]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The likeliest class of each vector, and how doubtful what the model says of it is, in hundredths."""
    from ml_backend.learning.evaluation import confidences  # noqa: PLC0415 - scipy

    probabilities = head.predict_proba(vectors)
    sure = confidences(probabilities, multilabel=head.multilabel)
    return probabilities.argmax(axis=1).astype(np.uint16), np.rint(100 * (1 - sure)).astype(np.uint8)


def _sample(matrix: NDArray[np.float16], rows: NDArray[np.int64], most: int) -> NDArray[np.float16]:
    """Up to so many of the rows, drawn at random, the same each time."""
    chosen = np.random.default_rng(0).choice(rows, most, replace=False) if len(rows) > most else rows
    found = np.empty((len(chosen), matrix.shape[1]), np.float16)
    for places, vectors in read_rows(matrix, chosen):
        found[places] = vectors
    return found


def _placed(plane: Plane, matrix: NDArray[np.float16], rows: NDArray[np.int64]) -> NDArray[np.uint16]:
    places = np.zeros((len(rows), 2), np.uint16)
    for which, vectors in read_rows(matrix, rows):
        places[which] = plane.places(vectors)
    return places


def _fits(plane: Plane, matrix: NDArray[np.float16]) -> bool:
    width = plane.about["mean"].shape[0] if plane.method == "pca" else plane.about["sample"].shape[1]
    return bool(width == matrix.shape[1])


def _nothing_read(project: Project) -> str:
    return f"No image of {project.title!r} was read yet, so there is nothing to put on a map: import images, or wait for the first turn."

"""What a project remembers from one turn to the next: the JSON in the column `projects.settings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from ml_backend.store.json_record import JsonRecord


class Advice(JsonRecord):
    """What the labels so far advise.

    version: the last that was compared, and is compared with. latest: the last that was looked at. kappa: agreement of each
    version that was compared with the one before it, the oldest first.
    """

    version: int
    latest: int = 0
    kappa: Sequence[float] = ()
    stop: bool = False
    stopping: str = ""


class Guessed(JsonRecord):
    """What a version takes the images without a label for, when it was new.

    waiting: how many there were. asked: of how many it was asked, drawn at random where that is fewer. counts: by class, of
    those asked; with several labels an image may count in many.
    """

    version: int
    waiting: int
    asked: int
    counts: dict[str, int]


class ServingEncoder(JsonRecord):
    """The encoder whose vectors are trained on. choice: of the settings it was built for. id: of its vectors."""

    choice: str
    name: str
    id: str


class NextEncoder(JsonRecord):
    """The encoder that was set since, and that serves once it has a vector of every image that has one now.

    choice, name: as it was set. id: of its vectors, "" before it was built. done, total: images.
    problem: why that does not get on.
    """

    choice: str
    name: str
    id: str = ""
    done: int = 0
    total: int = 0
    problem: str | None = None


class WebhookState(JsonRecord):
    """What was found when the webhook was last looked at, and what was last repaired."""

    checked_at: str
    problem: str | None = None
    repaired: Sequence[str] = ()
    repaired_at: str = ""


class Replaced(JsonRecord):
    """The number that the project had in Label Studio until another got it, and when."""

    number: int
    at: str


class AskedAct(JsonRecord):
    """What somebody asked for on a page, and what came of it.

    what: its name. by, person: the account whose token it was, and what that person is called. process: the one that is at it,
    "" once it is over. said: what came of it, or the error. Others: what it was asked for with, where it takes that.
    """

    what: str
    by: str
    person: str
    at: str
    process: str = ""
    said: str = ""
    failed: bool = False
    certificate: str | None = None
    error: float | None = None
    confidence: float | None = None


class ChosenSettings(JsonRecord):
    """What was chosen for one project, in place of the setting of the same name. None: as the service is set."""

    strategy: str | None = None
    batch_size: int | None = None
    train_after_labels: int | None = None
    train_after_seconds: float | None = None

    def changed(self, **changes: Any) -> Self:
        """With these; None goes back to the service's."""
        return type(self)(**{name: value for name, value in {**self.as_json(), **changes}.items() if value is not None})


class ProjectState(JsonRecord):
    """Times are in ISO format.

    choices, image: which of them was selected to be learned; None where there is but one.
    created: when Label Studio made the project, in seconds; None where it does not say.
    overlap: how many annotators each task is for.
    split_seed: the key by which images get their place in the split: ML_BACKEND_SEED when the project was first seen.
    reserved_share: images at a place below this are held out, as of the last turn; None before the first.
    gone: since when Label Studio has no such project; True in older stores.
    another_store: why the project may not be touched: another store has it.
    images_waiting: why images are not read: their hosts are away.
    imported: the version that training started from.
    names_problem: why the names of the classes give no guesses, though the encoder reads text.
    encoder: what its vectors are made by. next_encoder: what they are to be made by, while that is on its way.
    guessed: what the last version takes the images without a label for.
    all_tasks_tab: whether it has had a tab of all tasks.
    superseded: the queue in service ("by"), and since when former ones are not ("since").
    replaced: set on a project whose number in Label Studio another one has by now.
    fields: what the fields are called that this service writes into the tasks' data, while there may be any.
    relabelling: a label's old and its new name, while its answers get the new one.
    act: what was last asked for on the page for accepting the rest.
    chosen: its own settings, and paused: since when nothing is trained; both are changed by `store.tuning` alone.
    map: since when somebody wants to see the project on a map.
    """

    choices: str | None = None
    image: str | None = None
    created: int | None = None
    overlap: int = 1
    split_seed: int = 0
    reserved_share: float | None = None
    gone: str | bool | None = None
    another_store: str | None = None
    images_waiting: str | None = None
    imported: int | None = None
    names_problem: str | None = None
    encoder: ServingEncoder | None = None
    next_encoder: NextEncoder | None = None
    all_tasks_tab: bool = False
    superseded: dict[str, Any] | None = None
    advice: Advice | None = None
    guessed: Guessed | None = None
    webhook: WebhookState | None = None
    replaced: Replaced | None = None
    fields: Sequence[str] | None = None
    relabelling: Sequence[str] | None = None
    act: AskedAct | None = None
    chosen: ChosenSettings = ChosenSettings()
    paused: str | None = None
    map: str | None = None

    def changed(self, **changes: Any) -> Self:
        """The state with these fields; None takes one away. Raises TypeError for a name that is none of a field."""
        if unknown := changes.keys() - type(self).model_fields.keys():
            raise TypeError(f"A project's state has no {', '.join(sorted(unknown))}.")
        changed = {**self.as_json(), **changes}
        return self.model_validate({name: value for name, value in changed.items() if value is not None})

    def successor(self, created: int) -> ProjectState:
        """The state of the project that takes this one's number: what was selected comes before it is noticed."""
        kept = self.model_dump(include={"choices", "image", "split_seed"}, exclude_unset=True)
        return ProjectState.model_validate({**kept, "created": created})

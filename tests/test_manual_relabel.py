"""What is refused before a label is renamed, and what is said where it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from ml_backend.errors import (
    ConflictError,
    InvalidInputError,
    LabelStudioError,
    LabelStudioUnavailableError,
    NotFoundError,
)
from ml_backend.hosts import Hosts
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.transport import Transport
from ml_backend.manual_relabel import Relabeller
from ml_backend.services import Services
from ml_backend.steps.sync_labels import LabelSync
from ml_backend.store.projects import Project

HOST = "http://label-studio"
CONFIG = '<View><Image name="image" value="$image"/><Choices name="kind" toName="image">{}</Choices></View>'.format(
    "".join(f'<Choice value="{name}"/>' for name in ("cat", "dog", "Owl")) + '<Choice value="Red fox" alias="fox"/>'
)


@dataclass
class Studio(LabelStudio):
    """A project with predictions and no answers; `refusal` is what a change of a prediction comes to."""

    config: str = CONFIG
    predictions: dict[int, list[str]] = field(default_factory=dict)
    refusal: Exception | None = None

    def __post_init__(self) -> None:
        self.transport = cast("Transport", self)

    def call(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        """A cat is still counted, and not every Label Studio counts anew."""
        if method == "POST":
            assert path == "/api/projects/1/summary/reset/"
            raise NotFoundError("There is no such page.")
        return {"created_labels": {"kind": {"cat": 1}}, "created_labels_drafts": None}

    def get_project(self, project_id: int) -> dict[str, Any]:
        return {"id": project_id, "label_config": self.config}

    def update_project(self, project_id: int, **fields: Any) -> None:
        self.config = fields["label_config"]

    def listing(self, project_id: int, include: str, query: Any, **_: Any) -> dict[str, Any]:
        if include != "id,predictions":
            return {"tasks": []}
        given = [
            {"id": number, "result": [{"from_name": "kind", "type": "choices", "value": {"choices": names}}]}
            for number, names in self.predictions.items()
        ]
        return {"tasks": [{"id": 1, "predictions": given}]}

    def update_prediction(self, prediction_id: int, **fields: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.predictions[prediction_id] = fields["result"][0]["value"]["choices"]


@dataclass
class Bench:
    services: Services
    studio: Studio

    @property
    def project(self) -> Project:
        return self.services.registry.register(HOST, 1, self.studio.config, created=1)

    @property
    def relabeller(self) -> Relabeller:
        @dataclass
        class Synced:
            registry: Any
            sync: Callable[..., Any]

        @dataclass
        class OneHost:
            client: Callable[[str], LabelStudio]

        synced = Synced(self.services.registry, lambda *_, **__: (self.project, None))
        return Relabeller(
            cast("Hosts", OneHost(lambda _: self.studio)),
            self.services.ledger,
            self.services.jobs,
            cast("LabelSync", synced),
        )

    def relabel(self, old: str, new: str) -> int:
        project, plan = self.relabeller.plan(self.project, old, new)
        return self.relabeller.run(project, plan)[1]


@pytest.fixture
def bench(services: Services) -> Bench:
    return Bench(services, Studio())


def begun(bench: Bench) -> Sequence[str] | None:
    return bench.project.state.relabelling


ALL = "The labels are 'cat', 'dog', 'Owl', 'fox'."


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cat", "cat", "'cat' is the same name twice: give the label and its new name."),
        ("owl", "eagle", f"No label is called 'owl', and no answer has it. Do you mean 'Owl'? {ALL}"),
        ("cta", "lynx", f"No label is called 'cta', and no answer has it. Do you mean 'cat'? {ALL}"),
        ("horse", "lynx", f"No label is called 'horse', and no answer has it. {ALL}"),
        ("Red fox", "lynx", "'Red fox' is how the label 'fox' is shown: use 'fox'."),
        ("cat", "Red fox", "'Red fox' is how the label 'fox' is shown: use 'fox'."),
        ("cat", " ", "' ' cannot be a label: a label has a letter or a sign, and no blank at its ends."),
        ("cat", "lynx ", "'lynx ' cannot be a label: a label has a letter or a sign, and no blank at its ends."),
        ("cat", "a\nb", "'a\\nb' cannot be a label: '\\n' has no place in a label config."),
        ("cat", "\ud800", "'\\ud800' cannot be a label: '\\ud800' has no place in a label config."),
        ("cat", "$kind", "'$kind' cannot be a label: Label Studio replaces a $ and what follows it with task data. Remove the $."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_way_out(bench: Bench, old: str, new: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        bench.relabeller.plan(bench.project, old, new)
    assert str(refused.value) == said
    assert bench.studio.config == CONFIG


def test_the_last_two_labels_are_not_merged(bench: Bench) -> None:
    bench.studio.config = CONFIG.replace('<Choice value="Owl"/><Choice value="Red fox" alias="fox"/>', "")
    with pytest.raises(InvalidInputError, match="the only labels: merged, there is nothing to tell apart"):
        bench.relabel("cat", "dog")
    assert bench.relabel("cat", "Cat") == 0, "names that differ in case are names"


def test_old_answers_go_nowhere_without_a_label_to_go_to(bench: Bench) -> None:
    bench.studio.predictions = {5: ["horse"]}
    with pytest.raises(
        InvalidInputError, match=r"Neither 'horse' nor 'pony' is in the label config.*choose one of 'cat'"
    ):
        bench.relabel("horse", "pony")
    assert bench.relabel("horse", "cat") == 1
    assert (bench.studio.predictions, bench.studio.config) == ({5: ["cat"]}, CONFIG)


@pytest.mark.parametrize("kind", [LabelStudioError, LabelStudioUnavailableError])
def test_refused_or_left_alone_in_the_middle_the_same_command_goes_on(
    bench: Bench, kind: type[LabelStudioError]
) -> None:
    bench.studio.predictions = {5: ["cat"], 6: ["dog"]}
    bench.studio.refusal = kind("It did not work.")
    with pytest.raises(kind, match=r"did not work\. Nothing is lost, and 0 of 1 are done: run the same command again"):
        bench.relabel("cat", "lynx")
    assert '<Choice value="cat"/><Choice value="lynx"/>' in bench.studio.config, "both, as long as one is left"
    assert begun(bench) == ["cat", "lynx"]
    bench.studio.refusal = None
    assert bench.relabel("cat", "lynx") == 1
    assert bench.studio.predictions == {5: ["lynx"], 6: ["dog"]}
    assert bench.studio.config == CONFIG.replace('"cat"', '"lynx"')
    assert begun(bench) is None
    due = bench.services.jobs.status(bench.project).due
    assert due is not None


def test_without_a_place_for_the_new_name_no_answer_gets_it(bench: Bench) -> None:
    bench.studio.predictions = {5: ["cat"]}
    project, plan = bench.relabeller.plan(bench.project, "cat", "lynx")
    bench.studio.config = CONFIG.replace('<Choice value="cat"/>', "")
    with pytest.raises(ConflictError, match="changed at the same time"):
        bench.relabeller.run(project, plan)
    assert bench.studio.predictions == {5: ["cat"]}


def test_killed_before_it_could_say_so_it_ends_all_the_same(bench: Bench) -> None:
    bench.studio.config = CONFIG.replace('"cat"', '"lynx"')
    bench.services.ledger.configure(bench.project, relabelling=["cat", "lynx"])
    assert bench.relabel("cat", "lynx") == 0
    assert bench.project.state.relabelling is None
    with pytest.raises(InvalidInputError, match="No label is called 'cat'"):
        bench.relabel("cat", "lynx")

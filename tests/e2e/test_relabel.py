"""A label gets another name in a real Label Studio, and whoever answered did so still."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli
from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.hosts import created_at
from ml_backend.labelstudio import relabelling
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.relabelling import Relabelling
from ml_backend.labelstudio.results import prediction_result
from ml_backend.labelstudio.transport import Transport
from ml_backend.manual_relabel import Relabeller
from ml_backend.records import LabelSchema, Selection
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.jobs import Jobs
from ml_backend.store.ledger import Ledger
from ml_backend.store.projects import Project
from tests.e2e.dying import KilledError
from tests.e2e.stack import inline, tell_commands

CONFIG = """<View>
  <!-- 'cat' stays here -->
  <Image name="image" value="$image"/>
  <Choices name="kind"   toName="image">
    <Choice value="cat"   hotkey='1' hint="meows"/> <!-- furry -->
    <Choice value="dog"/>
    <Choice value="owl"/>
  </Choices>
  <View visibleWhen="choice-selected" whenTagName="kind" whenChoiceValue="cat,owl">
    <Header value="cat or owl"/>
  </View>
  <Choices name="mood" toName="image"><Choice value="cat"/><Choice value="calm"/></Choices>
  <RectangleLabels name="box" toName="image"><Label value="cat"/><Label value="ear"/></RectangleLabels>
  <TextArea name="guess" toName="image"/>
</View>"""
TASKS = 12


def kind(*labels: str, name: str = "kind") -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": list(labels)}, "id": name}


BOX = {
    "id": "box1", "from_name": "box", "to_name": "image", "type": "rectanglelabels", "original_width": 100,
    "original_height": 100, "image_rotation": 0,
    "value": {"x": 0.1, "y": 12.25, "width": 1e-7, "height": 33.333333333333336, "rotation": 0, "rectanglelabels": ["cat"]},
}  # fmt: skip
NOTE = {"id": "n", "from_name": "guess", "to_name": "image", "type": "textarea", "value": {"text": ["a cat, 97% sure"]}}
BESIDE = [kind("cat", name="mood"), BOX, NOTE]


@dataclass
class Mortal:
    """A process that is killed right after so many steps, 0 for never; no `finally` does anything after that."""

    left: int = 0
    lives: bool = True

    def start(self, steps: int) -> None:
        self.left, self.lives = steps, True

    def step(self, real: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            if not self.lives:
                raise KilledError
            result = real(*args, **kwargs)
            if counts(*args):
                self.left -= 1
                self.lives = self.left != 0
                if not self.lives:
                    raise KilledError
            return result

        return act


@dataclass
class Case:
    """A project that a store knows, and what its people have answered."""

    client: LabelStudio
    people: list[LabelStudio]
    number: int
    tasks: list[int]
    settings: Settings
    capture: pytest.CaptureFixture[str]
    late: list[int] = field(default_factory=list)

    def relabel(self, *arguments: str) -> tuple[int, Any, str]:
        self.capture.readouterr()
        code = cli.main(["relabel", *arguments, "--project", str(self.number), "--json"])
        said = self.capture.readouterr()
        return code, json.loads(said.out), said.err

    def config(self) -> str:
        return str(self.client.get_project(self.number)["label_config"])

    def answers(self) -> dict[int, dict[str, Any]]:
        return {a["id"]: a for task in self.tasks for a in self.client.task(task)["annotations"]}

    def drafts(self, task: int) -> list[dict[str, Any]]:
        return list(self.client.transport.call("GET", f"/api/tasks/{task}/drafts"))

    def draft(self, by: LabelStudio, task: int, result: list[Any], annotation: int | None = None) -> int:
        path = f"/api/tasks/{task}/annotations/{annotation}/drafts" if annotation else f"/api/tasks/{task}/drafts"
        return int(by.transport.call("POST", path, json={"result": result, "lead_time": 1.0})["id"])

    def known(self) -> tuple[Services, Project]:
        services = Services.open(self.settings)
        return services, next(p for p in services.ledger.projects() if p.key.project_id == self.number)

    def ledger(self) -> tuple[dict[int, tuple[tuple[str, ...], tuple[int, ...]]], Any]:
        """Task -> labels and who gave them; and the counts."""
        services, project = self.known()
        labels = {label.task_id: (label.labels, label.annotators) for label in services.ledger.labels(project)}
        counts = services.ledger.counts(project)
        services.database.close()
        return labels, counts


@pytest.fixture
def case(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    three_users: list[LabelStudio],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Case]:
    environment = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "ML_BACKEND_DATA_DIR": str(tmp_path / "backend"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def make(config: str = CONFIG) -> Case:
        number = int(client.create_project("relabel", config)["id"])
        client.import_tasks(number, [{"image": f"/data/local-files/?d={i}.png"} for i in range(TASKS)])
        services = Services.open(Settings.from_environ(environment))
        remote = client.get_project(number)
        project = services.registry.register(
            label_studio.url, number, config, created=created_at(remote), selection=Selection("kind", "image")
        )
        tasks = [task.id for task in client.tasks(number, schema=project.schema)]
        services.label_sync.sync(project, full=True)
        services.database.close()
        return Case(client, three_users, number, tasks, services.settings, capsys)

    return make


def answered(case: Case) -> None:
    """Every kind of answer: by three people, with conflicts, skips, drafts of others, predictions."""
    ann, bob, eve = case.people
    one, two, three, four, five, six, seven, *_ = case.tasks
    ann.create_annotation(one, [kind("cat"), *copy.deepcopy(BESIDE)])
    ann.create_annotation(two, [kind("cat")])
    bob.create_annotation(two, [kind("dog")])
    ann.create_annotation(three, [kind("owl")])
    bob.transport.call("POST", f"/api/tasks/{four}/annotations/", json={"result": [kind("cat")], "was_cancelled": True})
    given = ann.create_annotation(five, [kind("cat")])
    case.draft(ann, five, [kind("owl"), *copy.deepcopy(BESIDE)], given["id"])
    case.draft(eve, six, [kind("cat"), *copy.deepcopy(BESIDE)])
    ours = prediction_result(schema_of(case), ["cat"], 0.875)
    case.client.import_predictions(
        case.number, [{"task": seven, "result": ours, "score": 1e-7, "model_version": "v1-r1"}]
    )


def schema_of(case: Case) -> LabelSchema:
    services, project = case.known()
    services.database.close()
    return project.schema


def choices(result: list[dict[str, Any]], name: str = "kind") -> list[str]:
    """What is chosen there; nothing where a held-out task has no guess."""
    return next((list(item["value"]["choices"]) for item in result if item["from_name"] == name), [])


@pytest.mark.parametrize(("new", "conflicts"), [("a \"fat\" <cat> & 'co'", 1), ("dog", 0)], ids=["rename", "merge"])
def test_every_answer_gets_the_new_name_and_nothing_else_changes(
    case: Callable[..., Case], new: str, conflicts: int
) -> None:
    made = case()
    answered(made)
    before, config, drafts = made.answers(), made.config(), [made.drafts(task) for task in made.tasks]
    labels, _ = made.ledger()
    assert labels == {}, "not read yet"

    code, told, said = made.relabel("cat", new, "--dry-run")
    assert code == 0, said
    assert (told["annotations"], told["drafts"], told["predictions"], told["conflicts"]) == (4, 1, 1, 1)
    assert (made.answers(), made.config()) == (before, config)

    code, told, said = made.relabel("cat", new)
    assert code == 0, said
    assert (told["changed"], told["conflicts_now"]) == (6, conflicts)
    if new == "dog":
        left = config.replace('<Choice value="cat"   hotkey=\'1\' hint="meows"/>', "")
        assert made.config() == left.replace('"cat,owl"', '"dog,owl"')
    else:
        written = "\"a &quot;fat&quot; &lt;cat&gt; &amp; 'co'\""
        assert made.config() == config.replace('<Choice value="cat"   h', f"<Choice value={written}   h").replace(
            '"cat,owl"', f'"{written[1:-1]},owl"'
        )
    after = made.answers()
    assert after.keys() == before.keys()
    for number, was in before.items():
        now = after[number]
        for name in ("completed_by", "created_at", "was_cancelled", "ground_truth", "lead_time", "task"):
            assert now[name] == was[name], name
        assert choices(now["result"]) == [new if name == "cat" else name for name in choices(was["result"])]
        assert now["result"][1:] == was["result"][1:]
    for task, there in zip(made.tasks, drafts, strict=True):
        for name in ("id", "user", "annotation", "created_at", "was_postponed"):
            assert [draft[name] for draft in made.drafts(task)] == [draft[name] for draft in there]
    (draft,) = made.drafts(made.tasks[4])
    assert (draft["result"], draft["annotation"] in after) == ([kind("owl"), *BESIDE], True), "not yet submitted"
    (draft,) = made.drafts(made.tasks[5])
    assert draft["result"] == [kind(new), *BESIDE]
    schema = schema_of(made)
    (found,) = made.client.predictions_of(made.number, [made.tasks[6]])[made.tasks[6]]
    assert (found["result"], found["score"]) == (prediction_result(schema, [new], 0.875), 1e-7)
    ann, bob, _ = (person.whoami()["id"] for person in made.people)
    labels, counts = made.ledger()
    assert counts.quarantined == 0
    assert labels == {
        made.tasks[0]: ((new,), (ann,)),
        made.tasks[1]: (("dog",), (ann, bob)),
        made.tasks[2]: (("owl",), (ann,)),
        made.tasks[4]: ((new,), (ann,)),
    }
    summary = made.client.transport.call("GET", f"/api/projects/{made.number}/summary/")
    counted = [summary[name].get("kind", {}) for name in ("created_labels", "created_labels_drafts")]
    assert all("cat" not in names for names in counted), "the settings page would say that it is in use"


@pytest.mark.parametrize("everything", [False, True], ids=["each write", "any step"])
def test_killed_after_any_step_the_same_command_ends_as_if_it_had_not_been(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    """After each single request that changes something; and after the first, second, third, ... step of all."""
    made, process = case(), Mortal()
    answered(made)
    ann, bob, _ = (person.whoami()["id"] for person in made.people)
    before = made.answers()
    monkeypatch.setattr(relabelling, "WRITERS", 1)
    if everything:
        for owner, name in ((Ledger, "configure"), (Ledger, "reconcile"), (Jobs, "mark_due"), (Relabelling, "left")):
            monkeypatch.setattr(owner, name, process.step(getattr(owner, name)))
    monkeypatch.setattr(Transport, "call", process.step(Transport.call, lambda _self, method, *_: method != "GET"))
    for runs in range(1, 50):
        process.start(runs if everything else 1)
        try:
            code, _, said = made.relabel("cat", "lynx")
        except KilledError:
            process.start(0)
            whole(before, made.answers())
        else:
            break
    assert code == 0, said
    assert runs > 8
    labels, counts = made.ledger()
    assert (counts.quarantined, counts.conflicts) == (0, 1)
    assert labels[made.tasks[0]] == (("lynx",), (ann,))
    assert labels[made.tasks[1]] == (("dog",), (ann, bob))
    assert 'value="cat"   hotkey' not in made.config()
    assert made.config().count('value="lynx"') == 1
    assert [choices(a["result"]) for a in made.answers().values()].count(["lynx"]) == 4
    assert len(made.drafts(made.tasks[4])) == len(made.drafts(made.tasks[5])) == 1
    services, project = made.known()
    assert project.state.relabelling is None
    services.database.close()


def whole(before: dict[int, Any], now: dict[int, Any]) -> None:
    """Every answer is there, by who gave it, and has the old name or the new one."""
    assert {i: a["completed_by"] for i, a in now.items()} == {i: a["completed_by"] for i, a in before.items()}
    for number, was in before.items():
        allowed = ["cat", "lynx"] if choices(was["result"]) == ["cat"] else choices(was["result"])
        assert choices(now[number]["result"])[0] in allowed


def test_who_answers_with_the_old_name_in_between_is_heard_too(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = case()
    answered(made)
    bob = made.people[1]
    write, configure = Relabelling.write, Relabeller._configure

    def and_somebody_answers(self: Relabelling, left: Any, on_progress: Any) -> None:
        write(self, left, on_progress)
        if len(made.late) < 2:
            made.late.append(bob.create_annotation(made.tasks[7 + len(made.late)], [kind("cat")])["id"])

    def and_a_stale_page_is_submitted(self: Relabeller, project: Project, *given: Any) -> None:
        configure(self, project, *given)
        if (
            "lynx" in self.hosts.client(project.key.host).get_project(made.number)["label_config"]
            and len(made.late) == 2
        ):
            made.late.append(bob.create_annotation(made.tasks[9], [kind("cat")])["id"])

    monkeypatch.setattr(Relabelling, "write", and_somebody_answers)
    monkeypatch.setattr(Relabeller, "_configure", and_a_stale_page_is_submitted)
    code, told, said = made.relabel("cat", "lynx")
    assert code == 0, said
    assert (len(made.late), told["changed"]) == (3, 9)
    labels, counts = made.ledger()
    assert counts.quarantined == 0
    assert {labels[task] for task in made.tasks[7:10]} == {(("lynx",), (bob.whoami()["id"],))}


def test_a_submitted_stale_page_is_told_of_and_taken_in_by_the_same_command(case: Callable[..., Case]) -> None:
    made = case()
    answered(made)
    assert made.relabel("cat", "lynx")[0] == 0
    made.people[0].create_annotation(made.tasks[9], [kind("cat")])
    code, told, said = made.relabel("cat", "lynx")
    assert (code, told["changed"]) == (0, 1), said
    code, told, _ = made.relabel("cat", "lynx")
    assert code == 1
    assert told["error"] == "No label is called 'cat', and no answer has it. The labels are 'lynx', 'dog', 'owl'."


def test_of_several_choices_the_new_one_is_there_once(case: Callable[..., Case]) -> None:
    made = case(CONFIG.replace('<Choices name="kind"', '<Choices choice="multiple" name="kind"'))
    ann = made.people[0]
    ann.create_annotation(made.tasks[0], [kind("dog", "cat", "owl")])
    ann.create_annotation(made.tasks[1], [kind("cat", "owl")])
    code, told, said = made.relabel("cat", "dog")
    assert (code, told["changed"]) == (0, 2), said
    assert [choices(a["result"]) for a in made.answers().values()] == [["dog", "owl"], ["dog", "owl"]]
    labels, counts = made.ledger()
    assert {found[0] for found in labels.values()} == {("dog", "owl")}
    assert counts.conflicts == 0


def test_the_queue_in_service_is_renamed_and_the_next_turn_learns_the_new_name(
    label_studio: EmbeddedLabelStudio,
    client: LabelStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with inline(label_studio, client, tmp_path, tasks=60, prelabels="always") as stack:
        tell_commands(monkeypatch, label_studio, stack.settings.data_dir, ML_BACKEND_PRELABELS="always")

        def ask(*arguments: str) -> Any:
            capsys.readouterr()
            assert cli.main([*arguments, "--project", str(stack.project_id), "--json"]) == 0, capsys.readouterr()
            return json.loads(capsys.readouterr().out)

        def guessed() -> list[str]:
            rows = client.listing(stack.project_id, "id,predictions", {}, fields="all")["tasks"]
            return [
                name
                for row in rows
                for p in row["predictions"]
                for name in choices(p["result"], stack.schema.from_name)
            ]

        stack.turn()
        for _ in range(16):
            stack.label_next()
        assert ask("sync", "run")["version"] == 1
        before = guessed()
        commonest = max(set(before), key=before.count)
        told = ask("relabel", commonest, "the new name")
        assert told["predictions"] == before.count(commonest)
        assert guessed() == ["the new name" if name == commonest else name for name in before]
        run = ask("sync", "run")
        assert (run["version"], run["new_queue"]) == (2, True)
        assert commonest not in guessed()
        assert "the new name" in (stack.services.versions.list(stack.project)[0].meta.classes or ())

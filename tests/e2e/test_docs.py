"""Every command line in README and docs works, in the order in which a reader comes to it."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from ml_backend import cli
from ml_backend.demo.digits import write_digits
from ml_backend.demo.label_studio import CONNECTED, EmbeddedLabelStudio, free_port
from ml_backend.encoders.vision import torchvision
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.settings import Settings
from tests.documented import command_lines
from tests.e2e import acts
from tests.e2e.stack import service

ROOT = Path(__file__).resolve().parents[2]
PAGES = {str(page.relative_to(ROOT)): page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}

NOT_RUN = {
    "ml-backend accept plan": "needs 20 held-out labels; tests/acceptance/test_plan.py runs it",
    "ml-backend accept audit --error 2%": "needs a model that is good enough; tests/e2e/test_audit.py runs it",
    "ml-backend accept status": "as accept audit",
    "ml-backend accept certify --out certificates": "as accept audit",
    "ml-backend accept stop": "as accept audit",
    "ml-backend accept write": "as accept audit",
    "ml-backend accept undo 0123456789ab": "as accept audit",
    "make demo": "stays up until it is stopped, and needs the usual installation",
    "make test": "is what runs this",
    "make install": "installs what these tests run in",
    ". .venv/bin/activate": "these tests run in that environment",
    ".venv-label-studio/bin/label-studio start": "stays up; the fixture starts it, on a port of its own",
    "python -m benchmarks.label_efficiency --data path/to/datasets --set-aside": "takes hours",
    "python -m benchmarks.strategies": "takes minutes, and needs the peers",
    "python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/requirements-peers.txt": "downloads",
    "pip install transformers sentencepiece": "downloads",
    "hf download timm/ViT-B-16-SigLIP --include '*token*' --include '*.model' --include '*config*'": "downloads",
}
"""Command lines that are not run here, and why not."""

CHANGED = {
    " https://example.org/one.png s3://bucket/two.png": "",  # no network, no bucket
    '"hot dog" sausage': "robin redbreast",
    "--project 3": "--project Birds",
    "v3": "v1",
    "v4": "v2",
    "simulate digits": "simulate digits --labels 40 --seeds 1 --quiet",
    "--labels 400 --batch 20 --seeds 10": "--labels 12 --batch 6 --seeds 1 --quiet --out one",
    "--images path/to/images": "--images path/to/images --labels 12 --batch 6 --seeds 1 --quiet --out two",
}
"""What is another here: names of what a reader has, and sizes that take minutes."""


@dataclass
class Reader:
    """Somebody who follows a page line by line, in an empty folder with some images in it."""

    studio: EmbeddedLabelStudio
    client: LabelStudio
    truth: dict[str, int]
    patch: pytest.MonkeyPatch
    servers: ExitStack
    serving: bool = False

    def follow(self, line: str) -> None:
        for theirs, ours in CHANGED.items():
            line = line.replace(theirs, ours)
        if line.startswith("export "):
            self._export(line)
        elif line == "ml-backend serve":
            self.serve()
        elif line.startswith("ml-backend "):
            self._command(shlex.split(line, comments=True)[1:])
        elif evaluated := re.fullmatch(r'eval "\$\((ml-backend .*)\)"', line):
            self.follow(evaluated[1])
        elif line.startswith("python -c "):
            subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True, stdout=subprocess.DEVNULL)
        else:
            pytest.fail(f"nothing here runs `{line}`: teach this test to, or say in NOT_RUN why not")

    def serve(self) -> None:
        if not self.serving:
            self.servers.enter_context(service({}, Settings.from_environ(os.environ)))
            self.serving = True

    def _export(self, line: str) -> None:
        for word in shlex.split(line)[1:]:
            name, _, value = word.partition("=")
            if name in CONNECTED:
                assert CONNECTED[name] == value, f"the fixture starts Label Studio with another {name}"
            elif name == "LABEL_STUDIO_API_KEY":
                assert value == "paste-the-token-here"
            else:
                self.patch.setenv(name, value)
                Settings.from_environ(os.environ)

    def _command(self, words: list[str]) -> None:
        if words[0] not in {"simulate", "completion"}:
            self.serve()
        if words[:2] in (["sync", "status"], ["versions", "list"]):
            self.label_some()
        assert cli.main(words) == 0, f"ml-backend {shlex.join(words)}"

    def label_some(self) -> None:
        """Label tasks in the order they are served, and wait for the turn that learns from them."""
        number = int(next(self.client.projects())["id"])
        schema = self.client.schema(number)
        for _ in range(6):
            if task := next_task(self.client, number):
                label = schema.labels[self.truth[Path(task["data"]["filename"]).name]]
                submit(self.client, task, annotation_result(schema, [label]))
        assert cli.main(["sync", "run"]) == 0


@pytest.fixture
def reader(
    label_studio: EmbeddedLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    for project in list(client.projects()):
        acts.delete_project(client, int(project["id"]))
    for name, value in {
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "share"),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "ML_BACKEND_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as servers:
        yield Reader(label_studio, client, write_what_a_reader_has(tmp_path), monkeypatch, servers)


def write_what_a_reader_has(folder: Path) -> dict[str, int]:
    """Images in folders by class, labels for some of them, a list, a model; returns filename -> class."""
    digits = {name: int(label) for name, label in write_digits(folder / "all" / "digits").items() if label in "012"}
    truth = dict(list(digits.items())[:72])
    own = {"my photo (1).png": "digit-0000.png", "other.png": "digit-0001.png"}
    truth |= {name: truth.pop(digit) for name, digit in own.items()}
    classes = ("robin", "wren", "finch")
    for name, number in truth.items():
        source = folder / "all" / "digits" / own.get(name, name)
        for into in (folder / "pictures", folder / "path" / "to" / "folder-by-class"):
            (into / classes[number]).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into / classes[number] / name)
        (folder / "path" / "to" / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / "path" / "to" / "images" / name)
    write_csv(folder / "labels.csv", [(name, classes[truth[name]]) for name in list(truth)[:24]])
    later = list(digits)[72:74]
    (folder / "more").mkdir()
    with Image.open(folder / "all" / "digits" / later[0]) as image:
        image.save(folder / "more" / "one.jpg")
    write_csv(folder / "list.csv", [(f"all/digits/{later[1]}", "wren")])
    truth |= {"one.jpg": digits[later[0]], later[1]: digits[later[1]]}
    network = torchvision().models.resnet18(num_classes=3)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "birds.safetensors"
    )
    return truth


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("filename", "label"), *rows])


@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if command_lines(path.read_text())])
def test_every_command_line_of_a_page_works(page: str, reader: Reader) -> None:
    for line in command_lines(PAGES[page].read_text(encoding="utf-8")):
        if line not in NOT_RUN:
            reader.follow(line)


def test_what_is_not_run_here_is_there_and_is_documented() -> None:
    lines = {line for path in PAGES.values() for line in command_lines(path.read_text(encoding="utf-8"))}
    assert set(NOT_RUN) <= lines
    targets = (ROOT / "Makefile").read_text()
    for line in NOT_RUN:
        if target := re.fullmatch(r"make ([a-z-]+)", line):
            assert f"\n{target[1]}:" in targets, f"the Makefile has no target {target[1]}"
        if module := re.match(r"python -m ([\w.]+)", line):
            assert importlib.util.find_spec(module[1]), f"there is no module {module[1]}"

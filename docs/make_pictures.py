"""Make the pictures of our own pages again: a real Label Studio, the service beside it, people who label, and a browser.

    .venv/bin/python -m docs.make_pictures                 all of them, some minutes
    .venv/bin/python -m docs.make_pictures page page-dark  these
    .venv/bin/python -m docs.make_pictures --whole --out /tmp/pictures    the whole length of each page, elsewhere

Needs `make setup` and a Chromium. Servers take free ports.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.large_store import PASSWORD, USER, Size, build, environment_of
from ml_backend.demo.digits import CLASSES
from ml_backend.demo.label_studio import CONNECTED, EmbeddedLabelStudio, find_binary
from ml_backend.hosts import host_slug
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.connection import connect
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.settings import Settings
from tests.e2e.annotator import browser
from tests.e2e.helpers import sign_up
from tests.e2e.stack import Stack, import_digits, running, service, wait_until

HERE = Path(__file__).resolve().parent / "pictures"
IMAGES, ROUNDS, A_ROUND = 1_000, 16, 20
WRONG = 0.04
"""Share of the answers that are not the truth."""
AS_USUAL = """folder => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const said = walk.currentNode.data, usual = said.replaceAll(folder, '/home/you/.local/share/label-studio-active-learning');
        if (usual !== said) walk.currentNode.data = usual;
    }
}"""
LONGEST = 1_700
"""Pixels of a picture in the docs."""
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@dataclass(frozen=True)
class Place:
    """A service to look at: its projects by what they show; the token to sign in with, or None for the operator; its data."""

    url: str
    projects: dict[str, int]
    token: str | None = None
    data_dir: str = "none"


@dataclass(frozen=True)
class Picture:
    """address: below the service, {N} for the project `of`. part: a section to show alone, its top at least.

    ready: what has to be there. says: what the page has to say, for which it is loaded again.
    """

    address: str
    of: str
    part: str = ""
    ready: str = ".part"
    says: str = ""
    viewport: dict[str, int] | None = None
    dark: bool = False


PICTURES = {
    "overview": Picture("/overview", "digits", ready="#cards .card"),
    "page": Picture("/projects/{N}/page", "digits"),
    "page-dark": Picture("/projects/{N}/page", "digits", dark=True),
    "page-phone": Picture("/projects/{N}/page", "digits", viewport=PHONE),
    "page-empty": Picture("/projects/{N}/page", "empty"),
    "page-failed": Picture("/projects/{N}/page", "failed"),
    "map": Picture("/projects/{N}/map", "digits", ready="#values tr", says="t-SNE"),
    "page-versions": Picture("/projects/{N}/page", "large", part="versions"),
    "page-classes": Picture("/projects/{N}/page", "large", part="classes"),
}


class People:
    """Some who label what is served, most of it rightly."""

    def __init__(self, server: EmbeddedLabelStudio, stack: Stack) -> None:
        names = ("ada@example.com", "grace@example.com", "linus@example.com")
        self.stack, self.clients = stack, [sign_up(server, name) for name in names]
        self.rng = np.random.default_rng(0)

    def label(self, count: int) -> None:
        for number in range(count):
            client = self.clients[number % len(self.clients)]
            task = next_task(client, self.stack.project_id)
            assert task is not None, "nothing is left to label"
            submit(client, task, self._answer(task))
            if self.rng.random() < 0.1:  # a second opinion
                other = self.clients[(number + 1) % len(self.clients)]
                other.create_annotation(task["id"], self._answer(task))

    def _answer(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        truth = self.stack.truth[task["data"]["filename"]]
        wrong = CLASSES[(CLASSES.index(truth) + 5) % len(CLASSES)]
        return annotation_result(self.stack.schema, [wrong if self.rng.random() < WRONG else truth])


def further_project(server: EmbeddedLabelStudio, stack: Stack, title: str, *, images: bool) -> int:
    """Connect another project to the service; returns our number of it."""
    client = stack.client
    if images:
        number = import_digits(server, client, dict(list(stack.truth.items())[:60]))
        client.update_project(number, title=title)
    else:
        number = int(client.create_project(title, label_config(("robin", "wren", "finch")))["id"])
    connect(client, number, f"{stack.settings.url}/hosts/{host_slug(client.url)}")
    find = stack.services.registry.find_project
    return wait_until(lambda: find(host_slug(client.url), number, None), "project").id


def break_versions(stack: Stack, number: int) -> None:
    """Have every training of the project fail as on a full or broken disk: where its versions would go is no folder."""
    project = next(each for each in stack.services.ledger.projects() if each.id == number)
    wait_until(lambda: stack.services.ledger.last_round(project), "queue")
    folder = stack.settings.data_dir / "versions" / str(number)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("no folder")
    for task in list(stack.client.tasks(project.key.project_id))[:15]:
        truth = stack.truth[task.data["filename"]]
        stack.client.create_annotation(task.id, annotation_result(stack.schema, [truth]))
    wait_until(
        lambda: stack.services.status.of(project, stack.services.known_counts.of(project))["problems"], "failure"
    )


@contextmanager
def worked(folder: Path) -> Iterator[Place]:
    """A project of digits that three people have labelled for a while, an empty one, and one whose training fails."""
    binary = find_binary(Path.cwd(), os.environ)
    if binary is None:
        raise SystemExit("Label Studio is not installed: make setup")
    (folder / "files").mkdir()
    with ExitStack() as held:
        server = held.enter_context(
            EmbeddedLabelStudio(binary, folder / "data", document_root=folder / "files", environment=CONNECTED)
        )
        client = held.enter_context(LabelStudio(server.url, server.token))
        stack = held.enter_context(running(server, client, folder, tasks=IMAGES))
        client.update_project(stack.project_id, title="Digits")
        people, number = People(server, stack), stack.round_after(0).number
        for done in range(ROUNDS):
            people.label(A_ROUND)
            number = stack.round_after(number).number
            print(f"{A_ROUND * (done + 1)} answers", flush=True)
        projects = {
            "digits": stack.project.id,
            "empty": further_project(server, stack, "Birds in the garden", images=False),
            "failed": further_project(server, stack, "Digits, on a broken disk", images=True),
        }
        break_versions(stack, projects["failed"])
        yield Place(stack.settings.url, projects, server.token, str(stack.settings.data_dir))


@contextmanager
def large(folder: Path) -> Iterator[Place]:
    """A project of 20,000 images, 50 classes and 100 versions; without a Label Studio."""
    build(folder, Size(tasks=20_000, labels=4_000, rounds=100, classes=50))
    environment = environment_of(folder)
    settings = Settings.from_environ(environment)
    with service(environment, settings, "--only", "web"):
        yield Place(settings.url, {"large": 1})


PLACES: dict[str, Callable[[Path], Any]] = {"digits": worked, "empty": worked, "failed": worked, "large": large}


def take(chromium: Browser, place: Place, picture: Picture, file: Path, *, whole: bool) -> None:
    page = chromium.new_context(
        viewport=picture.viewport or WIDE,  # type: ignore[arg-type]
        color_scheme="dark" if picture.dark else "light",
        device_scale_factor=2 if picture.viewport else 1,
    ).new_page()
    page.set_default_timeout(40_000)
    expect.set_options(timeout=40_000)
    page.goto(place.url + picture.address.format(N=place.projects[picture.of]))
    sign_in(page, place)
    expect(page.locator(picture.ready).first).to_be_visible()
    expect(page.get_by_text("Looking …")).to_have_count(0)
    wait_until(lambda: picture.says in again(page, picture), picture.says)
    page.evaluate(AS_USUAL, place.data_dir)
    page.wait_for_timeout(2_000)  # thumbnails come one by one: nothing on the page says when that is over
    if picture.part and not whole:
        page.evaluate("document.querySelector('header').style.position = 'static'")
        keep(page.locator(f"#{picture.part}").screenshot(), file)
    else:
        keep(page.screenshot(full_page=whole), file)
    page.context.close()


def again(page: Page, picture: Picture) -> str:
    """What the page says, loaded anew where it does not say what is waited for."""
    if picture.says not in page.locator("main").inner_text():
        page.reload()
        page.wait_for_timeout(5_000)
    return page.locator("main").inner_text()


def sign_in(page: Page, place: Place) -> None:
    if place.token:
        page.get_by_label("Token", exact=True).fill(place.token)
    else:
        page.locator("#sign-in-operator summary").click()
        page.get_by_label("User", exact=True).fill(USER)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")


def keep(png: bytes, file: Path) -> None:
    """Save it as a small PNG."""
    shot = Image.open(io.BytesIO(png)).convert("RGB")
    shot = shot.crop((0, 0, shot.width, min(shot.height, LONGEST))) if file.parent == HERE else shot
    shot.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; default: all")
    parser.add_argument("--whole", action="store_true", help="the whole length of each page")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if unknown := set(args.names) - set(PICTURES):
        parser.error(f"no such picture: {', '.join(sorted(unknown))}")
    wanted = {name: PICTURES[name] for name in args.names or PICTURES}
    args.out.mkdir(parents=True, exist_ok=True)
    for make in dict.fromkeys(PLACES[picture.of] for picture in wanted.values()):
        with tempfile.TemporaryDirectory() as folder, make(Path(folder)) as place, browser() as chromium:
            for name, picture in wanted.items():
                if PLACES[picture.of] is make:
                    take(chromium, place, picture, args.out / f"{name}.png", whole=args.whole)
                    print(args.out / f"{name}.png", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

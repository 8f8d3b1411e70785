"""Make the tutorial's pictures again: its steps, done in a real browser and a real terminal, with an empty home folder.

    .venv/bin/python -m docs.tutorial.make_screenshots

Needs `make setup` and a Chromium. Both servers take free ports; the pictures show the usual ones.
"""

from __future__ import annotations

import html
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
from PIL import Image
from playwright.sync_api import Page

from ml_backend.demo.digits import CLASSES, write_digits
from ml_backend.demo.label_studio import CONNECTED, find_binary, free_port
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.labelling_page import next_task, submit
from ml_backend.labelstudio.results import annotation_result
from ml_backend.worker.supervisor import die_with_parent
from tests.e2e.annotator import Annotator, Diary, browser

HERE = Path(__file__).resolve().parent
EMAIL, PASSWORD, TITLE, IMAGES = "you@example.com", "a-good-password", "Digits", 300
NARROW = {"width": 1280, "height": 720}
TERMINAL = """<body style="margin:0;background:#1d1f21;color:#e0e0e0;font:17px/1.5 'DejaVu Sans Mono',monospace">
<pre style="margin:28px;white-space:pre-wrap">{text}</pre></body>"""
QUIET = {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
PATIENCE = 300.0


def wait_until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(1)
    raise TimeoutError(f"no {what} in {PATIENCE:.0f} s")


class Newcomer:
    """Somebody with an empty home folder, a browser and a terminal."""

    def __init__(self, page: Page, home: Path, processes: ExitStack) -> None:
        self.page, self.home, self.processes = page, home, processes
        self.ports = {8080: free_port(), 9090: free_port()}
        self.url = f"http://localhost:{self.ports[8080]}"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: os.environ[name] for name in ("LANG", "PYTHONPATH", "LABEL_STUDIO_BIN") if name in os.environ}
        self.environment = kept | {"HOME": str(home), "PATH": path, "COLUMNS": "110"}

    def start(self, command: list[str], log: Path, **environment: str) -> None:
        """Run a server until the pictures are made."""
        file = self.processes.enter_context(log.open("ab"))
        process = subprocess.Popen(
            command, cwd=self.home, env=self.environment | environment, stdout=file, stderr=file, preexec_fn=die_with_parent
        )  # fmt: skip
        self.processes.callback(process.wait)
        self.processes.callback(process.terminate)

    def type(self, command: str) -> str:
        """Run a command; returns what the terminal then shows. Raises where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "ml_backend.cli", *shlex.split(command)[1:]],
            cwd=self.home, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        said = self.as_usual(done.stdout)
        if done.returncode:
            raise RuntimeError(f"{command}: {said}")
        return f"$ {command}\n{said}"

    def wait_for(self, line: str) -> str:
        """Look at the status until it has this; returns it."""

        def look() -> str | None:
            status = self.type("ml-backend sync status")
            return status if line in status else None

        return str(wait_until(look, repr(line)))

    def as_usual(self, text: str) -> str:
        """What was printed, with the usual ports and home, and progress bars as they end."""
        for usual, port in self.ports.items():
            text = text.replace(str(port), str(usual))
        lines = [line.rpartition("\r")[2] for line in text.replace(str(self.home), "/home/you").splitlines()]
        return "\n".join(lines) + "\n"

    def show(self, number: int, name: str, text: str) -> None:
        """A picture of the terminal."""
        with self.page.context.new_page() as page:
            page.set_content(TERMINAL.format(text=html.escape(text)))
            keep(page, number, name)

    def keep(self, number: int, name: str) -> None:
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(800)  # drawers slide and fonts arrive: nothing on the page says when that is over
        keep(self.page, number, name)


def keep(page: Page, number: int, name: str) -> None:
    """Save the window as a small PNG."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        HERE / f"{number:02}-{name}.png", optimize=True
    )


def sign_up(you: Newcomer) -> str:
    """Steps 2 to 4: Label Studio, an account, a token; returns the token."""
    binary = find_binary(Path.cwd(), os.environ)
    if binary is None:
        raise SystemExit("Label Studio is not installed: make setup")
    two = {name: CONNECTED[name] for name in ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")}
    options = ["--no-browser", "--port", str(you.ports[8080]), "--internal-host", "127.0.0.1"]
    you.start([str(binary), "start", *options], you.home / "label-studio.log", **QUIET, **two)
    wait_until(lambda: answers(f"{you.url}/health"), "Label Studio")
    page = you.page
    page.goto(you.url)
    page.get_by_role("link", name="Sign up").click()
    page.fill("input[name=email]", EMAIL)
    page.fill("input[name=password]", PASSWORD)
    you.keep(3, "sign-up")
    page.get_by_role("button", name="Create Account").click()
    page.wait_for_url(lambda url: "/user/" not in url)
    page.goto(f"{you.url}/user/account")
    page.get_by_text("Personal Access Token", exact=True).first.click()
    page.get_by_role("button", name="Create New Token").click()
    page.get_by_role("button", name="Copy").wait_for()
    you.keep(4, "token")
    return page.locator("input:visible").last.input_value()


def set_up(you: Newcomer) -> int:
    """Steps 5 to 8: the service, a project, images, and what Label Studio then shows; returns the project's number."""
    port = you.ports[9090]
    log = you.home / "service.log"
    you.start([sys.executable, "-m", "ml_backend.cli", "serve"], log)
    wait_until(lambda: answers(f"http://localhost:{port}/health"), "service")
    you.show(5, "serve", f"$ ml-backend serve\n{you.as_usual(log.read_text())}")
    you.show(6, "setup-project", you.type(f"ml-backend setup-project --title {TITLE} --labels {','.join(CLASSES)}"))
    you.show(7, "import-images", you.type("ml-backend import-images pictures"))
    number = 1  # of the first project of a new Label Studio
    you.page.goto(f"{you.url}/projects/{number}/data")
    you.page.get_by_text("Label All Tasks").wait_for()
    you.keep(8, "project")
    return number


def label(you: Newcomer, number: int, client: LabelStudio, truth: dict[str, str]) -> None:
    """Steps 9 to 11: forty labels, the status, then more until the next guess is ticked."""
    person = Annotator(you.page, you.url, number, Diary("you"))
    person.open_stream()
    you.keep(9, "label")
    schema = client.schema(number)

    def answer() -> None:
        task = next_task(client, number)
        assert task is not None
        submit(client, task, annotation_result(schema, [truth[task["data"]["filename"]]]))

    you.wait_for("queue      v0-r1")
    for _ in range(40):
        answer()
    you.wait_for("model      v")
    you.show(10, "status", you.wait_for("job        none"))
    for _ in range(IMAGES // 2):
        if ticked(client, number) and you.wait_for("job        none") and ticked(client, number):
            break  # no turn is due that could renew the queue now
        answer()
    you.page.goto(f"{you.url}/projects/{number}/data")
    you.page.get_by_text("Label All Tasks").wait_for()
    you.page.get_by_text("Active learning queue").first.click()
    you.page.mouse.move(640, 700)  # away from the tab, whose menu hides its title
    you.keep(11, "queue")
    shutil.copy(HERE / "11-queue.png", HERE.parent / "queue.png")
    person.open_stream()
    you.keep(11, "guess")


def ticked(client: LabelStudio, number: int) -> bool:
    """Whether the task that is served next comes with a guess that is ticked."""
    task = next_task(client, number)
    return bool(task and any(found["result"] for found in task.get("predictions", [])))


def finish(you: Newcomer) -> None:
    """Step 12."""
    you.wait_for("job        none")
    said = you.type("ml-backend export labels --out labels.csv") + "\n"
    said += you.type("ml-backend export model --format onnx --out digits.onnx")
    head = "\n".join(f"{line[:100]} ..." for line in (you.home / "labels.csv").read_text().splitlines()[:5])
    you.show(12, "export", f"{said}\n$ head -5 labels.csv\n{head}\n")


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as processes, browser() as chromium:
        home = Path(folder)
        truth = dict(list(write_digits(home / "all" / "digits").items())[:IMAGES])
        (home / "pictures").mkdir()
        for name in truth:
            (home / "all" / "digits" / name).rename(home / "pictures" / name)
        you = Newcomer(chromium.new_context(viewport=NARROW).new_page(), home, processes)
        token = sign_up(you)
        you.environment |= {
            "LABEL_STUDIO_URL": you.url,
            "LABEL_STUDIO_API_KEY": token,
            "ML_BACKEND_PORT": str(you.ports[9090]),
        }
        number = set_up(you)
        with LabelStudio(you.url, token) as client:
            label(you, number, client, truth)
        finish(you)
    print(f"The pictures are in {HERE}.")


if __name__ == "__main__":
    main()

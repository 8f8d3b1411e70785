"""Somebody who labels in a real browser, and what the browser told them: answers, toasts, HTTP answers."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Response, expect, sync_playwright
from playwright.sync_api import Error as BrowserError

from tests.e2e.stack import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
KNOWN = (
    # Label Studio fetches its product tips from the network; without one it answers 404 itself.
    re.compile(r"404 GET /heidi-tips\b"),
)
"""HTTP errors that Label Studio makes on its own pages, with no project and no backend of ours in sight."""

READY = """shown => {
    const store = window.Htx, task = store?.task;
    if (store?.noTask) return {task: null};
    if (!task?.id || store.isLoading || !store.annotationStore?.selected) return null;
    if (!document.querySelector('.lsf-choices input')) return null;
    return task.id === shown ? null : {task: task.id, data: JSON.parse(task.data)};
}"""
"""The task on the page once it can be answered, or null while it is `shown` still."""

TOASTS = """new MutationObserver(() => {
    const seen = (window.toldHere ||= new WeakSet());
    for (const found of document.querySelectorAll('[class*="toast_error"], [class*="toast_alertError"], .dm-modal, \
.ls-modal, .dm-errors, [class*="error-paused"]')) {
        if (seen.has(found) || !found.innerText.trim()) continue;
        seen.add(found);
        window.toldTheAnnotator(found.innerText.trim());
    }
}).observe(document, {childList: true, subtree: true, characterData: true});"""


class StuckError(AssertionError):
    """The page did not do what a click or a key asks of it; says what the browser was told instead."""


def find_chromium() -> str:
    """Return the program of a Chromium on the PATH; without one, skip the test, or fail it where CI=true says it is due."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        say = "no Chromium for the browser tests: install it (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(say)
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of one's own. Playwright binds it to the thread that opens it."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    options = [*OPTIONS, *(["--no-sandbox"] if root else [])]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=find_chromium(), args=options)
        yield opened
        opened.close()


@dataclass
class Diary:
    """What one annotator did and was told. `answers`: the last label typed for each task; `None` where it was skipped."""

    name: str
    answers: dict[int, str | None] = field(default_factory=dict)
    guesses: dict[int, tuple[str, ...]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class Annotator:
    """One person at one browser window. Every method ends when the page shows what a person would wait for."""

    def __init__(self, page: Page, url: str, project_id: int, diary: Diary) -> None:
        self.page, self.url, self.project_id, self.diary = page, url, project_id, diary
        self.task = 0
        self.data: dict[str, Any] = {}
        page.set_default_timeout(PATIENCE * 1_000)
        expect.set_options(timeout=PATIENCE * 1_000)
        page.expose_function("toldTheAnnotator", self._toast)
        page.add_init_script(TOASTS)
        page.on("response", self._response)
        page.on("requestfailed", self._failed)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._trouble(f"page error: {error}"))

    def log_in(self, email: str, password: str) -> None:
        self.page.goto(f"{self.url}/user/login/")
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "/user/login" not in url)

    @contextmanager
    def another_window(self) -> Iterator[Annotator]:
        """A second window of the same person, in the same session, with the same diary."""
        with self.page.context.new_page() as page:
            yield Annotator(page, self.url, self.project_id, self.diary)

    # -- ways to an image ---------------------------------------------------------------------------------------------

    def open_stream(self) -> None:
        """Press "Label All Tasks"."""
        self._data_manager()
        self._await_next(lambda: self.page.get_by_role("button", name="Label All Tasks", exact=True).click(), 0)

    def open_displayed(self, tab: int) -> None:
        """Choose "Label Tasks As Displayed" in this Data Manager tab."""
        self._data_manager(f"?tab={tab}")
        button = self.page.get_by_role("button", name=re.compile("^Label .*Tasks"))
        button.locator("xpath=following-sibling::button").click()
        self._await_next(lambda: self.page.get_by_text("Label Tasks As Displayed", exact=True).click(), 0)

    def open_task(self, task_id: int) -> None:
        """Open one task in quick view, as a click on its row does."""
        self._await_next(lambda: self.page.goto(f"{self.url}/projects/{self.project_id}/data?task={task_id}"), 0)
        assert self.task == task_id, f"asked for task {task_id}, task {self.task} is shown"

    def reload(self) -> None:
        self._await_next(self.page.reload, 0)

    def back(self) -> None:
        """Press `<`."""
        self._await_next(lambda: self.page.get_by_test_id("prev-task").click(), self.task)

    def forward(self) -> None:
        """Press `>`."""
        self._await_next(lambda: self.page.get_by_test_id("next-task").click(), self.task)

    # -- what a person does with it -----------------------------------------------------------------------------------

    @property
    def chosen(self) -> tuple[str, ...]:
        """The choices that are ticked."""
        return tuple(self.page.eval_on_selector_all(".lsf-choices input:checked", "all => all.map(one => one.name)"))

    def choice(self, label: str) -> Locator:
        return self.page.locator(f'.lsf-choices input[name="{label}"]')

    def choose(self, label: str) -> None:
        """Press the label's key (that of a digit is the digit), unless it is ticked already: that would take it away."""
        if self.chosen != (label,):
            self.page.keyboard.press(label)
        expect(self.choice(label)).to_be_checked()
        assert self.chosen == (label,), f"task {self.task}: {self.chosen} are ticked instead of {label}"

    def undo(self) -> None:
        self.page.keyboard.press("Control+z")

    def submit(self, label: str, *, by_button: bool = False) -> None:
        """Choose the label and submit; in the label stream the next image is there when this returns."""
        task = self.task
        self.choose(label)
        self.diary.answers[task] = label
        button = self.page.get_by_test_id("bottombar-submit-button")
        expect(button).to_be_enabled()
        self._send("POST", rf"/api/tasks/{task}/annotations", button.click if by_button else self._press_submit)

    def submit_nothing(self) -> None:
        """Submit without a choice."""
        task = self.task
        assert self.chosen == ()
        self._send("POST", rf"/api/tasks/{task}/annotations", self.page.get_by_test_id("bottombar-submit-button").click)

    def skip(self) -> None:
        task = self.task
        self.diary.answers[task] = None
        self._send("POST", rf"/api/tasks/{task}/annotations", self.page.get_by_test_id("bottombar-skip-button").click)

    def update(self, label: str) -> None:
        """Choose another label for the answer on the page and press Update; the task stays."""
        self.choose(label)
        self.diary.answers[self.task] = label
        button = self.page.get_by_test_id("bottombar-update-button")
        self._answered("PATCH", r"/api/annotations/\d+", button.click)
        self._settled()

    def delete(self) -> None:
        """Delete the answer on the page, through the menu of its annotation (quick view alone has it)."""
        self.page.locator(".lsf-annotation-button_selected .lsf-annotation-button__trigger").click()
        self.page.get_by_text("Delete Annotation", exact=True).click()
        task = self.task
        confirm = self.page.get_by_role("button", name="Delete", exact=True)
        self._answered("DELETE", r"/api/annotations/\d+", confirm.click)
        self.diary.answers.pop(task, None)
        self._settled()

    def await_draft(self, act: Callable[[], object]) -> None:
        """Do something, and wait until the page has saved it as a draft (five seconds later)."""
        self._answered("POST|PATCH", rf"/api/(tasks/{self.task}/drafts|drafts/\d+)", act)

    # -- waiting and listening ----------------------------------------------------------------------------------------

    def _press_submit(self) -> None:
        self.page.keyboard.press("Control+Enter")

    def _data_manager(self, query: str = "") -> None:
        self.page.goto(f"{self.url}/projects/{self.project_id}/data{query}")
        expect(self.page.get_by_role("button", name=re.compile("^Label .*Tasks")).first).to_be_enabled()

    def _send(self, method: str, path: str, act: Callable[[], object]) -> None:
        """Answer the task; in the label stream wait for the next one."""
        if "labeling=1" not in self.page.url:
            self._answered(method, path, act)
            self._settled()
            return
        self._await_next(lambda: self._answered(method, path, act), self.task)

    def _answered(self, method: str, path: str, act: Callable[[], object]) -> None:
        def wanted(response: Response) -> bool:
            named = re.fullmatch(method, response.request.method) is not None
            return named and re.search(path + r"/?(\?|$)", response.url) is not None

        with self.page.expect_response(wanted) as waiting:
            act()
        if waiting.value.status >= 400:
            with suppress(BrowserError):  # the toast is for the person; the HTTP answer is in the diary already
                self.page.wait_for_selector('[class*="toast_error"]', timeout=5_000)
            raise StuckError("; ".join(self.diary.troubles))

    def _settled(self) -> None:
        self.page.wait_for_function(READY, arg=None)

    def _await_next(self, act: Callable[[], object], shown: int) -> None:
        """Act, and wait until another task than `shown` can be answered; notes it and what is ticked on it."""
        started = time.monotonic()
        act()
        try:
            found = self.page.wait_for_function(READY, arg=shown).json_value()
        except BrowserError as error:
            raise StuckError("; ".join([f"no image after task {shown}: {error}", *self.diary.troubles])) from error
        assert found["task"], "Label Studio says there is nothing left to label"
        self.task, self.data = int(found["task"]), found["data"]
        self.diary.waits.append(time.monotonic() - started)
        if self.task not in self.diary.answers:
            self.diary.guesses.setdefault(self.task, self.chosen)

    def _trouble(self, text: str) -> None:
        self.diary.troubles.append(f"{self.diary.name}, task {self.task}: {text}")

    def _toast(self, text: str) -> None:
        self._trouble(f"the page said {text!r}")

    def _response(self, response: Response) -> None:
        if response.status < 400:
            return
        request = response.request
        line = f"{response.status} {request.method} {response.url.removeprefix(self.url)}"
        if any(known.search(line) for known in KNOWN):
            return
        self._trouble(f"{line} ({request.post_data})")
        with suppress(BrowserError):
            self._trouble(f"answered {response.text()[:500]}")

    def _failed(self, request: Request) -> None:
        # A page that is left ends what it was still loading: nobody lost anything. A write is never ended so.
        if request.method != "GET":
            self._trouble(f"{request.method} {request.url.removeprefix(self.url)} failed: {request.failure}")

    def _console(self, message: ConsoleMessage) -> None:
        # HTTP errors are noted with their answer; React's and MobX's own remarks are Label Studio's.
        if message.type == "error" and "Uncaught" in message.text:
            self._trouble(f"console: {message.text[:300]}")


@contextmanager
def annotator(
    url: str, project_id: int, email: str, password: str, *, pictures: Path | None = None
) -> Iterator[Annotator]:
    """Somebody logged in, in a browser of their own; a picture of the page is left in `pictures` if they fail."""
    with browser() as opened:
        page = opened.new_context(viewport={"width": 1280, "height": 900}).new_page()
        person = Annotator(page, url, project_id, Diary(email))
        person.log_in(email, password)
        try:
            yield person
        except BaseException:
            if pictures is not None:
                with suppress(BrowserError):
                    page.screenshot(path=pictures / f"{email}.png")
            raise

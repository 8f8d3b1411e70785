"""How long the pages of a large project take, how much comes with them, and what the web process holds.

    python -m benchmarks.pages                                   1,000,000 tasks, 500 rounds and versions (minutes to write)
    python -m benchmarks.pages --tasks 10000 --rounds 50         a quick look
    python -m benchmarks.pages --store /tmp/large                a store written before, by benchmarks.large_store

Each page is asked for as by its operator, with what it loads by itself. Aims: 300 ms at the median and 300 kB each, without
pictures; 700 MB. The first answer, for which facts are found out, stands beside.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.large_store import PASSWORD, USER, Size, build, environment_of
from benchmarks.live import machine
from ml_backend.settings import Settings
from tests.e2e.annotator import browser
from tests.e2e.stack import service

PARTS = re.compile(r'(?:hx-get|data-load)="([^"]+)"')
PAGES = (
    "/overview",
    "/overview/cards",
    "/projects/1/page",
    "/projects/1/page/start",
    "/projects/1/accept",
    "/projects/1/accept/state",
    "/projects/1/map",
    "/projects/1/search",
)
MORE = ("/projects/1/search?filename=image-0999",)
"""What a person asks for on a page."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="written by benchmarks.large_store")
    parser.add_argument("--tasks", type=int, default=Size.tasks)
    parser.add_argument("--labels", type=int, default=Size.labels)
    parser.add_argument("--rounds", type=int, default=Size.rounds)
    parser.add_argument("--requests", type=int, default=15)
    parser.add_argument("--browser", action="store_true", help="also how soon the map is painted, in Chromium")
    parser.add_argument("--address", action="append", default=[], help="a further one to ask for")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.store or Path(name) / "store"
        if args.store is None:
            build(folder, Size(tasks=args.tasks, labels=min(args.labels, args.tasks // 2), rounds=args.rounds))
        environment = environment_of(folder)
        settings = Settings.from_environ(environment)
        with service(environment, settings, "--only", "web") as process:
            print(machine())
            measure(settings.url, psutil.Process(process.pid), args)
            if args.browser:
                paint(settings.url, psutil.Process(process.pid), args.tasks)
    return 0


def measure(url: str, process: psutil.Process, args: argparse.Namespace) -> None:
    session = requests.Session()
    session.auth = (USER, PASSWORD)
    print(f"{'address':<48} {'first ms':>9} {'median':>7} {'worst':>7} {'kB':>7}  MB held")
    asked: list[str] = []
    waiting = [*PAGES, *MORE, *args.address]
    while waiting:
        address = waiting.pop(0)
        if address in asked:
            continue
        asked.append(address)
        taken, answer = [], None
        for _ in range(args.requests + 1):
            began = time.perf_counter()
            answer = session.get(url + address, timeout=120)
            taken.append(1e3 * (time.perf_counter() - began))
        assert answer is not None
        sound = "" if answer.ok else f"  {answer.status_code} {answer.text[:100]}"
        print(
            f"{address:<48} {taken[0]:>9.0f} {statistics.median(taken[1:]):>7.0f} {max(taken[1:]):>7.0f} {len(answer.content) / 1e3:>7.1f}"
            f"  {held(process):.0f}{sound}",
            flush=True,
        )
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            page = re.sub(r"/page/.*", "/page", address)  # which it becomes a part of
            waiting += [requests.compat.urljoin(page, part) for part in PARTS.findall(answer.text)]


def paint(url: str, process: psutil.Process, tasks: int) -> None:
    """Seconds from the address to the first points and to all of them, in a browser: of a map that is yet to be made, and then."""
    with browser() as chromium:
        page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(600_000)
        page.goto(f"{url}/projects/1/map")
        page.locator("#sign-in-operator summary").click()
        page.fill("#operator-name", USER)
        page.fill("#operator-password", PASSWORD)
        page.keyboard.press("Enter")
        for time_ in range(6):
            began = time.perf_counter()
            if time_:
                page.reload()
            page.locator("canvas[data-points]:not([data-points='0'])").wait_for()
            first = time.perf_counter() - began
            page.locator(f"canvas[data-points='{tasks}']").wait_for()
            print(
                f"the map: first points {first:.2f} s, all {time.perf_counter() - began:.2f} s, {held(process):.0f} MB held",
                flush=True,
            )


def held(process: psutil.Process) -> float:
    """MB of memory of the largest process of the service; what is mapped from files is counted, as the system does."""
    found: list[Any] = [process, *process.children(recursive=True)]
    return float(max(one.memory_info().rss for one in found)) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())

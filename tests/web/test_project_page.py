"""The page of a project over HTTP: who may look and act, what is told, and to whom."""

from __future__ import annotations

import re
import threading
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from ml_backend.errors import ConflictError
from ml_backend.records import BLIND
from ml_backend.store.schema import projects, versions
from ml_backend.web.acts.page_acts import ACTS
from ml_backend.web.own_pages import HEADERS, PAGES, STATIC
from ml_backend.web.persons import TOKEN_HEADER
from ml_backend.web.sections.listed import SECTIONS
from tests.other_settings import use
from tests.web import fake_grid
from tests.web.fake_grid import ANNA, BEN, STRANGER, Grid, sentence

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
OPERATOR = ("someone", "secret")


def get(grid: Grid, what: str, token: str | None = ANNA, **more: Any) -> Any:
    headers = {TOKEN_HEADER: token} if token else {}
    return grid.http.get(f"/projects/{grid.project.id}/{what}", headers=headers, **more)


def act(grid: Grid, name: str, given: Any = None, token: str | None = ANNA, route: str = "acts", **more: Any) -> Any:
    headers = {TOKEN_HEADER: token} if token else {}
    body = {"act": name, "given": given or {}}
    return grid.http.post(f"/projects/{grid.project.id}/{route}", json=body, headers=headers, **more)


def done(grid: Grid, name: str, given: Any = None) -> str:
    answer = act(grid, name, given)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["said"])


# -- who may what ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [section.name for section in SECTIONS])
def test_every_section_is_told_to_who_may_see_the_project_and_to_nobody_else(grid: Grid, name: str) -> None:
    for token in (ANNA, BEN):
        answer = get(grid, f"page/{name}", token)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Cache-Control"] == "private, no-store"
    sentence(get(grid, f"page/{name}", STRANGER), 403)
    sentence(get(grid, f"page/{name}", None), 403)


def test_who_may_not_see_a_project_is_not_told_what_it_is_called(grid: Grid) -> None:
    with grid.bench.services.database.write() as connection:
        connection.execute(projects.update().values(title="Layoffs 2027"))
    for what in (
        "page/start",
        "page/progress",
        "live",
        "map/state",
        "accept/state",
        "files/labels.csv",
        "tasks/70/thumbnail",
    ):
        assert "Layoffs" not in sentence(get(grid, what, STRANGER), 403)
    assert "Layoffs" not in sentence(grid.post("page", {}, STRANGER), 403)
    assert "Layoffs" not in grid.http.get("/overview/cards", headers={TOKEN_HEADER: STRANGER}).text
    assert "Layoffs" in get(grid, "page/start", BEN).text


def test_a_viewer_is_offered_no_act(grid: Grid) -> None:
    told = [get(grid, f"page/{section.name}", BEN).text for section in SECTIONS]
    assert not [text for text in told if "data-act" in text]


@pytest.mark.parametrize("name", sorted(ACTS))
def test_no_act_works_for_who_may_only_look_or_is_nobody(grid: Grid, name: str) -> None:
    before = grid.bench.services.versions.current(grid.project), grid.bench.services.jobs.status(grid.project)
    for route in ("would", "acts"):
        assert "not change it" in sentence(act(grid, name, token=BEN, route=route), 403)
        sentence(act(grid, name, token=STRANGER, route=route), 403)
        sentence(act(grid, name, token=None, route=route), 403)
    assert not grid.bench.services.acts.list(grid.project)
    assert before == (grid.bench.services.versions.current(grid.project), grid.bench.services.jobs.status(grid.project))


def test_who_sends_the_services_own_password_is_the_operator_and_may_act(grid: Grid) -> None:
    use(grid.bench.services, user=OPERATOR[0], password=OPERATOR[1])
    http = type(grid.http)(_app(grid), "http://localhost", raise_server_exceptions=False)
    with_password = Grid(grid.bench, grid.studio, http)
    shell = get(with_password, "page", None)
    assert shell.status_code == 200
    assert grid.project.title not in shell.text, "nothing of a project is told"
    unknown = with_password.http.get("/projects/99/page")
    assert unknown.text.replace("99", "1") == shell.text, "nor whether it is there"
    sentence(get(with_password, "page/progress", None), 401)
    assert get(with_password, "page/progress", None, auth=OPERATOR).status_code == 200
    assert get(with_password, "page/progress", ANNA).status_code == 200, "a token is enough for the pages"
    sentence(with_password.http.get("/projects", headers={TOKEN_HEADER: ANNA}), 401)
    sentence(with_password.http.get("/projects/1", headers={TOKEN_HEADER: ANNA}), 401)
    sentence(get(with_password, "page/progress", ANNA, auth=("someone", "wrong")), 401)
    sentence(act(with_password, "train", token=BEN, auth=OPERATOR), 403)
    assert act(with_password, "train", token=None, auth=OPERATOR).status_code == 200
    (kept,) = grid.bench.services.acts.list(grid.project)
    assert (kept.person, kept.what) == ("the operator", "train")


def _app(grid: Grid) -> Any:
    from ml_backend.web.app import create_app

    return create_app(grid.bench.services)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_browser_is_led_to_the_overview_and_label_studio_is_answered(grid: Grid) -> None:
    led = grid.http.get("/", headers={"Accept": "text/html,*/*;q=0.8"}, follow_redirects=False)
    assert (led.status_code, led.headers["Location"]) == (307, "overview")
    assert grid.http.get("/").json()["status"] == "UP"


def test_the_overview_has_the_projects_that_the_token_may_see(grid: Grid) -> None:
    assert "40 of 120 labelled" in _cards(grid, ANNA).text
    assert "no-cards" in _cards(grid, STRANGER).text
    sentence(_cards(grid, None), 403)


def _cards(grid: Grid, token: str | None) -> Any:
    return grid.http.get("/overview/cards", headers={TOKEN_HEADER: token} if token else {})


def test_what_somebody_did_stands_in_the_log_whatever_they_are_called(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fake_grid.Visit, "whoami", lambda _: {"id": 7, "first_name": "\ud800<b>\0", "email": "\ud800@b.c"}
    )
    assert done(grid, "train")
    (kept,) = grid.bench.services.acts.list(grid.project)
    assert "\0" not in kept.person + kept.account
    for what in ("page/log", "page/start", "map/state", "accept/state"):
        assert get(grid, what).status_code == 200
    assert "&lt;b&gt;" in get(grid, "page/log").text


def test_a_project_that_was_replaced_in_label_studio_is_shown_to_nobody_who_sees_the_new_one(grid: Grid) -> None:
    ledger, made = grid.bench.services.ledger, datetime.fromisoformat(grid.studio.created_at)
    ledger.configure(grid.project, created=int(made.timestamp()))
    assert "40 of 120 labelled" in _cards(grid, ANNA).text
    ledger.configure(grid.project, created=int(made.timestamp()) - 1)
    sentence(get(grid, "page/progress", BEN), 409)
    assert "no-cards" in _cards(grid, BEN).text


def test_what_was_done_stands_in_the_log_and_is_undone_from_there(grid: Grid) -> None:
    says = act(grid, "pin", {"version": "v1"}, route="would").json()
    assert (says["title"], says["yes"]) == ("Pin this version?", "Pin it")
    assert "in place of" not in says["says"], "v1 is served already"
    assert not grid.bench.services.versions.pinned(grid.project), "it was asked, and nothing was done"
    assert "v1 is pinned" in done(grid, "pin", {"version": "v1"})
    assert grid.bench.services.versions.pinned(grid.project)
    (kept,) = grid.bench.services.acts.list(grid.project)
    assert (kept.person, kept.detail["undo"]) == ("Anna", {"act": "unpin", "given": {}, "label": "Unpin"})
    assert f'id="undo-{kept.id}"' in get(grid, "page/log").text
    done(grid, "unpin")
    assert not grid.bench.services.versions.pinned(grid.project)
    assert "No version is pinned" in sentence(act(grid, "unpin"), 409)


def test_a_roll_back_is_undone_by_serving_the_former_version_again(grid: Grid) -> None:
    sentence(act(grid, "roll-back", route="would"), 409)
    grid.bench.label(*range(61, 75))
    grid.bench.turn()
    assert "v1" in done(grid, "roll-back")
    undo = grid.bench.services.acts.list(grid.project)[0].detail["undo"]
    done(grid, undo["act"], undo["given"])
    current = grid.bench.services.versions.current(grid.project)
    assert current is not None
    assert current.name == "v2"


def test_two_who_roll_back_at_once_go_back_one_step(grid: Grid) -> None:
    """Both have read that v1 would take the place of v2."""
    versions = grid.bench.services.versions
    for tasks in (range(61, 75), range(75, 90)):
        grid.bench.label(*tasks)
        grid.bench.turn()
    for number in (1, 2, 3):
        versions.promote(grid.project, number)
    assert 'data-act="roll-back" data-given="{&#34;version&#34;: &#34;v3&#34;}"' in get(grid, "page/versions").text
    assert "v2 is served" in done(grid, "roll-back", {"version": "v3"})
    for route in ("would", "acts"):
        said = sentence(act(grid, "roll-back", {"version": "v3"}, route=route), 409)
        assert "v2 is served by now, not v3" in said
    current = versions.current(grid.project)
    assert current is not None
    assert current.number == 2
    with pytest.raises(ConflictError, match="not v3"):
        versions.roll_back(grid.project, served=3)


def test_nobody_is_told_that_the_queue_follows_at_once_where_it_does_not(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = grid.bench.services

    def says() -> str:
        return str(act(grid, "pin", {"version": "v1"}, route="would").json()["says"])

    assert "follows at once" in says()
    services.tuning.pause(grid.project)
    assert "follows once it goes on" in says()
    monkeypatch.setattr(type(services.acceptances), "is_blind", lambda *_: True)
    assert "follows once the audit" in says()


def test_a_turn_is_cancelled_while_others_wait_for_its_end(grid: Grid) -> None:
    """As many wait as there are threads for acts, each for up to two minutes."""
    jobs = grid.bench.services.jobs
    job = jobs.begin(grid.project, "worker", "labels")
    assert job is not None
    asks = [
        threading.Thread(target=act, args=(grid, "ask-next", {"tasks": [100 + each]}), daemon=True) for each in range(5)
    ]
    with grid.http:
        for each in asks:
            each.start()
        cancel = threading.Thread(target=act, args=(grid, "cancel"), daemon=True)
        cancel.start()
        cancel.join(60)
        cancelled = jobs.cancelled(job)
        jobs.stop(job)
        for each in [*asks, cancel]:
            each.join(60)
    assert cancelled


def test_what_is_no_act_or_no_version_is_said(grid: Grid) -> None:
    sentence(act(grid, "drop-all"), 404)
    sentence(act(grid, "pin", {"version": "v77"}), 404)
    sentence(act(grid, "pin", {"version": EVIL}), 422)
    sentence(act(grid, "pin", {"version": ["v1"]}), 422)
    sentence(act(grid, "pin"), 422)


def test_no_guess_is_told_of_held_out_images_nor_of_any_while_an_audit_is_on(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = grid.bench.services
    round_ = services.ledger.last_round(grid.project)
    assert round_ is not None
    services.ledger.mark_pushed(round_)
    shown = get(grid, "page/queue").text
    for query in services.ledger.queries(round_):
        item = shown[shown.index(f'id="queue-{query.task_id}"') :].partition("</li>")[0]
        assert ('class="guess"' in item) == (query.arm not in BLIND and bool(query.prediction)), item
        assert ("without a guess" in item) == (query.arm in BLIND)
    assert 'class="guess"' in shown
    monkeypatch.setattr(type(services.acceptances), "is_blind", lambda *_: True)
    shown = get(grid, "page/queue").text
    assert 'class="guess"' not in shown
    assert "margin" not in shown, "nor a reason that names one"


def test_whatever_somebody_is_called_or_called_something_is_text(grid: Grid) -> None:
    services = grid.bench.services
    services.acts.record(grid.project, "train", account=EVIL, person=EVIL, detail={"said": EVIL + "\ud800"})
    job = services.jobs.begin(grid.project, "w", EVIL)
    assert job is not None
    services.jobs.heartbeat(job, 0.5, EVIL)
    for section in SECTIONS:
        told = get(grid, f"page/{section.name}?first={EVIL}&second=v1&all={EVIL}")
        assert told.status_code == 200
        assert "<script" not in told.text
        assert "<img src=x" not in told.text
    services.jobs.stop(job)


def test_a_version_that_was_not_measured_yet_is_told_over_http_too(grid: Grid) -> None:
    holdout = {"n": 0, "accuracy": None, "low": None, "high": None}
    services = grid.bench.services
    with services.database.write() as connection:
        row = connection.execute(sa.select(versions.c.meta)).scalar_one()
        measured = {**row, "metrics": {**row.get("metrics", {}), "holdout": holdout}}
        connection.execute(versions.update().values(meta=measured))
    answer = grid.http.get(f"/projects/{grid.project.id}")
    assert answer.status_code == 200, answer.text
    assert "not measured yet" in get(grid, "page/progress").text


# -- the files ---------------------------------------------------------------------------------------------------------


def test_pages_have_a_strict_policy_and_nothing_in_them_needs_a_weaker_one(grid: Grid) -> None:
    for address in ("/overview", "/projects/1/page", "/projects/1/grid", "/projects/1/accept"):
        assert grid.http.get(address).headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    for page in PAGES.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|<style|https?://(?!www.w3.org)", text), page


def test_the_licence_of_each_library_that_is_shipped_is_listed() -> None:
    listed = (STATIC / "vendor" / "LICENCES.txt").read_text()
    assert not [path.name for path in (STATIC / "vendor").glob("*.js") if path.name not in listed]

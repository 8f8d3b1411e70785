"""The page for accepting the rest, over HTTP: who may ask for what, what is told, and to whom."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.acceptance.certifying import files
from ml_backend.errors import LabelStudioUnavailableError
from ml_backend.store.acceptances import Acceptance
from ml_backend.worker import requeue
from tests.acceptance.audited import answer, answer_all, begin, certify, contradict, drawn, trained
from tests.bench import Bench
from tests.web.fake_accept import Desk, desk_of
from tests.web.fake_grid import ANNA, BEN, STRANGER, sentence

ERROR = {"error": 0.05}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = trained(tmp_path_factory.mktemp("accept") / "data")
    yield made
    made.services.database.close()


@pytest.fixture
def desk(bench: Bench) -> Iterator[Desk]:
    with desk_of(bench) as made:
        yield made


def audited(desk: Desk) -> Acceptance:
    begin(desk.bench)
    desk.bench.turn()
    found = desk.bench.services.acceptances.auditing(desk.bench.project)
    assert found is not None
    return found


def certified(desk: Desk) -> str:
    begin(desk.bench)
    answer_all(desk.bench)
    return certify(desk.bench).certificate_id


def told(text: str) -> str:
    """What a person reads of a part of the page."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


# -- from the plan to the end ------------------------------------------------------------------------------------------


def test_the_rest_is_planned_audited_certified_written_and_taken_back_on_the_page(desk: Desk) -> None:
    assert "None yet: an audit ends with one" in told(desk.state())
    desk.post("plan")
    desk.until(lambda: "looks in all" in desk.state())
    assert "by v1 and 30 held-out images, at 95% confidence" in told(desk.state())
    assert desk.would("audit", **ERROR).startswith("People will be asked for 66 labels, drawn at random from the ")
    assert desk.bench.services.acceptances.all(desk.bench.project) == [], "to ask changes nothing"
    assert desk.do("audit", **ERROR) == "Audit 1 is on: it asks people for 66 labels."
    assert "0 of 66 looks" in told(desk.state())
    assert desk.bench.services.jobs.status(desk.bench.project).due is not None, "the service pushes what it asks for"
    answer_all(desk.bench)
    state = told(desk.state())
    assert "Next: All is answered: certify it." in state
    assert re.search(r"If it ended now, \d+ of \d+ labels would be accepted", state)
    assert desk.would("certify").startswith("Ends the audit with a certificate for ")
    said = desk.do("certify")
    (made,) = desk.bench.services.acceptances.vouched(desk.bench.project)
    assert made.certificate is not None
    assert said == f"Certificate {made.certificate_id}: {made.certificate['promise']}"
    name, count = made.certificate_id, made.certificate["accepted_unseen"]
    state = told(desk.state())
    assert made.certificate["promise"] in state
    assert f"Write {count} labels …" in state
    assert f"found wrong since 0 of at most {made.certificate['wrong_in_part_at_most']}" in state
    assert desk.would("write", certificate=name).startswith(f"Labels {count} tasks in Label Studio")
    assert desk.do("write", certificate=name) == f"{count} tasks labelled by certificate {name}."
    state = told(desk.state())
    assert "written just now" in state
    assert "labels …" not in state, "nothing is left to be written"
    desk.bench.turn()
    assert f"written: {count} labels stand" in told(desk.state())
    assert desk.would("undo", certificate=name).startswith(f"Takes {count} labels of certificate {name} out")
    assert desk.do("undo", certificate=name) == f"{count} labels of certificate {name} taken back."
    assert "taken back just now" in desk.state()
    desk.bench.turn()
    assert "not written" in told(desk.state())
    assert desk.bench.accepted == {}


def test_an_audit_and_a_certificate_are_the_doing_of_the_person_whose_token_it_is(desk: Desk) -> None:
    desk.do("audit", **ERROR)
    acceptance = desk.bench.services.acceptances.last(desk.bench.project)
    assert acceptance is not None
    assert acceptance.created_by == "a@b.c"
    assert desk.asked["person"] == "Anna"
    answer_all(desk.bench)
    desk.do("certify")
    (made,) = desk.bench.services.acceptances.vouched(desk.bench.project)
    assert (made.certificate or {})["certified_by"] == "a@b.c"


def test_an_audit_is_given_up_on_the_page_and_the_risk_is_told(desk: Desk) -> None:
    audited(desk)
    assert desk.would("stop").startswith("Gives up audit 1: its answers stay labels, and 1 in 100 of the risk is left")
    assert desk.do("stop").startswith("Gave up audit 1")
    assert "1 audit has taken 4 of these, for good; 1 left for further ones" in told(desk.state())


# -- who may, and when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "words"), [(None, "is missing"), ("wrong-token", "refused the token"), (STRANGER, "may see")]
)
def test_without_a_token_that_may_see_the_project_nothing_is_told_or_done(
    desk: Desk, token: str | None, words: str
) -> None:
    name = certified(desk)
    for reply in (
        desk.get("/state", token),
        desk.get(f"/certificates/{name}.json", token),
        desk.post("plan", token=token),
        desk.post("would", {"act": "audit"}, token),
        desk.post("acts", {"act": "audit"}, token),
    ):
        assert words in sentence(reply, 403)
    assert desk.bench.project.state.act is None


def test_who_may_only_look_sees_no_act_and_none_is_done_for_them(desk: Desk) -> None:
    audited(desk)
    state = desk.state(BEN)
    assert "data-act" not in state
    assert "lets you look at this project, not change it" in told(state)
    assert "data-act" in desk.state(ANNA)
    for act in ("audit", "certify", "stop", "write", "undo"):
        for what in ("would", "acts"):
            assert "look at 'project 1', not change it" in sentence(desk.post(what, {"act": act}, BEN), 403)
    assert desk.bench.project.state.act is None


def test_label_studio_that_does_not_say_what_a_person_may_is_asked_again_later(desk: Desk) -> None:
    desk.grid.studio.rights = 502
    assert "does not say whether you may change the project" in sentence(desk.get("/state"), 503)
    desk.grid.studio.rights = 400
    assert "begin-audit" in desk.state(), "who is told that a config is wrong may change it"


def test_what_a_person_may_is_asked_anew_before_each_act(desk: Desk) -> None:
    assert "begin-audit" in desk.state()
    desk.grid.studio.rights = 403
    assert "begin-audit" in desk.state(), "what is merely shown may be a minute old"
    assert "not change it" in sentence(desk.post("acts", {"act": "audit"}), 403)


def test_one_act_of_a_project_at_a_time_and_everybody_sees_it(desk: Desk) -> None:
    name = certified(desk)
    desk.gate.clear()
    desk.begin("write", certificate=name)
    assert desk.reached.wait(120)
    for what in ("would", "acts"):
        said = sentence(desk.post(what, {"act": "write", "certificate": name}), 409)
        assert said.startswith("Writing accepted labels, asked for by Anna, is under way")
    state = desk.state(BEN)
    assert 'data-busy="yes"' in state
    count = len(
        desk.bench.services.certifying.labels_to_write(
            desk.bench.project, desk.bench.services.acceptances.vouched(desk.bench.project)[0]
        )
    )
    assert f"Writing accepted labels , asked for by Anna {count // 2} of {count}" in told(state)
    assert 'aria-disabled="true"' in desk.state(ANNA)
    desk.gate.set()
    assert desk.ended().startswith(f"{count} tasks labelled")


def test_acts_that_the_state_does_not_allow_are_refused_at_once_with_what_to_do(desk: Desk) -> None:
    for act in ("certify", "stop"):
        assert "begin one first" in sentence(desk.post("acts", {"act": act}), 409)
    assert "Say which certificate" in sentence(desk.post("acts", {"act": "write"}), 422)
    assert "Say which certificate" in sentence(desk.post("acts", {"act": "undo", "certificate": EVIL}), 422)
    unknown = {"act": "write", "certificate": "0f3a9c5512de"}
    assert "has no certificate 0f3a9c5512de" in sentence(desk.post("acts", unknown), 404)
    assert sentence(desk.post("acts", {"act": "fly"}), 422)
    for error in (0, 1, -1, "much"):
        assert "`error` is wrong" in sentence(desk.post("acts", {"act": "audit", "error": error}), 422)
    name = certified(desk)
    assert "None yet" not in desk.state()
    begin(desk.bench, 0.2, 0.8)
    assert "is on already: certify it, or give it up" in sentence(desk.post("would", {"act": "audit"}), 409)
    assert "must stay without a label" in sentence(desk.post("acts", {"act": "write", "certificate": name}), 409)
    assert "An audit is on" in sentence(desk.post("plan"), 409)


def test_a_project_without_a_model_or_with_too_few_held_out_answers_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", tasks=120, measured=20)
    with desk_of(bench) as desk:
        assert "none yet" in told(desk.state())
        for labelled in ((), range(21, 61)):
            bench.label(*labelled)
            if labelled:
                bench.turn()
            said = desk.post("would", {"act": "audit"})
            assert said.status_code in {404, 422}, said.text
            desk.post("plan")
            desk.until(lambda: "plan-error" in desk.state())
            assert desk.do("audit")
            assert desk.asked["failed"]
        assert "0 of at least 20" in told(desk.state())
    bench.services.database.close()


def test_a_plan_is_kept_while_the_version_and_the_labels_stand(desk: Desk) -> None:
    desk.post("plan")
    desk.until(lambda: "looks in all" in desk.state())
    assert "work-out" not in desk.state()
    desk.bench.label(61)
    desk.bench.turn()
    assert "looks in all" not in desk.state()
    assert "work-out" in desk.state()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_is_told_with_the_fix_and_the_same_act_goes_on(desk: Desk) -> None:
    name = certified(desk)
    desk.trouble.append(LabelStudioUnavailableError("Label Studio cannot be reached: check that it is running."))
    assert desk.do("write", certificate=name).startswith("Label Studio cannot be reached")
    assert 'class="failed"' in desk.state()
    desk.bench.turn()
    state = told(desk.state())
    assert "written in part" in state
    assert "Take back …" in state
    assert desk.do("write", certificate=name).endswith(f"labelled by certificate {name}.")
    assert 'class="done"' in desk.state()


def test_after_the_service_was_killed_everybody_is_told_what_was_interrupted_and_that_it_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = certified(desk)
    desk.gate.clear()
    desk.begin("write", certificate=name)
    assert desk.reached.wait(120)
    with desk_of(desk.bench) as again:  # another process of the service, by what it knows
        assert "asked for by a command, or another process of the service" in told(again.state(BEN))
        monkeypatch.setattr(requeue, "_alive", lambda _pid: False)
        state = told(again.state(BEN))
        assert "Writing accepted labels was interrupted: the service was stopped." in state
        assert "write again, and it goes on where it stopped" in state
        assert again.do("write", certificate=name).endswith(f"labelled by certificate {name}.")
        assert "interrupted" not in again.state()
    desk.gate.set()
    desk.until(lambda: 'id="at-work"' not in desk.state())


def test_a_fault_of_ours_is_logged_and_told_without_its_inside(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    name = certified(desk)
    desk.trouble.append(RuntimeError("secret inside"))
    assert "see the service's log" in desk.do("write", certificate=name)
    assert "secret inside" not in desk.state()
    assert "secret inside" in caplog.text


def test_each_act_has_a_line_in_the_log_of_who_asked_and_what_came_of_it(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ml_backend.web.accept_work")
    desk.do("audit", **ERROR)
    key = desk.bench.project.key
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("accept_work")]
    assert lines == [
        f"accept audit on {key}: asked for by a@b.c",
        f"accept audit on {key}: done for a@b.c: Audit 1 is on: it asks people for 66 labels.",
    ]
    assert ANNA not in caplog.text


# -- blind -------------------------------------------------------------------------------------------------------------


def test_while_an_audit_is_on_nothing_says_how_many_were_found_wrong(desk: Desk) -> None:
    """The same is told whether none or three of its answers are wrong, of a former certificate for the same labels as well."""
    certified(desk)
    none, three = (everything_told(desk, wrong) for wrong in (0, 3))
    assert none == three
    assert "Nothing is vouched for yet" in none[1]


def everything_told(desk: Desk, wrong: int) -> list[str]:
    """On a copy, when three answers to another audit were given, so many of them wrong."""
    twin = desk.bench.copied(desk.bench.settings.data_dir.parent / f"wrong-{wrong}")
    with desk_of(twin) as other:
        begin(twin, 0.2, 0.8)
        twin.turn()
        asked = drawn(twin)[:3]
        answer(twin, *asked[wrong:])
        contradict(twin, *asked[:wrong])
        twin._read()
        acceptance = twin.services.acceptances.auditing(twin.project)
        assert acceptance is not None
        assert twin.services.auditing.standing(twin.project, acceptance).wrong == wrong
        tells = [told(other.state()), other.post("would", {"act": "certify"}).json()["error"]]
        tells += [other.do("certify"), told(other.state())]
    twin.services.database.close()
    return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text) for text in tells]


# -- text ---------------------------------------------------------------------------------------------------------------


def test_markup_in_a_title_a_label_or_a_name_is_text(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data", tasks=400, measured=30, kinds=("cat", "dog", EVIL))
    bench.label(*range(1, 61))
    bench.turn()
    project = bench.project
    bench.services.ledger.upsert_project(
        project.key, title=EVIL, label_config=project.label_config, schema=project.schema
    )
    with desk_of(bench) as desk:
        bench.services.ledger.configure(
            project, act={"what": "stop", "by": EVIL, "person": EVIL, "at": "2026-01-01T00:00:00+00:00", "said": EVIL}
        )
        begin(bench)
        pages = [desk.get().text, desk.state()]
        answer_all(bench)
        certify(bench)
        pages.append(desk.state())
    bench.services.database.close()
    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in pages[0]
    assert "&lt;script&gt;alert(1)" in pages[1]


def test_the_page_has_no_inline_script_and_asks_nothing_of_another_address(desk: Desk) -> None:
    answer = desk.get(token=None)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", answer.text + desk.state())
    assert re.findall(r'(?:src|href)="(https?://[^"]*)', answer.text) == [
        f"{desk.bench.project.key.host}/user/account/personal-access-token"
    ]
    for address in re.findall(r'(?:src|href)="\.\./\.\./(static/[^"]*)"', answer.text):
        assert desk.grid.http.get(f"/{address}").status_code == 200, address


def test_a_certificate_is_downloaded_as_the_command_writes_it(desk: Desk, tmp_path: Path) -> None:
    name = certified(desk)
    (made,) = desk.bench.services.acceptances.vouched(desk.bench.project)
    for path in files(made.certificate or {}, tmp_path):
        answer = desk.get(f"/certificates/{path.name.removeprefix('certificate-')}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-disposition"] == f'attachment; filename="{path.name}"'
    assert json.loads(desk.get(f"/certificates/{name}.json").text) == made.certificate
    assert "has no certificate" in sentence(desk.get("/certificates/0f3a9c5512de.json"), 404)
    assert desk.get("/certificates/..%2F..%2Fstate.json").status_code in {404, 422}


def test_what_was_done_stands_in_the_log_of_the_project_and_what_failed_does_not(desk: Desk) -> None:
    said = desk.do("audit", **ERROR)
    (kept,) = desk.bench.services.acts.list(desk.bench.project)
    assert (kept.what, kept.person, kept.account, kept.detail) == ("accept audit", "Anna", "a@b.c", {"said": said})
    desk.do("certify")  # nothing is answered
    assert len(desk.bench.services.acts.list(desk.bench.project)) == 1

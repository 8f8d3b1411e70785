"""`ml-backend accept audit`, `status`, `certify` and `stop`, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend import cli
from ml_backend.acceptance import auditing
from ml_backend.commands import certification
from ml_backend.labelstudio import bulk_annotations
from ml_backend.worker import foreground
from tests.acceptance.audited import answer, answer_all, queue, trained
from tests.bench import HOST, Bench, without_label_studio


@pytest.fixture(scope="module")
def one_version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = trained(tmp_path_factory.mktemp("commands") / "data")
    yield made
    made.services.database.close()


@pytest.fixture
def typed(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    for name, value in (("URL", HOST), ("API_KEY", "k" * 40)):
        monkeypatch.setenv(f"LABEL_STUDIO_{name}", value)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(bench.settings.data_dir))
    monkeypatch.setenv("ML_BACKEND_ENCODER", bench.settings.encoder)
    monkeypatch.setattr(certification, "_person", lambda *_: "ann@example.org")
    monkeypatch.setattr(bulk_annotations, "settle", lambda *_, **__: None)
    monkeypatch.setattr(auditing, "drawn_seed", lambda: 1)
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    return bench


def run(bench: Bench, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    with without_label_studio(bench):
        code = cli.main(["accept", *words])
    said = capsys.readouterr()
    return code, said.out or said.err


def as_json(bench: Bench, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, said = run(bench, capsys, *words, "--json")
    assert code == 0, said
    return dict(json.loads(said))


def test_an_audit_is_begun_followed_and_certified_by_command(typed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There was no audit" in run(typed, capsys, "status")[1]
    begun = as_json(typed, capsys, "audit", "--error", "5%")
    assert (begun["state"], begun["drawn"], begun["created_by"]) == ("auditing", 66, "ann@example.org")
    assert queue(typed)[0].strategy == "audit", "a turn was run"
    said = run(typed, capsys, "status")[1]
    assert "0 of 66 asked for" in said
    assert "66 tasks in the queue to answer" in said
    code, said = run(typed, capsys, "certify")
    assert (code, "Answer the 66 tasks that the audit asks for" in said) == (1, True)
    answer_all(typed)
    said = run(typed, capsys, "status")[1]
    assert "complete: run `ml-backend accept certify`" in said
    assert "would be accepted without a look" in said
    certified = as_json(typed, capsys, "certify", "--out", "here")
    assert [Path(path).is_file() for path in certified["files"]] == [True, True]
    assert certified["accepted_unseen"] > 200
    assert "wrong labels so far, of at most" in run(typed, capsys, "status")[1]
    assert as_json(typed, capsys, "status")["acceptance"]["to_write"] == certified["accepted_unseen"]


def test_what_a_killed_writing_left_is_gone_before_the_labels_are_frozen(
    typed: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its predictions show the model's labels, and Label Studio may still make annotations of them, in mid-audit."""
    asked: list[tuple[str, bool]] = []

    def settled(_project_id: int, _client: object, *, mark: str) -> None:
        asked.append((mark, typed.services.acceptances.is_blind(typed.project)))

    monkeypatch.setattr(bulk_annotations, "settle", settled)
    run(typed, capsys, "audit", "--error", "5%", "--dry-run")
    assert asked == []
    run(typed, capsys, "audit", "--error", "5%")
    mark, by_hand = bulk_annotations.MARK, bulk_annotations.BY_HAND
    assert asked == [(mark, False), (by_hand, False), (by_hand, True)], (
        "those of the grid, and what came of it meanwhile"
    )


def test_a_dry_run_says_what_would_be_asked_and_changes_nothing(
    typed: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    before = queue(typed)[0]
    code, said = run(typed, capsys, "audit", "--error", "5%", "--dry-run")
    assert code == 0
    assert said.startswith("Would ask people for 66 labels of ")
    assert "Nothing was changed (--dry-run)." in said
    assert (typed.services.acceptances.all(typed.project), queue(typed)[0]) == ([], before)
    run(typed, capsys, "audit", "--error", "5%")
    answer_all(typed)
    for verb, words in (("certify", "labels at most"), ("stop", "Would give up audit 1")):
        code, said = run(typed, capsys, verb, "--dry-run")
        assert (code, words in said) == (0, True)
    (acceptance,) = typed.services.acceptances.all(typed.project)
    assert acceptance.state == "auditing"
    assert list(Path.cwd().glob("certificate-*")) == []


def test_stopping_brings_the_former_queue_back_and_tells_what_risk_is_left(
    typed: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    run(typed, capsys, "audit", "--error", "5%")
    code, said = run(typed, capsys, "stop")
    assert (code, "0.01 of the risk is left" in said) == (0, True)
    assert queue(typed)[0].strategy == "auto"
    assert "given up" in run(typed, capsys, "status")[1]
    code, said = run(typed, capsys, "stop")
    assert (code, "nothing to stop" in said) == (1, True)


def test_the_status_of_the_project_has_a_line_about_its_audit(typed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    run(typed, capsys, "audit", "--error", "5%")
    capsys.readouterr()
    assert cli.main(["sync", "status"]) == 0
    said = capsys.readouterr().out
    assert "audit      0 of 66 looked at\n" in said
    assert "by audit, pushed: 66 of 66 tasks to go, drawn at random" in said


def test_a_turn_is_foretold_with_what_the_audit_asks_for(typed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    run(typed, capsys, "audit", "--error", "5%")
    served = queue(typed)[0]
    with without_label_studio(typed):
        assert cli.main(["sync", "run", "--dry-run"]) == 0
    assert f"Would leave the queue {served.served_name} as it is." in capsys.readouterr().out
    answer(typed, *(query.task_id for query in queue(typed)[1]))
    typed._read()
    with without_label_studio(typed):
        assert cli.main(["sync", "run", "--dry-run"]) == 0
    assert "Would push a new queue." in capsys.readouterr().out
    acceptance = typed.services.acceptances.auditing(typed.project)
    assert acceptance is not None
    assert (acceptance.drawn, acceptance.sample) == (66, None), "nothing was drawn or ended"


def test_a_certificate_is_still_told_when_a_later_audit_was_given_up(
    typed: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who takes it back has to name it."""
    as_json(typed, capsys, "audit", "--error", "5%")
    answer_all(typed)
    made = as_json(typed, capsys, "certify")
    as_json(typed, capsys, "audit", "--error", "20%", "--confidence", "80%")
    as_json(typed, capsys, "stop")
    line = f"before     certificate {made['certificate']}, for {made['accepted_unseen']} labels: certified"
    assert line in run(typed, capsys, "status")[1]
    (other,) = as_json(typed, capsys, "status")["others"]
    assert other["certificate_id"] == made["certificate"]

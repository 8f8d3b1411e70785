"""What a certificate says, what may be written by it, and what keeps it from being given."""

from __future__ import annotations

import hashlib
import json
from html import escape
from pathlib import Path
from typing import Any

import pytest

from ml_backend.acceptance import certificate
from ml_backend.acceptance.certifying import files
from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.store.acceptances import Acceptance
from tests.acceptance.audited import answer, answer_all, begin, certify, contradict, drawn, queue
from tests.bench import Bench, without_label_studio

pytestmark = pytest.mark.usefixtures("same_order")


def written(bench: Bench, acceptance: Acceptance) -> dict[int, str]:
    with without_label_studio(bench):
        bench._read()
    return bench.services.certifying.labels_to_write(bench.project, acceptance)


def told(acceptance: Acceptance) -> dict[str, Any]:
    assert acceptance.certificate is not None
    return acceptance.certificate


def test_a_certificate_says_who_when_what_and_how_sure(bench: Bench) -> None:
    begun = begin(bench).acceptance
    wrong = drawn(bench)[2]
    seen = answer_all(bench, wrong)
    made = certify(bench)
    document = told(made)
    assert (made.state, document["certificate"], document["model_version"]) == ("certified", begun.certificate_id, "v1")
    assert (document["certified_by"], document["audit"]["begun_by"]) == ("bob@example.org", "ann@example.org")
    assert (document["error"], document["confidence"]) == (0.05, 0.95)
    assert document["risk"] == {"taken": 0.04, "of_each_rare_class": 0.04, "left": pytest.approx(0.01)}
    assert (document["sample"], document["looked_at"], document["wrong_in_sample"]) == (len(seen), len(seen), 1)
    assert document["looked_at_by"] == {"1": len(seen)}
    assert document["classes"] == ["cat", "dog", "owl"]
    (found,) = document["found_wrong"]
    assert (found["task_id"], found["filename"], found["people"]) == (wrong, f"{wrong}.png", bench.answers[wrong][0])
    assert found["model"] != found["people"]
    assert found["why"] == "people gave another label"
    waiting = bench.services.ledger.counts(bench.project).waiting
    assert document["left_to_people"] + document["accepted_unseen"] == waiting
    assert document["wrong_among_these_at_most"] <= document["wrong_in_part_at_most"] - 1
    assert f"Of {document['part']:,} labels at most {document['wrong_in_part_at_most']}" in document["promise"]
    assert "over all attempts in a project up to this one" in document["promise"], "later ones may ask for less"
    json.dumps(document)


def test_what_may_be_written_is_what_the_digest_is_over(bench: Bench) -> None:
    begin(bench)
    seen = answer_all(bench)
    made = certify(bench)
    labels = written(bench, made)
    assert len(labels) == told(made)["accepted_unseen"] == told(made)["digest"]["lines"]
    assert not set(labels) & set(seen)
    assert all(label in {"cat", "dog", "owl"} for label in labels.values())
    lines = "".join(json.dumps([task, bench.hash_of(task), labels[task]]) + "\n" for task in sorted(labels))
    assert told(made)["digest"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_nothing_is_certified_before_the_sample_says_so_and_nothing_is_changed_then(bench: Bench) -> None:
    begin(bench)
    bench.turn()
    with pytest.raises(
        InvalidInputError, match=r"Nothing is vouched for yet.*Answer the \d+ tasks that the audit asks for"
    ):
        certify(bench)
    acceptance = bench.services.acceptances.auditing(bench.project)
    assert acceptance is not None
    assert acceptance.sample is None, "the sample goes on"
    assert bench.turn().round is not None
    assert queue(bench)[0].strategy == "audit"


def test_a_sample_that_refutes_the_model_gives_no_certificate_and_the_ways_out_are_named(bench: Bench) -> None:
    begin(bench)
    answer_all(bench, *drawn(bench, 335)[:120])
    with pytest.raises(InvalidInputError, match=r"more than 5% may be wrong: give it up with `ml-backend accept stop`"):
        certify(bench)
    assert bench.services.acceptances.auditing(bench.project) is not None


def test_a_certificate_may_be_had_as_soon_as_something_is_vouched_for_and_no_look_counts_after_it(bench: Bench) -> None:
    begin(bench)
    answer(bench, *drawn(bench, 80))
    bench.turn()
    acceptance = bench.services.acceptances.auditing(bench.project)
    assert acceptance is not None
    bench.services.acceptances.draw(acceptance, 200)  # much more would be looked at
    made = certify(bench)
    assert (made.sample, told(made)["sample"]) == (80, 80)
    assert told(made)["accepted_unseen"] > 0
    assert bench.turn().round is not None
    assert queue(bench)[0].strategy == "auto"


def test_a_certificate_asked_for_again_is_the_one_that_was_given(bench: Bench, tmp_path: Path) -> None:
    """Whoever was killed between the store and the files runs it again."""
    begin(bench)
    answer_all(bench)
    made = certify(bench)
    assert certify(bench) == made
    paths = files(told(made), tmp_path / "new")
    assert [path.name for path in paths] == [f"certificate-{made.certificate_id}.{kind}" for kind in ("json", "html")]
    assert json.loads(paths[0].read_text()) == told(made)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)


def test_a_name_that_no_file_can_hold_does_not_keep_the_certificate_from_being_written(
    bench: Bench, tmp_path: Path
) -> None:
    begin(bench)
    answer_all(bench)
    document = told(certify(bench))
    document["project"]["title"] = "half a character: \ud83d"
    as_json, page = files(document, tmp_path)
    assert json.loads(as_json.read_text(encoding="utf-8"))["project"]["title"] == document["project"]["title"]
    assert "half a character" in page.read_text(encoding="utf-8")


def test_without_an_audit_there_is_no_certificate(bench: Bench) -> None:
    with pytest.raises(ConflictError, match="`ml-backend accept audit` begins one"):
        certify(bench)
    begun = begin(bench).acceptance
    with pytest.raises(ConflictError, match="run `ml-backend accept certify` first"):
        written(bench, begun)
    bench.services.auditing.stop(bench.project)
    with pytest.raises(ConflictError, match="`ml-backend accept audit` begins one"):
        certify(bench)


def test_what_changed_since_is_left_to_people_whatever_it_is(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    made = certify(bench)
    before = written(bench, made)
    answered, other, gone, skipped = sorted(before)[:4]
    answer(bench, answered)
    bench.ids = [task for task in [*bench.ids, 401] if task != gone]
    bench.answers[skipped], bench.answered[skipped] = (), bench.answered[answered]
    with without_label_studio(bench):
        bench._read()
    bench.services.ledger.set_content_hash(bench.project, {other: f"{10**9:064x}"})
    left = bench.services.certifying.labels_to_write(bench.project, made)
    assert set(before) - set(left) == {answered, other, gone, skipped}
    assert 401 not in left


def test_a_label_changed_between_the_audit_and_the_certificate_changes_it(bench: Bench) -> None:
    begin(bench)
    answer(bench, *drawn(bench, 150))
    bench.turn()
    contradict(bench, drawn(bench)[0])
    document = told(certify(bench))
    assert (document["sample"], document["wrong_in_sample"]) == (150, 1)


def test_a_label_that_is_gone_from_the_config_is_told_with_its_fix_and_nothing_is_certified(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    bench.configure(["cat", "dog", "hound"])
    with pytest.raises(InvalidInputError, match="'owl' is not in the label config any more"):
        certify(bench)
    bench.configure(["owl", "cat", "dog", "hound"])
    made = certify(bench)
    bench.configure(["cat", "dog"])
    with pytest.raises(InvalidInputError, match="'owl' is not in the label config any more"):
        written(bench, made)


def test_another_version_since_is_no_matter(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    assert len(bench.versions) > 1
    assert told(certify(bench))["model_version"] == "v1"


def test_wrong_labels_found_since_are_counted_and_past_the_bound_nothing_is_written(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    made = certify(bench)
    allowed = told(made)["wrong_in_part_at_most"]
    found = sorted(written(bench, made))
    contradict(bench, *found[:allowed])
    bench.turn()
    status = bench.services.status.of(bench.project)
    assert status["acceptance"]["progress"] == {"found_wrong": allowed, "wrong_at_most": allowed, "broken": None}
    assert len(written(bench, made)) == len(found) - allowed
    contradict(bench, found[allowed])
    bench.turn()
    problems = bench.services.status.of(bench.project)["problems"]
    assert any(f"Certificate {made.certificate_id} is broken: {allowed + 1} wrong labels" in each for each in problems)
    with pytest.raises(ConflictError, match="is broken"):
        written(bench, made)


def test_a_certificate_is_not_told_broken_because_a_label_has_another_name(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    made = certify(bench)
    bench.configure(["hound", "cat", "owl"])  # as `ml-backend relabel dog hound` leaves it
    for task, said in bench.answers.items():
        bench.answers[task] = ("hound",) if said == ("dog",) else said
    bench.turn()
    status = bench.services.status.of(bench.project)
    assert status["acceptance"]["progress"] == {
        "found_wrong": None, "wrong_at_most": told(made)["wrong_in_part_at_most"], "broken": None
    }  # fmt: skip
    assert not any("broken" in each for each in status["problems"])
    with pytest.raises(InvalidInputError, match="'dog' is not in the label config any more"):
        written(bench, made)


def test_the_page_says_what_the_document_says_and_runs_nothing_that_a_name_contains(bench: Bench) -> None:
    begin(bench)
    wrong = drawn(bench)[2]
    answer_all(bench, wrong)
    document = told(certify(bench))
    evil = "<script>alert('x')</script>&\"\x1b[31m"
    document["project"]["title"] = evil
    document["classes"] = [evil, "dog"]
    document["found_wrong"][0] |= {"filename": evil, "people": evil}
    document["rare_classes"] = [
        {"label": evil, "labels": 3, "looked_at": 1, "wrong": 0, "accepted_unseen": 0, "in_words": "left to people"}
    ]
    page = certificate.page(document)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5
    for said in ("promise", "not_promised"):
        assert escape(document[said]) in page
    assert document["digest"]["sha256"] in page

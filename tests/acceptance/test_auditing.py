"""An audit, turn by turn: blind, to the last task drawn, the same after a kill, and paid for whatever becomes of it."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from ml_backend.errors import ConflictError, InvalidInputError
from ml_backend.manual_queue import QueryOptions
from ml_backend.records import AuditQueue
from ml_backend.steps.push_queue import queue_items, without_former_guesses
from ml_backend.store.acceptances import Acceptances
from tests.acceptance.audited import ERROR, answer, answer_all, begin, certify, contradict, drawn, queue
from tests.bench import Bench, without_label_studio

pytestmark = pytest.mark.usefixtures("same_order")


def advanced(bench: Bench) -> AuditQueue | None:
    return bench.services.auditing.advance(bench.project, bench.services.ledger.pool(bench.project))


def test_what_is_frozen_are_the_tasks_that_wait_less_those_whose_guess_people_have_before_them(bench: Bench) -> None:
    in_sight = {query.task_id for query in queue(bench)[1] if query.prediction}
    assert in_sight
    begun = begin(bench)
    frozen = bench.services.acceptances.frozen(begun.acceptance)
    assert set(frozen.ids.tolist()) == set(range(61, 401)) - in_sight
    assert [frozen.hashes[0].decode()] == [bench.hash_of(int(frozen.ids[0]))]
    assert begun.acceptance.version == 1
    guesses = {task: name for task, name in bench.guesses().items() if task in set(frozen.ids.tolist())}
    assert guesses == {}, "none is shown any more"


def test_the_queue_is_the_first_part_of_the_order_drawn_and_carries_no_guess(bench: Bench) -> None:
    begun = begin(bench).acceptance
    frozen = bench.services.acceptances.frozen(begun)
    bench.set(prelabels="always")
    bench.turn()
    round_, queries = queue(bench)
    assert round_.strategy == "audit"
    assert [query.task_id for query in queries] == frozen.ids[begun.order[: begun.drawn]].tolist()
    assert {query.arm for query in queries} == {"audit"}, "those that are held out as well"
    assert {(query.confidence, query.prediction) for query in queries} == {(None, ())}
    assert all(item.result == [] for item in queue_items(bench.project, queries, 0.0))


def test_no_guess_is_told_of_any_task_until_the_certificate_is_there_or_the_audit_given_up(bench: Bench) -> None:
    """Whatever is not drawn yet may be drawn next, and until then what was answered may be changed."""
    bench.set(prelabels="always")
    assert bench.guesses() != {}
    begin(bench)
    assert bench.guesses() == {}
    answer_all(bench)
    assert bench.guesses() == {}
    certify(bench)
    assert bench.guesses() != {}
    begin(bench)
    bench.services.auditing.stop(bench.project)
    assert bench.guesses() != {}


def test_a_refuted_sample_is_not_mended_with_the_guess_in_sight(bench: Bench) -> None:
    """All is answered, and too much of it wrong: were guesses shown now, they would say which answers to change."""
    bench.set(prelabels="always")
    begin(bench)
    answer(bench, *(drawn(bench, 100)[12:]))
    contradict(bench, *drawn(bench, 100)[:12])
    bench.turn()
    with pytest.raises(InvalidInputError, match="Nothing is vouched for"):
        certify(bench)
    assert bench.guesses() == {}
    round_, queries = queue(bench)
    assert round_.strategy == "auto", "whatever else waits is asked for"
    assert {query.prediction for query in queries} == {()}
    assert without_former_guesses(round_, queries) == [query.task_id for query in queries]
    with pytest.raises(ConflictError, match="nobody is to see what the model thinks"):
        bench.services.field_writer.plan(bench.project)
    bench.turn()
    assert queue(bench)[0].number == round_.number
    bench.services.auditing.stop(bench.project)
    bench.turn()
    round_, queries = queue(bench)
    assert any(query.prediction for query in queries), "the next queue has guesses at once"
    assert without_former_guesses(round_, queries) == []


def test_nothing_else_becomes_the_queue_while_the_audit_asks(bench: Bench) -> None:
    chosen_before = bench.services.manual_queue.batch(bench.project, {400: 1.0})
    begin(bench)
    with pytest.raises(ConflictError, match=r"its tasks are the queue until they are answered.*ml-backend accept stop"):
        bench.services.manual_queue.batch(bench.project, {400: 1.0})
    with pytest.raises(ConflictError, match="its tasks are the queue"):
        bench.services.manual_queue.query(bench.project, QueryOptions())
    with pytest.raises(ConflictError, match="its tasks are the queue"):
        bench.services.manual_queue.push(bench.project, chosen_before)


def test_what_the_model_thinks_stands_in_no_field_of_a_task_while_the_audit_asks(bench: Bench) -> None:
    project = bench.services.ledger.configure(bench.project, fields=("model_status", "model_guess", "model_confidence"))
    with pytest.raises(ConflictError, match="take it away with `ml-backend fields --remove`"):
        begin(bench)
    bench.services.ledger.configure(project, fields=None)
    begin(bench)
    with pytest.raises(ConflictError, match="nobody is to see what the model thinks"):
        bench.services.field_writer.plan(bench.project)


def test_the_queue_stays_until_the_last_task_drawn_is_answered_whatever_is_trained(bench: Bench) -> None:
    begin(bench)
    bench.turn()
    first, queries = queue(bench)
    answer(bench, *(query.task_id for query in queries[:-1]))
    bench.turn()
    assert len(bench.versions) == 2, "its answers train the model as any others"
    assert queue(bench)[0].number == first.number
    answer(bench, queries[-1].task_id)
    bench.turn()
    assert queue(bench)[0].number > first.number


def test_a_deleted_answer_is_asked_for_again(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    task = drawn(bench)[3]
    del bench.answers[task]
    bench.turn()
    round_, queries = queue(bench)
    assert (round_.strategy, [query.task_id for query in queries]) == ("audit", [task])
    assert bench.guesses() == {}


def test_when_all_is_answered_the_queue_is_the_strategys_again_and_the_sample_is_ended(bench: Bench) -> None:
    begin(bench)
    seen = answer_all(bench)
    acceptance = bench.services.acceptances.auditing(bench.project)
    assert acceptance is not None
    assert (acceptance.complete, acceptance.sample, acceptance.drawn) == (True, len(seen), len(seen))
    assert queue(bench)[0].strategy == "auto"
    assert acceptance.progress is not None
    assert (acceptance.progress["looked"], acceptance.progress["wrong"]) == (len(seen), 0)
    assert acceptance.progress["would_accept"] == acceptance.size - len(seen)


def test_wrong_ones_have_more_drawn_where_that_is_worth_it(bench: Bench) -> None:
    begun = begin(bench).acceptance
    seen = answer_all(bench, drawn(bench)[2])
    assert len(seen) > begun.drawn
    assert seen == drawn(bench, len(seen)), "in the order drawn"


def test_a_turn_that_is_killed_after_any_line_of_the_audit_comes_to_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    begin(bench)
    answer(bench, *drawn(bench, 80))
    with without_label_studio(bench):
        bench._read()
    for name in ("draw", "end_sample", "note"):
        real = getattr(Acceptances, name)

        def killed(*args: object, _real: object = real, **kwargs: object) -> None:
            _real(*args, **kwargs)  # type: ignore[operator]
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(Acceptances, name, killed)
            with suppress(KilledError):
                advanced(bench)
    assert advanced(bench) is None
    acceptance = bench.services.acceptances.auditing(bench.project)
    assert acceptance is not None
    assert (acceptance.sample, acceptance.complete) == (80, True)


def test_a_stopped_audit_leaves_its_answers_and_gives_nothing_back(bench: Bench) -> None:
    begin(bench)
    bench.turn()
    asked = [query.task_id for query in queue(bench)[1]]
    bench.label(*asked[:5])
    bench.turn()
    bench.services.auditing.stop(bench.project)
    assert bench.turn().labelled == 65
    assert queue(bench)[0].strategy == "auto"
    assert bench.guesses() != {}
    with pytest.raises(ConflictError, match="nothing to stop"):
        bench.services.auditing.stop(bench.project)
    again = begin(bench)
    assert again.acceptance.number == 2
    assert again.acceptance.risk == pytest.approx(0.008)


def test_when_the_risk_is_spent_no_further_audit_begins_and_a_lower_confidence_is_named(bench: Bench) -> None:
    for risk in (0.04, 0.008, 0.0016):
        assert begin(bench, 0.2).acceptance.risk == pytest.approx(risk)
        bench.services.auditing.stop(bench.project)
    with pytest.raises(InvalidInputError, match=r"4\.96 in 100 of the risk.*--confidence 94%.*or label the rest"):
        begin(bench, 0.2)
    with pytest.raises(InvalidInputError, match="would not be worth its name"), without_label_studio(bench):
        bench.services.project_rest.plan(bench.project, (0.2,), 0.95)
    assert begin(bench, 0.2, 0.9).acceptance.risk == pytest.approx(0.8 * 0.0504), "counted as it is, not as a share"


def test_a_second_audit_at_the_same_time_is_refused(bench: Bench) -> None:
    begin(bench)
    with pytest.raises(ConflictError, match="is on already: `ml-backend accept status`"):
        begin(bench)


def test_where_nothing_would_be_accepted_no_audit_begins_and_no_risk_is_taken(bench: Bench) -> None:
    bench.label(*range(1, 31), as_="cat")
    bench.turn()
    with pytest.raises(InvalidInputError, match=r"With at most 0\.5% of wrong labels, nothing would be accepted: the"):
        begin(bench, 0.005)
    assert bench.services.acceptances.spent(bench.project) == 0.0


def test_a_label_config_that_lost_a_label_keeps_the_audit_from_deciding_anything(bench: Bench) -> None:
    begun = begin(bench).acceptance
    kinds = sorted(set(bench.truth.values()))
    answer(bench, *drawn(bench, 80))
    bench.configure([*kinds[1:], "hound"])
    bench.turn()
    told = bench.services.status.of(bench.project)
    acceptance = bench.services.acceptances.auditing(bench.project)
    assert acceptance is not None
    assert (acceptance.drawn, acceptance.sample, acceptance.complete) == (begun.drawn, None, False)
    assert any(f"{kinds[0]!r} is not in the label config any more" in problem for problem in told["problems"])
    bench.configure(kinds)
    bench.turn()
    acceptance = bench.services.acceptances.auditing(bench.project)
    assert acceptance is not None
    assert acceptance.complete


def test_the_status_of_a_project_tells_of_its_audit(bench: Bench) -> None:
    assert bench.services.status.of(bench.project)["acceptance"] is None
    begun = begin(bench).acceptance
    bench.turn()
    told = bench.services.status.of(bench.project)["acceptance"]
    assert (told["state"], told["version"], told["error"]) == ("auditing", "v1", ERROR)
    assert (told["progress"]["asked"], told["progress"]["looked"]) == (begun.drawn, 0)


def test_the_status_of_a_project_does_not_tell_those_who_are_asked_how_many_were_found_wrong(bench: Bench) -> None:
    begin(bench)
    contradict(bench, *drawn(bench, 2))
    bench.turn()
    (acceptance,) = bench.services.acceptances.all(bench.project)
    assert (acceptance.progress or {})["wrong"] == 2
    told = bench.services.status.of(bench.project)["acceptance"]
    assert "wrong" not in told["progress"]


def test_a_roll_back_does_not_bring_the_audits_queue_back(bench: Bench) -> None:
    begin(bench)
    answer_all(bench)
    before = queue(bench)[0]
    bench.services.versions.roll_back(bench.project)
    bench.turn()
    after = queue(bench)[0]
    assert after.number >= before.number
    assert after.strategy != "audit"


def test_the_order_is_drawn_anew_each_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    orders = []
    for _ in range(2):
        orders.append(begin(bench, 0.2).acceptance.order.tolist())
        bench.services.auditing.stop(bench.project)
    assert orders[0] != orders[1]
    assert not np.array_equal(orders[0], sorted(orders[0]))


def test_what_is_answered_with_a_guess_in_sight_while_an_audit_begins_is_left_to_people(bench: Bench) -> None:
    """A page of the grid that was being written came in after the labels were read, and before no guess was shown."""
    late = [100, 101, 102, 103]
    auditing = bench.services.auditing
    with without_label_studio(bench):
        begun = auditing.begin(
            bench.project, ERROR, 0.95, by="ann@example.org", end_guessed=lambda: bench.label(*late)
        ).acceptance
    frozen = bench.services.acceptances.frozen(begun)
    assert not set(frozen.ids.tolist()) & set(late)
    assert set(begun.order.tolist()) == set(range(len(frozen.ids)))
    assert (begun.size, len(frozen.hashes), frozen.parts[-1]) == (len(frozen.ids),) * 3
    assert 0 < begun.drawn <= begun.size
    assert auditing.standing(bench.project, begun).looked == 0, "nobody has looked yet"
    bench.turn()
    assert {query.task_id for query in queue(bench)[1]} == set(frozen.ids[begun.order[: begun.drawn]].tolist())


def test_an_audit_of_which_all_is_answered_meanwhile_is_told(bench: Bench) -> None:
    everything = bench.ids
    with without_label_studio(bench), pytest.raises(ConflictError, match="nothing to audit"):
        bench.services.auditing.begin(
            bench.project, ERROR, 0.95, by="ann@example.org", end_guessed=lambda: bench.label(*everything)
        )
    assert bench.services.acceptances.auditing(bench.project) is None

"""What is set aside is in no queue, no reserve and no guess of the rest until it is taken back; what measures is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend.errors import NothingToAskError
from ml_backend.look_alikes import LookAlikes
from ml_backend.manual_queue import Batch
from ml_backend.steps.choose import BY_HAND, spare
from ml_backend.store.rounds import Round
from tests.bench import Bench, without_label_studio
from tests.slices import held_out


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.label(*bench.ids[:60])
    bench.turn()
    return bench


def last(bench: Bench) -> Round:
    round_ = bench.services.ledger.last_round(bench.project)
    assert round_ is not None
    return round_


def asked(bench: Bench) -> set[int]:
    """Those of the queue and of its reserve."""
    ledger, round_ = bench.services.ledger, last(bench)
    reserve = spare(bench.project, bench.corpus(), round_, ledger, bench.settings)
    return {query.task_id for query in ledger.queries(round_)} | set(reserve)


def grid(bench: Bench) -> set[int]:
    has = bench.services
    shown = LookAlikes(has.ledger, has.features, has.predictor, has.settings, has.acceptances)
    return set(shown.guesses(bench.project).ids.tolist())


def test_what_is_set_aside_is_in_no_queue_reserve_or_grid_until_it_is_taken_back(bench: Bench) -> None:
    ledger = bench.services.ledger
    left = set(bench.ids[60:])
    kept = set(bench.ids[60:70])
    before = last(bench)
    assert grid(bench) == left
    ledger.set_aside(bench.project, sorted(left - kept))
    bench.turn()
    assert last(bench).number > before.number
    assert asked(bench) == grid(bench) == kept
    bench.turn()
    assert last(bench).number == before.number + 1, "and then it stays"
    ledger.take_back(bench.project, sorted(left))
    bench.turn()
    assert grid(bench) == left
    bench.set(batch_size=120)
    bench.turn()
    assert asked(bench) == left


def test_a_queue_is_made_anew_where_only_its_reserve_may_have_what_is_set_aside(bench: Bench) -> None:
    round_ = last(bench)
    queue = {query.task_id for query in bench.services.ledger.queries(round_)}
    bench.services.ledger.set_aside(bench.project, sorted(set(bench.ids[60:]) - queue)[:1])
    bench.turn()
    assert last(bench).number == round_.number + 1


def pushed(bench: Bench, *tasks: int) -> Batch:
    queue = bench.services.manual_queue
    batch = queue.batch(bench.project, {task: float(-place) for place, task in enumerate(tasks)})
    with without_label_studio(bench):
        queue.push(bench.project, batch)
    return batch


def test_a_queue_by_hand_goes_on_in_its_order_without_what_is_set_aside(bench: Bench) -> None:
    pushed(bench, 100, 90, 80, 70, 110)
    bench.services.ledger.set_aside(bench.project, [90, 80, 70])
    bench.turn()
    round_ = last(bench)
    assert [query.task_id for query in bench.services.ledger.queries(round_)] == [100, 110]
    assert round_.params[BY_HAND]
    bench.turn()
    assert last(bench).number == round_.number


def test_what_is_set_aside_between_a_batch_and_its_push_is_not_in_the_queue(bench: Bench) -> None:
    queue = bench.services.manual_queue
    batch = queue.batch(bench.project, {100: 2.0, 101: 1.0})
    bench.services.ledger.set_aside(bench.project, [100])
    with without_label_studio(bench):
        queue.push(bench.project, batch)
    assert [query.task_id for query in bench.services.ledger.queries(last(bench))] == [101]


def test_asked_for_by_name_it_is_left_out_with_what_to_do(bench: Bench) -> None:
    bench.services.ledger.set_aside(bench.project, [100])
    assert pushed(bench, 100, 101).skipped == {100: "set aside: take it back first"}
    with pytest.raises(NothingToAskError, match="take it back first"):
        pushed(bench, 100)


def test_what_turns_out_to_be_held_out_is_taken_back_and_asked_for(bench: Bench) -> None:
    ledger = bench.services.ledger
    ledger.set_aside(bench.project, [100, 101])
    held_out(ledger, bench.project, *bench.ids[:20], 100)
    bench.turn()
    rows = ledger.pool(bench.project)
    assert rows.ids[rows.aside].tolist() == [101]
    assert 100 in {query.task_id for query in ledger.queries(last(bench))}


def test_accepting_the_rest_leaves_it_out(bench: Bench) -> None:
    bench.services.ledger.set_aside(bench.project, [100])
    model = bench.services.predictor.answering(bench.project)
    rest = bench.services.auditing.rest().proposal(bench.project, bench.corpus(), model)
    assert set(rest.ids.tolist()) == set(bench.ids[60:]) - {100}

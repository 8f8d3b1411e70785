"""A project most of whose labels are a model's, accepted: what is asked for, learned and measured from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_backend import cli
from ml_backend.acceptance import writing as acceptance_writing
from ml_backend.errors import NothingToAskError
from ml_backend.labelstudio.withdrawing import Withdrawn
from ml_backend.worker import foreground
from tests.acceptance.audited import accept, answer_all, begin_as_ever, certify, queue, take_back
from tests.bench import HOST, Bench, without_label_studio


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """400 tasks, 60 held out, half of these answered before an audit whose certificate was written; the rest answered."""
    bench = Bench(tmp_path_factory.mktemp("after") / "data", tasks=400, measured=60)
    bench.set(batch_size=10, holdout_share=0.2)
    bench.label(*range(1, 31), *range(61, 101))
    bench.turn()
    begin_as_ever(bench)
    answer_all(bench)
    made = certify(bench)
    with without_label_studio(bench):
        bench._read()
    accept(bench, bench.services.certifying.labels_to_write(bench.project, made), made.certificate_id)
    bench.turn()
    label_queue(bench)
    with pytest.raises(NothingToAskError, match="400 are answered"):
        bench.turn()
    return bench


@pytest.fixture
def bench(finished: Bench, tmp_path: Path) -> Bench:
    return finished.copied(tmp_path / "copy")


def label_queue(bench: Bench) -> None:
    bench.label(*(query.task_id for query in queue(bench)[1] if query.task_id not in bench.answers))


def test_held_out_images_with_an_accepted_label_hold_measuring_up_until_people_answer_them(bench: Bench) -> None:
    counts = bench.services.ledger.counts(bench.project)
    stuck = bench.services.ledger.not_measured(bench.project)
    assert counts.holdout_measured == 30
    assert 0 < counts.holdout_accepted <= len(stuck), "some come after all that people have answered"
    assert set(stuck) <= set(bench.accepted) & set(range(1, 61))
    take_back(bench, *stuck)
    bench.turn()
    asked = queue(bench)[1]
    assert {query.task_id for query in asked} == set(stuck)
    assert {(query.arm, query.prediction) for query in asked} == {("holdout", ())}, "without a guess"
    label_queue(bench)
    with without_label_studio(bench):
        bench._read()
    assert bench.services.ledger.counts(bench.project).holdout_measured >= 30 + len(stuck)


def test_the_command_takes_back_those_alone_and_the_certificate_stays_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.services.acceptances.mark(bench.services.acceptances.vouched(bench.project)[0], "written")
    for name, value in (("URL", HOST), ("API_KEY", "k" * 40)):
        monkeypatch.setenv(f"LABEL_STUDIO_{name}", value)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(bench.settings.data_dir))
    monkeypatch.setenv("ML_BACKEND_ENCODER", bench.settings.encoder)
    monkeypatch.setattr(foreground, "WORKER_SECONDS", 0.0)
    stuck, given = bench.services.ledger.not_measured(bench.project), []

    def undone(*_: object, task_ids: list[int], **__: object) -> Withdrawn:
        given.append(task_ids)
        take_back(bench, *task_ids)
        return Withdrawn(withdrawn=task_ids)

    monkeypatch.setattr(acceptance_writing, "undo", undone)
    with without_label_studio(bench):
        assert cli.main(["accept", "undo", made.certificate_id, "--held-out", "--dry-run"]) == 0
        assert given == []
        assert cli.main(["accept", "undo", made.certificate_id, "--held-out"]) == 0
    assert given == [stuck]
    (after,) = bench.services.acceptances.vouched(bench.project)
    assert after.state == "written"
    assert {query.task_id for query in queue(bench)[1]} == set(stuck), "they are asked for at once"

from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path

import pytest

from ml_backend.errors import ConflictError, DiskFullError, NotFoundError
from ml_backend.records import LabelSchema, ProjectKey
from ml_backend.store.database import Database
from ml_backend.store.ledger import Ledger
from ml_backend.store.model_versions import Versions
from ml_backend.store.project_state import Advice
from ml_backend.store.projects import Project
from ml_backend.store.version import Verdict, Version
from ml_backend.store.version_meta import EncoderMeta, VersionMeta
from tests.fakes import FakeClock


@pytest.fixture
def versions(tmp_path: Path, database: Database, clock: FakeClock) -> Versions:
    return Versions(tmp_path / "models", database, clock=lambda: clock.advance(1))


def weights(folder: Path) -> None:
    (folder / "head.safetensors").write_bytes(b"weights")
    (folder / "encoder").mkdir()
    (folder / "encoder" / "filters.safetensors").write_bytes(b"filters")


def trained(versions: Versions, project: Project, *, promote: bool = True) -> int:
    number = versions.next_number(project)
    versions.publish(project, number, weights, VersionMeta(classes=["cat", "dog"], seed=7))
    if promote:
        versions.promote(project, number)
    return number


def served(versions: Versions, project: Project) -> Version:
    found = versions.current(project)
    assert found is not None
    return found


def left(versions: Versions, project: Project) -> list[str]:
    return sorted(p.name for p in (versions.root / str(project.id)).iterdir() if p.name != ".lock")


def test_a_published_version_is_complete_on_disk_and_not_yet_served(versions: Versions, project: Project) -> None:
    number = versions.next_number(project)
    version = versions.publish(project, number, weights, VersionMeta(classes=["cat", "dog"]))
    assert (version.name, version.state) == ("v1", "candidate")
    assert versions.current(project) is None
    folder = versions.folder(version)
    assert (folder / "encoder" / "filters.safetensors").read_bytes() == b"filters"
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["classes"], meta["version"], meta["project"]) == (["cat", "dog"], 1, str(project.key))
    assert meta == version.meta.as_json()
    assert left(versions, project) == ["v1"]


def test_promoting_serves_a_version_and_rejecting_keeps_it_aside(versions: Versions, project: Project) -> None:
    first = trained(versions, project)
    second = trained(versions, project, promote=False)
    rejected = versions.judge(project, second, Verdict("accuracy fell from 0.91 to 0.42"))
    assert (rejected.state, rejected.reason) == ("rejected", "accuracy fell from 0.91 to 0.42")
    assert served(versions, project).number == first
    assert [v.number for v in versions.list(project)] == [second, first]
    with pytest.raises(ConflictError, match="was judged before"):
        versions.judge(project, first, Verdict("no"))


def test_a_version_that_does_not_exist_can_not_be_served(versions: Versions, project: Project) -> None:
    with pytest.raises(NotFoundError):
        versions.promote(project, 1)
    number = trained(versions, project, promote=False)
    shutil.rmtree(versions.version(project, number).folder)
    with pytest.raises(NotFoundError, match="with its files"):
        versions.promote(project, number)
    with pytest.raises(NotFoundError, match="deleted or moved"):
        versions.folder(versions.version(project, number))
    assert versions.current(project) is None


def test_rolling_back_goes_one_version_back_each_time(versions: Versions, project: Project) -> None:
    one, two, three = (trained(versions, project) for _ in range(3))
    assert versions.roll_back(project).number == two
    assert versions.version(project, three).state == "rolled_back"
    assert versions.roll_back(project).number == one
    with pytest.raises(ConflictError, match="no earlier"):
        versions.roll_back(project)
    assert served(versions, project).number == one


def test_after_a_roll_back_the_next_training_is_served_again(versions: Versions, project: Project) -> None:
    trained(versions, project)
    trained(versions, project)
    versions.roll_back(project)
    assert trained(versions, project) == 3
    assert served(versions, project).number == 3
    assert versions.roll_back(project).number == 1


def test_a_pinned_version_stays_whatever_is_trained(versions: Versions, project: Project) -> None:
    first, _ = trained(versions, project), trained(versions, project)
    versions.pin(project, first)
    assert versions.pinned(project)
    candidate = trained(versions, project, promote=False)
    with pytest.raises(ConflictError, match="unpin"):
        versions.promote(project, candidate)
    assert served(versions, project).number == first
    versions.unpin(project)
    assert versions.promote(project, candidate).state == "promoted"


def judged(versions: Versions, project: Project, reason: str | None = None) -> Version:
    return versions.publish(project, versions.next_number(project), weights, verdict=Verdict(reason))


def test_a_version_is_entered_judged_and_served_in_one_step(versions: Versions, project: Project) -> None:
    assert judged(versions, project).state == "promoted"
    assert judged(versions, project, "worse").state == "rejected"
    assert served(versions, project).name == "v1"


def test_after_unpinning_the_newest_version_that_was_good_enough_is_served(
    versions: Versions, project: Project
) -> None:
    judged(versions, project)
    versions.pin(project, 1)
    waiting = judged(versions, project)
    assert (waiting.state, waiting.reason) == ("passed", "v1 is pinned")
    judged(versions, project, "worse")
    trained(versions, project, promote=False)
    assert served(versions, project).name == "v1"
    for look in (versions.after_unpin, versions.unpin):
        found = look(project)
        assert found is not None
        assert found.name == "v2"
    assert (served(versions, project).name, versions.pinned(project)) == ("v2", False)
    assert versions.unpin(project) is None


@pytest.mark.parametrize("bad", ["rejected", "rolled_back"])
def test_a_version_that_was_not_good_enough_is_served_while_it_is_pinned_and_not_after(
    versions: Versions, project: Project, bad: str
) -> None:
    first = trained(versions, project)
    second = trained(versions, project, promote=bad == "rolled_back")
    if bad == "rejected":
        versions.judge(project, second, Verdict("5 of 20 right"))
    else:
        versions.roll_back(project)
    why = versions.version(project, second).reason
    versions.pin(project, second)
    assert served(versions, project).number == second
    assert (versions.version(project, second).state, versions.version(project, second).reason) == (bad, why)
    versions.pin(project, first)
    assert versions.unpin(project) == served(versions, project) == versions.version(project, first)


def test_a_pin_is_no_verdict(versions: Versions, project: Project) -> None:
    number = trained(versions, project, promote=False)
    versions.pin(project, number)
    assert versions.version(project, number).state == "candidate"
    assert versions.judge(project, number, Verdict("5 of 20 right")).state == "rejected"


def test_rolling_back_goes_by_what_was_served_and_not_by_the_clock(
    versions: Versions, project: Project, clock: FakeClock
) -> None:
    for _ in range(3):
        trained(versions, project)
        clock.advance(-600)
    assert versions.roll_back(project).number == 2
    assert versions.roll_back(project).number == 1


def test_unpinning_serves_nothing_whose_files_are_gone(versions: Versions, project: Project) -> None:
    judged(versions, project)
    versions.pin(project, 1)
    shutil.rmtree(judged(versions, project).folder)
    versions.unpin(project)
    assert (served(versions, project).name, versions.pinned(project)) == ("v1", False)


def test_a_candidate_is_judged_once(versions: Versions, project: Project) -> None:
    number = trained(versions, project, promote=False)
    assert versions.judge(project, number, Verdict()).state == "promoted"
    with pytest.raises(ConflictError, match="judged before"):
        versions.judge(project, number, Verdict("worse"))
    assert served(versions, project).number == number


def test_a_full_disk_leaves_the_old_version_serving_and_no_trace(versions: Versions, project: Project) -> None:
    before = trained(versions, project)

    def fills_up(folder: Path) -> None:
        weights(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    number = versions.next_number(project)
    with pytest.raises(DiskFullError, match="still served"):
        versions.publish(project, number, fills_up)
    assert served(versions, project).number == before
    assert [v.number for v in versions.list(project)] == [before]
    assert left(versions, project) == ["v1"]
    assert versions.next_number(project) == number


@pytest.mark.parametrize("error", [ValueError("bad"), PermissionError("no"), KeyboardInterrupt()])
def test_any_error_while_writing_leaves_nothing(versions: Versions, project: Project, error: BaseException) -> None:
    def breaks(folder: Path) -> None:
        weights(folder)
        raise error

    with pytest.raises(type(error)):
        versions.publish(project, 1, breaks)
    assert left(versions, project) == []
    assert versions.list(project) == []


def test_a_number_is_never_used_twice(versions: Versions, project: Project) -> None:
    number = trained(versions, project)
    with pytest.raises(ConflictError, match="next_number"):
        versions.publish(project, number, weights)
    (versions.root / str(project.id) / "v41").mkdir()
    assert versions.next_number(project) == 42


def test_what_dead_writers_left_is_swept_and_nothing_else(
    versions: Versions, project: Project, database: Database
) -> None:
    number = trained(versions, project)
    parent = versions.root / str(project.id)
    half = parent / ".writing-v2-abc"
    half.mkdir()
    orphan = parent / "v2"
    shutil.copytree(parent / f"v{number}", orphan)
    foreign = parent / "v3"
    shutil.copytree(parent / f"v{number}", foreign)
    (foreign / "meta.json").write_text(json.dumps({"store": "another"}))
    assert set(versions.sweep()) == {half, orphan}
    assert left(versions, project) == ["v1", "v3"]
    assert list(versions.sweep()) == []


def test_a_version_being_written_is_not_swept_from_under_its_writer(
    versions: Versions, project: Project, tmp_path: Path, database: Database
) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        weights(folder)
        writing.set()
        assert go_on.wait(60)

    writer = threading.Thread(target=versions.publish, args=(project, 1, slow), daemon=True)
    writer.start()
    assert writing.wait(60)
    assert list(Versions(versions.root, database).sweep()) == []
    go_on.set()
    writer.join()
    assert versions.folder(versions.version(project, 1)).is_dir()


def test_pruning_keeps_the_newest_and_never_touches_the_served_one(versions: Versions, project: Project) -> None:
    numbers = [trained(versions, project) for _ in range(5)]
    versions.pin(project, numbers[0])
    assert list(versions.prune(project, keep=2)) == [3, 2]
    assert left(versions, project) == ["v1", "v4", "v5"]
    assert versions.version(project, 3).state == "pruned"
    assert versions.version(project, 3).meta.seed == 7
    assert list(versions.prune(project, keep=2)) == []
    assert list(versions.prune(project, keep=0)) == [5, 4]
    assert versions.folder(served(versions, project)).is_dir()


def test_a_version_that_is_still_needed_is_never_pruned(versions: Versions, project: Project, ledger: Ledger) -> None:
    for _ in range(6):
        trained(versions, project)
    ledger.configure(project, imported=1, advice=Advice(version=3))
    assert list(versions.prune(project, keep=2)) == [4, 2]
    assert left(versions, project) == ["v1", "v3", "v5", "v6"]


def test_an_encoder_that_pruned_versions_had_is_of_use_as_long_as_a_version_has_it(
    versions: Versions, project: Project
) -> None:
    for number, (mode, encoder) in enumerate(
        [("finetune", "a"), ("head", "b"), ("finetune", "c"), ("finetune", "d")], 1
    ):
        meta = VersionMeta(mode=mode, encoder=EncoderMeta(id=encoder))
        versions.publish(project, number, weights, meta, verdict=Verdict())
    taken_up = VersionMeta(mode="import", encoder=EncoderMeta(id="c"))
    versions.publish(project, 5, weights, taken_up, verdict=Verdict())
    versions.publish(project, 6, weights, verdict=Verdict())
    assert list(versions.prune(project, keep=2)) == [4, 3, 2, 1]
    assert set(versions.unused_encoders(project)) == {"a", "b", "d"}, "c was taken up by an import"
    for number in (7, 8):
        versions.publish(project, number, weights, verdict=Verdict())
    versions.prune(project, keep=2)
    assert set(versions.unused_encoders(project)) == {"a", "b", "c", "d"}, "nor does anybody have c now"


def test_rejected_versions_push_no_good_ones_out(versions: Versions, project: Project) -> None:
    good = [trained(versions, project) for _ in range(3)]
    for _ in range(3):
        versions.judge(project, trained(versions, project, promote=False), Verdict("5 of 20 right"))
    assert list(versions.prune(project, keep=3)) == []
    assert versions.roll_back(project).number == good[-2]
    for _ in range(2):
        versions.judge(project, trained(versions, project, promote=False), Verdict("5 of 20 right"))
    assert set(versions.prune(project, keep=3)) == {3, 4, 5}, "what was rolled back from, and rejected ones"


def test_a_pruned_version_is_not_rolled_back_to(versions: Versions, project: Project) -> None:
    for _ in range(3):
        trained(versions, project)
    versions.prune(project, keep=1)
    with pytest.raises(ConflictError, match="no earlier"):
        versions.roll_back(project)


def test_projects_have_versions_of_their_own(versions: Versions, project: Project, database: Database) -> None:
    schema = LabelSchema("choice", "image", "image", ("cat", "dog"))
    other = Ledger(database).upsert_project(
        ProjectKey("http://elsewhere", 1), title="Pets", label_config="<View/>", schema=schema
    )
    trained(versions, project)
    assert versions.current(other) is None
    assert trained(versions, other) == 1
    assert served(versions, project).folder != served(versions, other).folder

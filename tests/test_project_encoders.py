"""Where an encoder's weights come from, as ML_BACKEND_ENCODER asks for them: a cache, a download that is checked, or neither."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from safetensors.torch import load

from ml_backend import cli, cycle, diagnostics
from ml_backend.encoders import checked_download, hub_files
from ml_backend.encoders.encoder_choice import choose
from ml_backend.encoders.networks import NetworkEncoder, build_network
from ml_backend.encoders.weight_files import Fetching
from ml_backend.errors import ConfigError, DiskFullError
from ml_backend.labelstudio.checks import Finding
from ml_backend.records import EncoderOrigin, Task
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store.encoder_origins import origin_of
from ml_backend.store.projects import Project
from ml_backend.store.reconcile import ReconcileReport
from tests.encoders.hub_stand_in import REPOSITORY, StandIn, publish, standing_in
from tests.labelstudio.test_transport import Host, running

NAME = "timm:test_vit.r160_in1k"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
Open = Callable[..., tuple[Services, Project]]


class CancelledError(Exception):
    """Somebody pressed Cancel."""


def cancel() -> None:
    raise CancelledError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    with standing_in(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def pictures() -> Iterator[Host]:
    """What serves the images."""
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(picture, "PNG")
    with running(Host(reply=lambda *_: (200, picture.getvalue()))) as host:
        yield host


@pytest.fixture
def start(tmp_path: Path, pictures: Host) -> Iterator[Open]:
    """start(folder, **settings): the service with a project of twelve images in that data folder, as if started anew."""
    opened: list[Services] = []

    def start(folder: str, **settings: Any) -> tuple[Services, Project]:
        services = Services.open(
            Settings(data_dir=tmp_path / folder, label_studio_url=pictures.url, label_studio_api_key="k", **settings)
        )
        opened.append(services)
        project = services.registry.register(pictures.url, 1, CONFIG, created=None)
        tasks = [Task(i, f"/data/upload/1/{i}.png", {"image": f"/data/upload/1/{i}.png"}) for i in range(1, 13)]
        services.ledger.reconcile(project, [(task, None) for task in tasks], full=True)
        return services, project

    yield start
    for services in opened:
        services.database.close()


def origin(services: Services, project: Project) -> EncoderOrigin:
    found = origin_of(services.settings, project)
    assert found is not None
    return found


def origin_after(services: Services, project: Project) -> EncoderOrigin:
    services.encoders.of(project)
    return origin(services, project)


def doctor(services: Services, project: Project) -> Finding:
    """What it says of the encoder alone."""
    return diagnostics._encoder(project, services.settings)


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix in {".part", ".pth", ".safetensors"}]


def test_the_first_start_downloads_with_progress_and_the_second_asks_nobody(
    hub: StandIn, start: Open, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    services, project = start("one", encoder=NAME)
    with caplog.at_level(logging.INFO):
        encoder = services.encoders.of(project, tell=told.append)
    weights = hub.files[REPOSITORY, "model.safetensors"]
    sha256 = hashlib.sha256(weights).hexdigest()
    assert f"downloading {NAME}, 1 of 1 MB" in told
    assert sha256 in caplog.text
    assert "licence: apache-2.0" in caplog.text
    found = origin(services, project)
    assert (found.source, found.sha256, found.licence) == (f"{hub.url}/{REPOSITORY}", sha256, "apache-2.0")
    assert found.why == f"{NAME}, downloaded from {hub.url.removeprefix('http://')} (1 MB)"
    assert isinstance(encoder, NetworkEncoder)
    body = encoder.module().get_submodule("body").state_dict()
    assert all((load(weights)[name] == tensor).all() for name, tensor in body.items())

    hub.requests.clear()
    for folder in ("one", "another"):
        services, project = start(folder, encoder=NAME)
        assert services.encoders.of(project).id == encoder.id
    assert hub.requests == []
    assert origin(services, project).why == f"{NAME}, from the cache"
    assert doctor(services, project) == Finding("encoder", "ok", f"{NAME}, from the cache; licence: apache-2.0.")


def test_auto_downloads_a_light_network_where_nothing_is_in_the_cache(hub: StandIn, start: Open) -> None:
    told: list[str] = []
    services, project = start("one")
    corpus = services.corpus_builder.encode_missing(project, lambda *_: None, tell=told.append)
    assert corpus is not None
    assert corpus.encoder.name == "resnet18"
    assert told[0] == "asking for the weights of resnet18"
    assert told[-1] == "downloading resnet18, 45 of 45 MB"
    assert origin(services, project).better == ""
    hub.requests.clear()
    start_again, project = start("another", downloads="no")
    assert start_again.encoders.of(project).id == corpus.encoder.id
    assert hub.requests == []


def test_a_turn_shows_how_far_the_download_is(hub: StandIn, start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    services, project = start("one")
    ledger, told = services.ledger, []
    monkeypatch.setattr("ml_backend.steps.first_order.FirstOrder.serve", lambda *_: None)
    monkeypatch.setattr("ml_backend.steps.sync_labels.LabelSync.sync", lambda *_, **__: (project, ReconcileReport()))
    monkeypatch.setattr("ml_backend.steps.push_queue.QueuePusher.tidy", lambda *_, **__: None)
    monkeypatch.setattr(
        "ml_backend.steps.push_queue.QueuePusher.serve", lambda _self, _project, round_, _: ledger.mark_pushed(round_)
    )
    cycle.run(project, services, lambda _share, doing: told.append(doing))
    assert "downloading resnet18, 45 of 45 MB" in told
    assert hub.contents


def test_a_broken_file_is_refused_and_told_and_not_there_the_next_time(
    hub: StandIn, start: Open, tmp_path: Path
) -> None:
    hub.broken = b"<html>Please sign in to the wireless network</html>"
    services, project = start("one", encoder=NAME)
    with pytest.raises(
        ConfigError, match=r"gave a broken file \(it has 51 bytes instead of .*ML_BACKEND_ENCODER_WEIGHTS"
    ):
        services.encoders.of(project)
    auto, of_auto = start("auto")
    assert auto.encoders.of(of_auto).name == "patches"
    assert "gave a broken file (its SHA-256 begins with" in origin(auto, of_auto).why
    assert parts(tmp_path / "cache") == []
    hub.broken = None
    assert services.encoders.of(project).name == "timm:test_vit.r160_in1k"


def test_of_an_answer_that_is_too_long_little_is_read(hub: StandIn, start: Open) -> None:
    """It may have no end, and the disk has."""
    size = len(hub.files[REPOSITORY, "model.safetensors"])
    hub.broken = bytes(size + 5_000_000)
    services, project = start("one", encoder=NAME)
    with pytest.raises(ConfigError, match="gave a broken file") as refused:
        services.encoders.of(project)
    came = re.search(r"it has ([\d,]+) bytes", str(refused.value))
    assert came is not None
    assert int(came[1].replace(",", "")) < size + 100_000


def test_a_file_that_the_hub_keeps_in_git_is_checked_as_well(hub: StandIn, start: Open) -> None:
    hub.small = True
    weights = hub.files[REPOSITORY, "model.safetensors"]
    hub.broken = weights[:-1] + b"?"
    services, project = start("one", encoder=NAME)
    with pytest.raises(ConfigError, match=r"gave a broken file \(its checksum is not"):
        services.encoders.of(project)
    hub.broken = None
    assert origin_after(services, project).sha256 == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize(("name", "place"), [(NAME, "blobs/*"), ("resnet18", "*.pth")])
def test_a_file_that_was_spoilt_in_the_cache_is_set_aside_and_downloaded_anew(
    hub: StandIn, start: Open, tmp_path: Path, name: str, place: str
) -> None:
    services, project = start("one", encoder=name)
    encoder = services.encoders.of(project)
    (file,) = (tmp_path / "cache").rglob(place)
    file.write_bytes(file.read_bytes()[:-1000])
    services, project = start("another", encoder=name)
    assert services.encoders.of(project).id == encoder.id
    assert file.with_name(file.name + ".broken").is_file()
    file.write_bytes(b"spoilt again")
    services, project = start("third", encoder=name, downloads="no")
    with pytest.raises(ConfigError, match=r"in the cache are broken \(.*ML_BACKEND_DOWNLOADS=no"):
        services.encoders.of(project)


@pytest.mark.parametrize("downloads_", ["yes", "no"])
def test_without_a_network_auto_takes_patches_and_says_why_and_what_a_better_one_takes(
    hub: StandIn, start: Open, monkeypatch: pytest.MonkeyPatch, downloads_: str
) -> None:
    asked: list[str] = []

    def refused(url: str, **_: Any) -> None:
        asked.append(url)
        raise requests.ConnectionError

    monkeypatch.setattr("requests.get", refused)
    services, project = start("one", downloads=downloads_)
    assert services.encoders.of(project).name == "patches"
    found = origin(services, project)
    reasons = {
        "yes": f"{hub.url.removeprefix('http://')} cannot be reached",
        "no": "downloads are off (ML_BACKEND_DOWNLOADS=no)",
    }
    assert found.why.startswith(
        "patches, learned from the project's own images: no weights of resnet18 are in the cache, and "
    )
    assert found.why.endswith(reasons[downloads_])
    assert "45 MB from download.pytorch.org" in found.better
    assert "set ML_BACKEND_ENCODER=resnet18" in found.better
    told = services.status.of(project)["encoder"]
    assert (told["why"], told["better"]) == (found.why, found.better)
    assert doctor(services, project) == Finding("encoder", "note", f"{found.why}. {found.better}")

    monkeypatch.undo()  # the network is back: the project keeps what it has
    services, project = start("one", downloads="yes")
    assert services.encoders.of(project).name == "patches"
    assert len(asked) == (1 if downloads_ == "yes" else 0)


def test_a_network_that_was_named_is_not_replaced_where_it_cannot_be_had(start: Open, hub: StandIn) -> None:
    hub.files.clear()
    services, project = start("one", encoder=NAME)
    with pytest.raises(
        ConfigError, match=r"No weights of timm:test_vit.r160_in1k are in the cache, and .* has no file model"
    ):
        services.encoders.of(project)
    hub.closed.add(REPOSITORY)
    with pytest.raises(ConfigError, match=r"agreed to its licence there, or does not exist .set HF_TOKEN"):
        services.encoders.of(project)


def test_a_firewall_that_drops_everything_is_waited_for_once_and_not_for_long(
    start: Open, monkeypatch: pytest.MonkeyPatch, hub: StandIn
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        monkeypatch.setattr(checked_download, "PATIENCE_S", 0.3)
        publish(replace(hub, url=f"http://127.0.0.1:{silent.getsockname()[1]}"), monkeypatch, "resnet18", b"never sent")
        services, project = start("one")
        with pytest.raises(CancelledError):  # while images are read
            services.encoders.of(project, cancel, lambda _doing: None)
        assert services.encoders.of(project).name == "patches"
        assert "does not answer within" in origin(services, project).why
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_turn_that_is_cancelled_in_the_middle_keeps_what_came_and_the_next_goes_on_from_there(
    hub: StandIn, start: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel_soon(doing: str) -> None:
        if doing.startswith("downloading resnet18") and not doing.startswith("downloading resnet18, 0"):
            cancel()

    monkeypatch.setattr(checked_download, "TICK_S", 0.0)
    services, project = start("one")
    with pytest.raises(CancelledError):
        services.encoders.of(project, tell=cancel_soon)
    (part,) = parts(tmp_path / "cache")
    came = part.stat().st_size
    assert 0 < came < 2_000_000
    hub.requests.clear()
    assert services.encoders.of(project).name == "resnet18"
    assert hub.contents == [(next(iter(hub.plain)), f"bytes={came}-")]
    assert [path.suffix for path in parts(tmp_path / "cache")] == [".pth"]


def test_a_connection_that_breaks_off_is_gone_on_with(
    hub: StandIn, start: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_download, "TICK_S", 0.0)
    hub.cut = [24 * checked_download.BLOCK] * 2
    services, project = start("one", encoder=NAME)
    assert services.encoders.of(project).name == NAME
    assert [wanted for path, wanted in hub.contents if path.startswith("/storage/")] == [
        None,
        f"bytes={24 * checked_download.BLOCK}-",
        f"bytes={48 * checked_download.BLOCK}-",
    ]


def test_a_file_that_was_whole_when_its_process_was_killed_is_not_downloaded_again(
    hub: StandIn, start: Open, tmp_path: Path
) -> None:
    path, data = next(iter(hub.plain.items()))
    place = tmp_path / "cache" / "torch" / "hub" / "checkpoints" / Path(path).name
    place.parent.mkdir(parents=True)
    place.with_name(place.name + ".part").write_bytes(data)
    services, project = start("one")
    assert services.encoders.of(project).name == "resnet18"
    assert hub.contents == []


def test_a_part_of_another_file_does_not_spoil_the_download(hub: StandIn, start: Open, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "torch" / "hub" / "checkpoints" / Path(next(iter(hub.plain))).name
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".part").write_bytes(b"what somebody else began")
    services, project = start("one")
    assert services.encoders.of(project).name == "resnet18"


def test_of_two_at_once_one_downloads_and_the_other_waits_for_it(hub: StandIn, start: Open) -> None:
    starts = [start(folder, encoder=NAME) for folder in ("one", "another")]
    together, ids = threading.Barrier(2), []

    def build(services: Services, project: Project) -> None:
        together.wait()
        ids.append(services.encoders.of(project).id)

    threads = [threading.Thread(target=build, args=each) for each in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert len(ids) == 2
    assert [path.partition("/")[0] for path, _ in hub.contents if path.startswith("/storage/")] == [""]


@pytest.mark.parametrize(
    "told", [{"X-Repo-Commit": "../../../../tmp"}, {"X-Linked-Etag": '"../../../evil"'}, {"X-Repo-Commit": ""}]
)
def test_a_hub_whose_answers_lead_out_of_the_cache_is_refused(
    hub: StandIn, start: Open, tmp_path: Path, told: dict[str, str]
) -> None:
    hub.told = told
    services, project = start("one", encoder=NAME)
    with pytest.raises(ConfigError, match="does not answer as the Hugging Face Hub does"):
        services.encoders.of(project)
    assert not (tmp_path / "cache" / "huggingface").exists()


def test_a_full_disk_is_told_and_nothing_else_is_taken_instead(
    hub: StandIn, start: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=20_000_000))
    services, project = start("one")
    with pytest.raises(DiskFullError, match="set TORCH_HOME to a folder on another disk"):
        services.encoders.of(project)
    monkeypatch.undo()


def test_with_a_gpu_auto_wants_a_dino_and_says_so_where_it_has_to_take_less(hub: StandIn) -> None:
    chosen = choose("auto", None, Fetching(), gpu=True)
    assert chosen.name == "resnet18"
    assert chosen.origin.why.startswith("resnet18, downloaded from")
    assert "no weights of timm:vit_small_patch14_dinov2.lvd142m are in the cache" in chosen.origin.why
    assert (
        "timm:vit_small_patch14_dinov2.lvd142m?size=224 is usually better: 84 MB from 127.0.0.1" in chosen.origin.better
    )


def test_a_licence_that_the_library_does_not_know_is_read_from_the_models_card(hub: StandIn) -> None:
    hub.licences["laion/some"] = "cc-by-nc-4.0"
    assert hub_files.licence("laion/some", lambda: None) == "cc-by-nc-4.0"
    assert hub_files.licence("laion/other", lambda: None) == ""


def test_what_is_told_of_an_encoder_does_not_change_it(hub: StandIn, start: Open) -> None:
    services, project = start("one", encoder="squeezenet1_1@none")
    encoder = services.encoders.of(project)
    assert encoder.id == build_network("squeezenet1_1@none").id
    folder = next((services.settings.data_dir / "encoders").glob("*/*"))
    stated = json.loads((folder / "encoder.json").read_text())
    assert stated["origin"]["why"] == "squeezenet1_1@none, with random weights"
    services, project = start("one", encoder="squeezenet1_1@none")
    assert services.encoders.of(project).id == encoder.id
    assert hub.requests == []


@pytest.mark.parametrize(
    ("named", "allowed", "state", "said"),
    [
        ("auto", "yes", "note", "None yet. The first turn takes resnet18, to be downloaded from 127.0.0.1"),
        (
            "auto",
            "no",
            "note",
            "takes patches, learned from the project's own images: no weights are in the cache, and downloads",
        ),
        (NAME, "no", "FIX", f"No weights of {NAME} are in the cache, and downloads are off (ML_BACKEND_DOWNLOADS=no)."),
        ("timm:test_vit.nobody", "yes", "FIX", "has no weights"),
        ("patches", "no", "note", "takes patches, as ML_BACKEND_ENCODER says"),
    ],
)
def test_the_doctor_foresees_which_encoder_it_will_be_and_asks_nobody(
    hub: StandIn, start: Open, named: str, allowed: str, state: str, said: str
) -> None:
    found = doctor(*start("one", encoder=named, downloads=allowed))
    assert found.state == state
    assert said in found.message
    assert hub.requests == []


def test_the_status_says_which_encoder_it_is_and_what_a_better_one_takes(
    start: Open, hub: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    services, project = start("one", downloads="no")
    services.encoders.of(project)
    settings = services.settings
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "k" * 40)
    monkeypatch.setenv("LABEL_STUDIO_URL", settings.label_studio_url)
    monkeypatch.setenv("ML_BACKEND_DATA_DIR", str(settings.data_dir))
    assert cli.main(["sync", "status"]) == 0
    said = capsys.readouterr().out
    assert (
        "\n  encoder    patches, learned from the project's own images: no weights of resnet18 are in the cache, and"
        in said
    )
    assert "\n             resnet18 is usually better by far, for photographs: 45 MB from" in said
    assert hub.requests == []

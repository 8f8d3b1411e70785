"""Images as a real Label Studio keeps them: uploads, local files, buckets that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_backend.demo.label_studio import EmbeddedLabelStudio
from ml_backend.errors import ImageError
from ml_backend.labelstudio import storage
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.labelstudio.config import label_config
from ml_backend.labelstudio.media import ImageReader
from ml_backend.records import Task
from tests.e2e import acts
from tests.e2e.helpers import write_pngs

NewProject = Callable[..., int]


@pytest.fixture
def reader(client: LabelStudio) -> Iterator[ImageReader]:
    reader = ImageReader(client.transport)
    yield reader
    reader.close()


@pytest.fixture
def uploaded(client: LabelStudio, new_project: NewProject, tmp_path: Path) -> tuple[list[Task], list[bytes]]:
    project_id = new_project()
    paths = write_pngs(tmp_path / "in", 12)
    paths[0] = paths[0].rename(paths[0].with_name("my photo (1) ü.png"))
    addresses = storage.upload(client, project_id, [(path.name, path.read_bytes()) for path in paths])
    client.import_tasks(project_id, [{"image": address} for address in addresses])
    tasks = sorted(client.tasks(project_id), key=lambda task: task.id)
    return tasks, [path.read_bytes() for path in paths]


def test_uploads_are_read_over_http_and_from_disk_alike(
    uploaded: tuple[list[Task], list[bytes]],
    reader: ImageReader,
    client: LabelStudio,
    label_studio: EmbeddedLabelStudio,
) -> None:
    tasks, contents = uploaded
    references = [task.image or "" for task in tasks]
    assert all(reference.startswith("/data/upload/") for reference in references)
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(reader.read, tasks)) == sorted(contents)
    on_disk = ImageReader(client.transport, media_root=label_studio.data_dir / "media")
    assert sorted(map(on_disk.read, tasks)) == sorted(contents)
    assert reader.fetch(client.url + references[0]) == reader.read(tasks[0]), "an absolute address gets the token too"


def test_an_upload_that_is_gone_is_an_image_error(
    reader: ImageReader, client: LabelStudio, label_studio: EmbeddedLabelStudio
) -> None:
    for reading in (reader, ImageReader(client.transport, media_root=label_studio.data_dir / "media")):
        with pytest.raises(ImageError, match=r"gone\.png"):
            reading.fetch("/data/upload/1/gone.png")


def test_local_files_need_a_storage_over_http_and_none_from_disk(
    client: LabelStudio, reader: ImageReader, label_studio: EmbeddedLabelStudio, new_project: NewProject
) -> None:
    assert label_studio.document_root is not None
    folder = label_studio.document_root / "birds & bees"
    (path,) = write_pngs(folder, 1)
    reference = "/data/local-files/?d=birds%20%26%20bees/0000.png"
    with pytest.raises(ImageError, match="Local Files storage"):
        reader.fetch(reference)
    acts.show_files_below(client, new_project(), str(folder.resolve()))
    assert reader.fetch(reference) == path.read_bytes()
    on_disk = ImageReader(client.transport, document_root=label_studio.document_root)
    assert on_disk.fetch(reference) == path.read_bytes()


def test_local_files_switched_off_names_the_setting(
    plain_label_studio: EmbeddedLabelStudio,
    start_label_studio: Callable[..., EmbeddedLabelStudio],
    label_studio_binary: Path,
) -> None:
    plain = EmbeddedLabelStudio(
        label_studio_binary, plain_label_studio.data_dir.with_name("no-files"), template=plain_label_studio.template
    )
    with plain, LabelStudio(plain.url, plain.token) as client:
        reading = ImageReader(client.transport)
        with pytest.raises(ImageError, match="LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true"):
            reading.fetch("/data/local-files/?d=a.png")


def test_a_bucket_that_is_not_connected_is_told(client: LabelStudio, reader: ImageReader) -> None:
    project_id = int(client.create_project("bucket", label_config(["cat", "dog"]))["id"])
    client.import_tasks(project_id, [{"image": "s3://bucket/cat.png"}])
    (task,) = client.tasks(project_id)
    assert task.image == "s3://bucket/cat.png", "the reference as imported, not Label Studio's own address for it"
    with pytest.raises(ImageError, match="Cloud Storage"):
        reader.read(task)

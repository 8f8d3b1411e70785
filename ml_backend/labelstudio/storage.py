"""Where a project's images lie: folders that Label Studio serves itself, without a copy, and files uploaded to it.

Storages go through label-studio-sdk, all else does not (docs/decisions/requests-not-the-sdk.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from ml_backend.errors import LabelStudioError, LabelStudioUnavailableError
from ml_backend.host_lists import split
from ml_backend.labelstudio.client import BULK_TIMEOUT_S, LabelStudio
from ml_backend.labelstudio.transport import detail_of_body, unavailable
from ml_backend.wording import amount

TITLE = "Images"
CLOUD_STORAGES = {"s3": ("s3", "bucket"), "gs": ("gcs", "bucket"), "azure-blob": ("azure", "container")}
"""Scheme of an address -> Label Studio's name for such storages, and the field that holds the bucket."""
_ROOT = re.compile(r'LOCAL_FILES_DOCUMENT_ROOT="([^"]+)"')
_UPLOADED = re.compile(r"upload/\d+/[0-9a-f]{8}-(.+)")


@contextmanager
def sdk(client: LabelStudio) -> Iterator[Any]:
    """label-studio-sdk with the same host and token; its errors become ours. Importing it takes about a second."""
    import httpx  # noqa: PLC0415
    from label_studio_sdk import LabelStudio as Sdk  # noqa: PLC0415
    from label_studio_sdk.core.api_error import ApiError  # noqa: PLC0415

    try:
        yield Sdk(base_url=client.url, api_key=client.transport.auth.api_key, max_retries=0)
    except ApiError as error:
        kind = LabelStudioUnavailableError if (error.status_code or 500) >= 500 else LabelStudioError
        raise kind(f"Label Studio refused ({error.status_code}): {detail_of_body(error.body)}") from error
    except httpx.HTTPError as error:
        raise unavailable(client.url, error) from error


def document_root(client: LabelStudio, project_id: int) -> PurePosixPath | None:
    """The folder below which this Label Studio may serve local files, as it sees it itself; None where it does not say.

    It names the folder when it refuses one outside of it, and nothing lies outside of it like the root.
    """
    found = _ROOT.search(local_folder_refusal(client, project_id, PurePosixPath("/")) or "")
    return PurePosixPath(found[1]) if found else None


def local_folder_refusal(client: LabelStudio, project_id: int, folder: PurePath) -> str | None:
    """Why Label Studio would not serve this folder (as it sees it), in its words; None: it would."""
    try:
        with sdk(client) as api:
            api.import_storage.local.validate(project=project_id, path=str(folder), use_blob_urls=True)
    except LabelStudioUnavailableError:
        raise
    except LabelStudioError as error:
        return str(error)
    return None


def add_local_storage(client: LabelStudio, project_id: int, folder: PurePath) -> int | None:
    """Let the project show the files below `folder`; copies nothing. Returns the new storage's id, None if it is there."""
    with sdk(client) as api:
        known = [PurePosixPath(storage.path or "") for storage in api.import_storage.local.list(project=project_id)]
        if any(path == folder or path in PurePosixPath(folder).parents for path in known):
            return None
        made = api.import_storage.local.create(project=project_id, path=str(folder), title=TITLE, use_blob_urls=True)
        return int(made.id)


def unconnected_buckets(client: LabelStudio, project_id: int, addresses: Iterable[str]) -> list[str]:
    """Buckets of these s3://, gs:// and azure-blob:// addresses that no storage of the project covers, such as s3://pics."""
    wanted = {(parts.scheme, parts.netloc) for parts in map(split, addresses) if parts.scheme in CLOUD_STORAGES}
    connected = set()
    for scheme in {scheme for scheme, _ in wanted}:
        kind, field = CLOUD_STORAGES[scheme]
        listed = client.transport.call("GET", f"/api/storages/{kind}/", params={"project": project_id})
        connected |= {(scheme, storage.get(field)) for storage in listed}
    return sorted(f"{scheme}://{bucket}" for scheme, bucket in wanted - connected)


def remove_local_storage(client: LabelStudio, storage_id: int) -> None:
    with sdk(client) as api:
        api.import_storage.local.delete(storage_id)


def local_address(relative: PurePath) -> str:
    """Address of a file, by its path below the document root."""
    return f"/data/local-files/?d={quote(relative.as_posix())}"


def upload(client: LabelStudio, project_id: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
    """Upload (name, bytes), at most 100, without making tasks of them; returns their addresses, in order."""
    # A field of its own for each: of several files in one field, Label Studio takes the last.
    fields = [(f"file{place}", (name, data)) for place, (name, data) in enumerate(files)]
    path = f"/api/projects/{project_id}/import"
    answer = client.transport.call(
        "POST", path, params={"commit_to_project": "false"}, files=fields, timeout=BULK_TIMEOUT_S
    )
    ids = answer["file_upload_ids"]
    listed = client.transport.call("GET", f"/api/projects/{project_id}/file-uploads", params={"ids": json.dumps(ids)})
    names = {item["id"]: item["file"] for item in listed}
    if len(ids) != len(files) or not set(ids) <= set(names):
        raise LabelStudioError(
            f"Label Studio stored only {len(ids)} of {amount(len(files), 'file')}: run the same "
            "command again to upload the rest."
        )
    return [f"/data/{names[number]}" for number in ids]


def uploads(client: LabelStudio, project_id: int) -> dict[str, str]:
    """What this user has uploaded to the project: the name it was given -> its address."""
    listed = client.transport.call("GET", f"/api/projects/{project_id}/file-uploads", params={"all": "true"})
    found = {}
    for item in listed:
        if match := _UPLOADED.fullmatch(item["file"]):
            found[match[1]] = f"/data/{item['file']}"
    return found

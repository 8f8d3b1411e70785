"""A stand-in for the Hugging Face Hub, its storage and download.pytorch.org, on this machine, with weights nobody trained."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ml_backend.encoders.networks import new_network
from ml_backend.encoders.vision import torchvision

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/test_vit.r160_in1k"


@dataclass
class StandIn:
    """files: by repository and name. plain: by path. licences: by repository. requests: (method, path, range) as they came.

    broken: what is served in place of a file of any address. cut: bytes of an answer after which the connection breaks off, once each.
    closed: repositories that ask for a token. told: what is said of every file, in place of the truth.
    small: files are kept as those of some kilobytes are, with git's checksum.
    """

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    broken: bytes | None = None
    cut: list[int] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    told: dict[str, str] = field(default_factory=dict)
    small: bool = False
    url: str = ""

    @property
    def contents(self) -> list[tuple[str, str | None]]:
        """Path and range of each request for the bytes of a file."""
        return [(path, wanted) for method, path, wanted in self.requests if method == "GET" and "/api/" not in path]

    def content(self, path: str) -> bytes | None:
        if path.startswith("/storage/"):
            known = {hashlib.sha256(data).hexdigest(): data for data in self.files.values()}
            return self.broken or known.get(path.removeprefix("/storage/"))
        return (self.broken or self.plain[path]) if path in self.plain else None


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        if self.path.startswith("/api/resolve-cache/"):
            self._from_git(*self.path.removeprefix("/api/resolve-cache/").rsplit("/", 1))
        elif self.path.startswith("/api/models/"):
            card = {"license": self.hub.licences.get(self.path.removeprefix("/api/models/"))}
            self._send(200, json.dumps({"cardData": card}).encode())
        elif rest:
            self._resolve(repository, rest.partition("/")[2])
        elif (data := self.hub.content(self.path)) is not None:
            self._send_part(data)
        else:
            self._send(404, b"")

    def _resolve(self, repository: str, file: str) -> None:
        """As the hub does it for large files: who and what it is, and where the bytes are."""
        data = self.hub.files.get((repository, file))
        if repository in self.hub.closed:
            self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        elif data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif self.hub.small:
            self._send(307, b"", {"Location": f"/api/resolve-cache/{repository}/{file}"})
        else:
            sha256 = hashlib.sha256(data).hexdigest()
            told = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", {**told, **self.hub.told, "Location": f"{self.hub.url}/storage/{sha256}"})

    def _from_git(self, repository: str, file: str) -> None:
        whole = self.hub.files[repository, file]
        sha1 = hashlib.sha1(b"blob %d\0" % len(whole) + whole, usedforsecurity=False).hexdigest()
        self._send(200, self.hub.broken or whole, {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1}"'})

    def _send_part(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        told = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        self._send(206 if wanted else 200, data[start:], told)

    def _send(self, status: int, body: bytes, told: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(told or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and body:
            cut = self.hub.cut.pop(0) if self.hub.cut and status in {200, 206} and "/api/" not in self.path else None
            with suppress(ConnectionError):  # who asked has enough
                self.wfile.write(body[:cut])

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def standing_in(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[StandIn]:
    """Serves a small network of timm and torchvision's resnet18, to this process alone, whose caches are below `cache`."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.files[REPOSITORY, "model.safetensors"] = small_vit()
    publish(hub, patch, "resnet18", resnet18())
    patch.setenv("HF_ENDPOINT", hub.url)
    patch.setenv("HF_HOME", str(cache / "huggingface"))
    patch.setenv("TORCH_HOME", str(cache / "torch"))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        patch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@functools.cache
def small_vit() -> bytes:
    return bytes(save(new_network("timm:test_vit").state_dict()))


@functools.cache
def resnet18() -> bytes:
    buffer = io.BytesIO()
    torch.save(new_network("resnet18").state_dict(), buffer)
    return buffer.getvalue()


def publish(hub: StandIn, patch: pytest.MonkeyPatch, name: str, data: bytes) -> str:
    """Serve it as torchvision's default weights of that network; returns the path, whose name has the checksum."""
    path = f"/models/{name}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.plain[path] = data
    default = torchvision().models.get_model_weights(name).DEFAULT
    patch.setattr(default, "_value_", replace(default.value, url=hub.url + path))
    return path

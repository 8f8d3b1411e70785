"""A task's image reference -> the file's bytes."""

from __future__ import annotations

import base64
import errno
import os
import re
import stat
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from ml_backend.errors import ImageAwayError, ImageError, LabelStudioUnavailableError
from ml_backend.host_lists import HostList
from ml_backend.labelstudio.addresses import NOBODY, origin, outside_session
from ml_backend.labelstudio.circuits import Circuits
from ml_backend.labelstudio.deadline import Deadline
from ml_backend.labelstudio.inline import inline
from ml_backend.labelstudio.transport import CONNECT_TIMEOUT_S, TRY_AGAIN, Transport, pooled_session
from ml_backend.records import Task
from ml_backend.wording import encodable

MAX_BYTES = 200 * 2**20
TOTAL_S = 30.0
HEALTH_TIMEOUT_S = 3.0
CLOUD = ("s3://", "gs://", "azure-blob://")
REDIRECTS = 5
_CHUNK = 2**16
_MEDIA = re.compile(r"/(data|storage-data|tasks/\d+/resolve|tasks/\d+/presign|projects/\d+/resolve)/")
"""What Label Studio serves as files, of its whole site: only there is its token of use, and only these lead elsewhere."""
_FOR_GOOD = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.ContentDecodingError,
)
"""What an address or an answer is, not what it is like at present."""
_OF_THE_DISK = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Faults of a disk or of this machine, which pass; not of the file."""


class ImageReader:
    """Reads images wherever Label Studio says they are. Safe to share between threads.

    transport: the Label Studio whose tasks these are (its token is sent to no other host).
    hosts: others that images may come from; a storage that Label Studio itself leads to need not be listed.
    document_root: its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, media_root: the `media` folder of its data folder, where
    this process sees them; their files are then read without HTTP, and a path that leads out of them is refused.
    seconds: the longest that fetching one image may take, from the name of its host to its last byte.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        hosts: HostList | None = None,
        document_root: Path | None = None,
        media_root: Path | None = None,
        max_bytes: int = MAX_BYTES,
        seconds: float = TOTAL_S,
        retries: int = 2,
    ) -> None:
        self._transport, self._seconds, self._max_bytes = transport, seconds, max_bytes
        self._circuits = Circuits()
        self._document_root, self._media_root = _resolved(document_root), _resolved(media_root)
        hosts = hosts or HostList()
        self._listed = outside_session(retries, hosts, led=False)
        self._redirect_session = outside_session(retries, hosts, led=True)
        self._known, self._public = pooled_session(retries), pooled_session(retries)
        self._known.auth, self._public.auth = transport.auth, NOBODY  # Label Studio, with the token and without

    def close(self) -> None:
        for session in (self._listed, self._redirect_session, self._known, self._public):
            session.close()

    def read(self, task: Task) -> bytes:
        """The image file of a task.

        Raises ImageError, naming the fix; ImageAwayError, which is one, where the image is worth another try;
        LabelStudioUnavailableError where Label Studio itself is away.
        """
        if not task.image:
            raise ImageError(
                f"Task {task.id} has no image: its data lacks the field that the label config's <Image> shows."
            )
        return self.fetch(task.image, task_id=task.id)

    def fetch(self, reference: str, task_id: int | None = None) -> bytes:
        """The bytes behind a reference: data:, /data/upload/, /data/local-files/, http(s), s3://, gs://, azure-blob://.

        The last three need the task id: Label Studio, which has the storage's credentials, presigns or proxies them.
        """
        if reference.startswith("data:"):
            return inline(reference, self._max_bytes)
        if encodable(reference) != reference:
            raise ImageError(f"{encodable(_short(reference))!r} holds half a character: correct the task data.")
        host = self._host(reference)
        self._circuits.check(host)
        try:
            data = self._fetch(reference, task_id)
        except ImageAwayError as error:
            self._circuits.failed(host, str(error))
            raise
        except ImageError:
            self._circuits.answered(host)
            raise
        self._circuits.answered(host)
        return data

    def _host(self, reference: str) -> str:
        """What is asked for it: a folder, a host, or a bucket behind Label Studio, each of which can be away alone."""
        parts = _parts(reference)
        if not parts.netloc and self._document_root and "/data/local-files/" in parts.path:
            return str(self._document_root)
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else self._transport.url

    def _fetch(self, reference: str, task_id: int | None) -> bytes:
        if reference.startswith(CLOUD):
            return self._from_storage(reference, task_id)
        parts = _parts(reference)
        if parts.scheme in {"http", "https"}:
            if not self.is_ours(reference):
                return self._download(self._listed, reference, reference)
            reference = parts._replace(scheme="", netloc="", fragment="").geturl()
            reference = reference if reference.startswith("/") else f"/{reference}"
        elif parts.scheme or not reference.startswith("/"):
            raise ImageError(
                f"{reference!r} is not an image address: use http(s)://, s3://, gs://, azure-blob://, "
                "/data/upload/... or /data/local-files/?d=... in the task data."
            )
        return self._local(reference)

    def _local(self, reference: str) -> bytes:
        """A path on the Label Studio host: read from disk where it is in sight, else over HTTP with the token."""
        prefix = urlsplit(self._transport.url).path
        path = reference.removeprefix(prefix) if prefix else reference
        parts = _parts(path)
        if parts.path.startswith("/data/local-files/"):
            relative = parse_qs(parts.query).get("d", [""])[0]
            if self._document_root:
                return self._from_disk(self._document_root, relative, "the document root")
        elif parts.path.startswith("/data/upload/") and self._media_root:
            return self._from_disk(self._media_root, unquote(parts.path.removeprefix("/data/")), "the media root")
        url = self._transport.url + path
        return self._download(self._session(url), url, reference)

    def is_ours(self, url: str) -> bool:
        """Whether an http address is Label Studio's. Raises ImageError for one that is none."""
        return origin(url) == origin(self._transport.url)

    def _session(self, url: str) -> requests.Session:
        """Who asks Label Studio for this address: we, where it names a file; else nobody, as it might do something."""
        path = unquote(urlsplit(url).path).removeprefix(urlsplit(self._transport.url).path)
        return self._known if _MEDIA.match(path) and ".." not in path.split("/") else self._public

    def _from_disk(self, root: Path, relative: str, name: str) -> bytes:
        try:
            file = (root / relative.lstrip("/")).resolve()
            if not file.is_relative_to(root):
                raise ImageError(f"{relative!r} is outside {name} {root}, so it is not read: move the file below it.")
            with open(file, "rb", opener=_at_once) as opened:
                status = os.fstat(opened.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ImageError(f"{relative!r} below {name} {root} is not a file: correct the task data.")
                content = opened.read(min(status.st_size, self._max_bytes) + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            passing = getattr(error, "errno", None) in _OF_THE_DISK or not _mounted(root)
            raise (ImageAwayError if passing else ImageError)(
                f"{relative!r} cannot be read below {name} {root} ({getattr(error, 'strerror', error)}): check that "
                "this is the folder that Label Studio serves, and that it is mounted here."
            ) from None
        if len(content) > self._max_bytes:
            raise ImageError(self._too_large(relative))
        return content

    def _from_storage(self, reference: str, task_id: int | None) -> bytes:
        if task_id is None:
            raise ImageError(
                f"{reference} can only be fetched through a Label Studio task, because only Label Studio has the "
                "credentials: import it as a task first."
            )
        encoded = base64.urlsafe_b64encode(reference.encode()).decode()
        url = f"{self._transport.url}/tasks/{task_id}/resolve/?fileuri={encoded}"
        return self._download(self._known, url, reference)

    def _download(self, session: requests.Session, url: str, reference: str) -> bytes:
        """Streams, so that a body larger than allowed is never taken in; within the total time, however slow it is.

        Each redirect is looked at like a first address.
        """
        with Deadline(self._seconds, _short(reference)) as deadline:
            try:
                for _ in range(REDIRECTS + 1):
                    found = self._answer(session, url, reference)
                    if isinstance(found, bytes):
                        deadline.check()  # an answer without a length is over when its connection is
                        return found
                    session, url = self._redirected(session, urljoin(url, found), reference)
            except requests.RequestException as error:
                deadline.check()
                raise self._unanswered(error, session, reference) from error
            except (ValueError, HTTPError):  # of urllib3, for what requests lets through: a name that cannot be one
                deadline.check()
                raise ImageError(f"{_short(reference)} leads to no valid address: {_hint(reference)}") from None
        raise ImageError(f"{_short(reference)} is redirected more than {REDIRECTS} times: {_hint(reference)}")

    def _answer(self, session: requests.Session, url: str, reference: str, *, again: bool = True) -> bytes | str:
        """One request: the body, or where it is redirected to."""
        patience = (CONNECT_TIMEOUT_S, self._seconds + 1)
        with session.get(url, stream=True, timeout=patience, allow_redirects=False) as answer:
            if answer.status_code == 401 and again and session is self._known:
                self._transport.auth.forget_access()
                return self._answer(session, url, reference, again=False)
            if answer.is_redirect:
                return str(answer.headers["Location"])
            self._check(answer, reference)
            return self._body(answer, reference)

    def _redirected(self, session: requests.Session, url: str, reference: str) -> tuple[requests.Session, str]:
        """Where to go on, and as whom. A storage that Label Studio leads to is trusted with that image, nobody else is."""
        if urlsplit(url).scheme not in {"http", "https"}:
            raise ImageError(f"{_short(reference)} is redirected to what is not an http address: {_hint(reference)}")
        if session in (self._known, self._public) and self.is_ours(url):
            return self._session(url), url
        return (self._redirect_session if session in (self._known, self._redirect_session) else self._listed), url

    def _unanswered(self, error: requests.RequestException, session: requests.Session, reference: str) -> Exception:
        if session in (self._known, self._public):
            return LabelStudioUnavailableError(
                f"Label Studio at {self._transport.url} cannot be reached to fetch {_short(reference)}: check "
                "that it is running."
            )
        return (ImageError if isinstance(error, _FOR_GOOD) else ImageAwayError)(
            f"{_short(reference)} cannot be fetched ({type(error).__name__}): check the address, and that this service "
            "can reach it."
        )

    def _body(self, answer: requests.Response, reference: str) -> bytes:
        body = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            body += chunk
            if len(body) > self._max_bytes:
                raise ImageError(self._too_large(reference))
        return bytes(body)

    def _check(self, answer: requests.Response, reference: str) -> None:
        name = _short(reference)
        if answer.status_code in TRY_AGAIN and self.is_ours(answer.url) and not self._up():
            raise LabelStudioUnavailableError(f"Label Studio answered {answer.status_code} to {name}: try again later.")
        if answer.status_code >= 500 or answer.status_code in {408, 425, 429}:
            raise ImageAwayError(
                f"{name} cannot be fetched at present (status {answer.status_code}): {_hint(reference)}"
            )
        if answer.status_code in {401, 403}:
            raise ImageError(f"Access to {name} is denied ({answer.status_code}): {_hint(reference)}")
        if answer.status_code == 404:
            raise ImageError(f"{name} does not exist (404): {_hint(reference)}")
        if not answer.ok:
            raise ImageError(f"{name} cannot be fetched (status {answer.status_code}): {_hint(reference)}")
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise ImageError(f"{name} is a web page, not an image: {_hint(reference)}")
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > self._max_bytes):
            raise ImageError(self._too_large(reference))

    def _up(self) -> bool:
        """Whether Label Studio is there all the same: then it is what it fetches the image from that is not."""
        try:
            return requests.get(f"{self._transport.url}/health", timeout=HEALTH_TIMEOUT_S).ok
        except requests.RequestException:
            return False

    def _too_large(self, reference: str) -> str:
        return f"{_short(reference)} is larger than {self._max_bytes // 2**20} MB: make the image smaller, or raise the limit."


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever may write into a pipe one day."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _hint(reference: str) -> str:
    if "/data/local-files/" in reference:
        return (
            "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and the right "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and give the project a Local Files storage whose path holds the file."
        )
    if reference.startswith(CLOUD):
        return "connect the bucket to the project under Settings, Cloud Storage, with credentials that can read it."
    if "/data/upload/" in reference:
        return (
            "the uploaded file is no longer in Label Studio's media folder, or this user may not see its "
            "project: upload it again, or use another token."
        )
    return "check that the address is public, or serve the images through Label Studio."


def _short(reference: str) -> str:
    return reference if len(reference) <= 120 else reference[:117] + "..."


def _mounted(root: Path) -> bool:
    """A folder that is missing or empty is one that is not mounted."""
    try:
        return any(root.iterdir())
    except OSError:
        return False


def _parts(reference: str) -> SplitResult:
    try:
        return urlsplit(reference)
    except ValueError:  # such as a bracket that is not closed
        raise ImageError(f"{_short(reference)!r} is not a valid address: correct the task data.") from None


def _resolved(path: Path | None) -> Path | None:
    return path.resolve() if path else None

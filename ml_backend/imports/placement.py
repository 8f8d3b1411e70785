"""Where the files of an import go: nowhere, because Label Studio sees them where they are, or up to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

from ml_backend.chunks import chunks
from ml_backend.errors import LabelStudioError, NotFoundError
from ml_backend.images.decoding import shown_copy
from ml_backend.imports.sources import Source
from ml_backend.labelstudio import storage
from ml_backend.labelstudio.client import LabelStudio
from ml_backend.task_names import UPLOADABLE, printable
from ml_backend.wording import amount

Storage = Literal["auto", "local", "upload"]

UPLOADS = 50
"""Files a request."""
COPIES = 1
"""Of files that browsers do not show: each may have a hundred megabytes, and Label Studio takes 250 a request."""
ALL_COPIED = "browsers show none of the files."
OFF = "it does not serve local files: LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED is off."


@dataclass(frozen=True)
class Ready:
    """An image that can be imported. `sha256` is None for an address. also: paths of copies with the same bytes.

    labels: None where it has none yet; () where none of the choices fits.
    copied: browsers do not show the file, so that Label Studio gets a copy that they show: the copy's suffix. The hash is the
    file's own.
    """

    source: Source
    sha256: str | None
    labels: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()
    copied: str = ""

    @property
    def key(self) -> str:
        """What makes it the same image: its content, or the address where that is all there is."""
        return self.sha256 or str(self.source.address)


class Placement:
    """Decides once for an import, then says each image's address. Files already there are not sent again."""

    def __init__(self, project_id: int, where: Storage, root: Path | None, client: LabelStudio) -> None:
        self.client, self.project_id, self.where = client, project_id, where
        self.root = root.resolve() if root else None
        self.local = False
        self.uploaded: dict[str, str] = {}

    def choose(self, files: Sequence[Ready], *, dry_run: bool) -> str:
        """Decide, and set up what is needed; returns it in words. Raises LabelStudioError if `local` cannot be."""
        if not files:
            return "addresses used as they are"
        copied, plain = ([image for image in files if bool(image.copied) == wanted] for wanted in (True, False))
        if copied and self.where == "local":
            raise LabelStudioError(
                f"Browsers do not show {amount(len(copied), 'file')}, such as {printable(copied[0].source.relative)}: copies "
                "that they show would be uploaded. Allow that (--storage auto), or convert the files."
            )
        refusal = "as asked" if self.where == "upload" else self._serve(plain, dry_run=dry_run) if plain else ALL_COPIED
        if refusal is None:
            self.local = True
        if copied or not self.local:
            self.uploaded = storage.uploads(self.client, self.project_id)
        if self.local:
            served = f"served by Label Studio from {self.root}, without copying"
            return f"{served}; {_told(copied)}" if copied else served
        if self.where == "local":
            raise LabelStudioError(
                f"Label Studio cannot serve these files itself: {refusal} Put them below its document root, or "
                "upload them (--storage upload)."
            )
        told = f"uploaded to Label Studio ({str(refusal).rstrip('.')})"
        return f"{told}; {_told(copied)}" if copied else told

    def addresses(self, chunk: Sequence[Ready]) -> list[str]:
        """Where Label Studio finds each image of a chunk, once this returns."""
        self._upload([image for image in chunk if image.source.file and (image.copied or not self.local)])
        return [self._address(image) for image in chunk]

    def _address(self, image: Ready) -> str:
        file = image.source.file
        if file is None:
            return str(image.source.address)
        if self.local and self.root and not image.copied:
            return storage.local_address(file.relative_to(self.root))
        return self.uploaded[_upload_name(image)]

    def _upload(self, images: Sequence[Ready]) -> None:
        """Upload what is not there yet. Files are named by content, so that a killed run's are known again."""
        missing = [image for image in images if _upload_name(image) not in self.uploaded]
        parts = chain.from_iterable(
            chunks([image for image in missing if bool(image.copied) == copied], COPIES if copied else UPLOADS)
            for copied in (False, True)
        )
        with ThreadPoolExecutor(2) as senders:
            for part, addresses in senders.map(self._send, parts):
                self.uploaded.update(zip(map(_upload_name, part), addresses, strict=True))

    def _send(self, part: list[Ready]) -> tuple[list[Ready], list[str]]:
        files = [(_upload_name(image), _bytes(image, image.source.file)) for image in part if image.source.file]
        return part, storage.upload(self.client, self.project_id, files)

    def _serve(self, files: Sequence[Ready], *, dry_run: bool) -> str | None:
        """Have Label Studio serve the files from where they are; says why not, if it does not."""
        seen = storage.document_root(self.client, self.project_id)
        self.root = self.root or (Path(seen) if seen else None)
        paths = [image.source.file for image in files if image.source.file]
        if seen is None or self.root is None or not all(path.is_relative_to(self.root) for path in paths):
            return f"they are not below its document root {seen or ''}".rstrip() + "."
        made = []
        for folder in _folders([path.relative_to(self.root) for path in paths]):
            if folder == PurePosixPath("."):
                return (
                    f"some are directly in its document root {seen}, which it does not serve; put them in a "
                    "folder below it."
                )
            if refusal := storage.local_folder_refusal(self.client, self.project_id, seen / folder):
                return OFF if "LOCAL_FILES_SERVING_ENABLED" in refusal else refusal
            if not dry_run and (number := storage.add_local_storage(self.client, self.project_id, seen / folder)):
                made.append(number)
        if not dry_run and not self._serves(files[0]):
            for number in made:
                storage.remove_local_storage(self.client, number)
            return f"it sees other files below {seen} than this computer does."
        return None

    def _serves(self, image: Ready) -> bool:
        """Fetch one image as an annotator's browser would, and compare."""
        if self.root is None or image.source.file is None:
            return False
        try:
            answer = self.client.transport.send("GET", storage.local_address(image.source.file.relative_to(self.root)))
        except NotFoundError:
            return False
        return answer.ok and hashlib.sha256(answer.content).hexdigest() == image.sha256


def _bytes(image: Ready, file: Path) -> bytes:
    data = file.read_bytes()
    return shown_copy(data) if image.copied else data


def _told(copied: Sequence[Ready]) -> str:
    return f"{amount(len(copied), 'file')} as {'a copy' if len(copied) == 1 else 'copies'} that browsers show, uploaded"


def _upload_name(image: Ready) -> str:
    """Content hash and suffix, one that Label Studio takes."""
    if image.copied:
        return f"{image.sha256}{image.copied}"
    suffix = PurePosixPath(image.source.filename).suffix.lower()
    return f"{image.sha256}{suffix if suffix in UPLOADABLE else '.png'}"


def _folders(relatives: Sequence[Path]) -> list[PurePosixPath]:
    """The folder all files share; where that is the root itself, the folders right below it."""
    common = os.path.commonpath([path.parent for path in relatives])
    if common:
        return [PurePosixPath(Path(common).as_posix())]
    return sorted({PurePosixPath(path.parts[0] if len(path.parts) > 1 else ".") for path in relatives})

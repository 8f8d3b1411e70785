"""Images inside their references: `data:` addresses."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from ml_backend.errors import ImageError
from ml_backend.wording import encodable

PIECE = 2**14
"""Characters decoded at a time: each `%41` costs some seventy times its size while it is."""


def inline(reference: str, most: int) -> bytes:
    """The bytes of a `data:` address. Raises ImageError for what is none, or would be more than `most` bytes."""
    name, comma = encodable(reference[:40]), reference.find(",", 0, PIECE)
    if comma < 0:
        raise ImageError(
            f"{name} is not a valid data: address: there is no comma before the image. Correct the task data."
        )
    in_base64 = reference[:comma].endswith(";base64")
    content = _unquoted(reference, comma + 1, most // 3 * 4 + 4 if in_base64 else most)
    if content is None:
        raise ImageError(f"{name}... is larger than {most // 2**20} MB: make the image smaller, or raise the limit.")
    try:
        return base64.b64decode(content, validate=True) if in_base64 else bytes(content)
    except binascii.Error:
        raise ImageError(f"{name}... is not valid base64, so the image is damaged: import it again.") from None


def _unquoted(reference: str, start: int, most: int) -> bytearray | None:
    """What stands from `start` on, decoded; None where it is more than `most` bytes."""
    content = bytearray()
    while start < len(reference):
        end = start + PIECE
        begun = reference.rfind("%", end - 2, end)  # of a character that would be cut in two
        end = begun if start < begun and end < len(reference) else end
        content += unquote_to_bytes(encodable(reference[start:end]))
        if len(content) > most:
            return None
        start = end
    return content

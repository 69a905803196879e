"""Names that follow from what they name: of a video its bytes, of a clip its span."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path


def content_id(path: Path) -> str:
    """The first 26 characters of the base32 sha256 of a file's bytes, lower case: 130 bits."""
    with open(path, "rb") as file:
        return short_id(hashlib.file_digest(file, "sha256").digest())


def short_id(digest: bytes) -> str:
    return base64.b32encode(digest).decode().lower()[:26]

"""One file from a plain server: for published weights that are not on the hub."""

from __future__ import annotations

from pathlib import Path

PATIENCE = 60.0  # seconds without a byte until the server counts as gone


def download(url: str, target: Path) -> Path:
    """What lies at `url` (redirects followed) as the file `target`, which is returned; its folder is made.

    ConnectionError if the server cannot be reached, breaks off or refuses; ValueError if it has no such file; OSError
    if the disk is full. What came till then stays: who calls verifies what came whole.
    """
    import httpx2

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with httpx2.stream("GET", url, follow_redirects=True, timeout=PATIENCE) as answer, target.open("wb") as file:
            if answer.status_code == 404:
                raise ValueError(f"{url}: the server has no such file")
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                file.write(piece)
    except (httpx2.TransportError, httpx2.HTTPStatusError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"{url} cannot be fetched: {reason}") from None
    return target

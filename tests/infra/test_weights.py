"""The catalogue says what there is; what is fetched is pinned, verified and resumed; a changed byte is seen."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra import weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG, SMALL = bytes(range(256)) * 4000, b'{"a": 1}\n'
NAMES = [
    "sana-video-2b-480p",
    "sana-video-2b-480p-diffusers",
    "sana-video-2b-720p",
    "sana-video-2b-720p-diffusers",
    "sana-video-2b-480p-longlive",
    "longsana-2b-480p-ode",
    "longsana-2b-480p-self-forcing",
    "sana1.5-1.6b-1024px",
    "gemma-2-2b-it",
    "qwen2.5-vl-7b",
    "wan2.1-vae",
    "wan2.2-vae",
    "ltx2-vae",
    "dc-ae-f32c32",
    "unimatch-flow",
    "transnetv2",
]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Hub:
    """What a hub's server holds, and how it behaves."""

    files: dict[str, bytes]
    stated: dict[str, str] = field(default_factory=dict)  # sha256 of large files, as the hub says
    commit: str = COMMIT
    break_after: int | None = None  # close the connection after so many bytes of a large file, once
    gated: bool = False
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def server(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                path = self.path.partition("?")[0]
                if hub.gated:
                    self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body=body)
                elif path.startswith("/api/models/someone/thing/revision/"):
                    self._send(200, json.dumps(hub.info()).encode(), {}, body=body)
                elif path.startswith("/plain/"):
                    known = path.removeprefix("/plain/") in hub.files
                    self._send(200 if known else 404, hub.files.get(path.removeprefix("/plain/"), b""), {}, body=body)
                elif path.startswith(f"/someone/thing/resolve/{hub.commit}/"):
                    self._file(path.removeprefix(f"/someone/thing/resolve/{hub.commit}/"), body=body)
                else:
                    self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body=body)

            def _file(self, name: str, *, body: bool) -> None:
                data = hub.files[name]
                digest = hub.stated.get(name, sha(data))
                headers = {"ETag": f'"{digest}"', "X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
                asked = self.headers.get("Range", "")
                start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
                if body:
                    hub.ranges.append(asked)
                if start:
                    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self._send(206 if start else 200, data[start:], headers, body=body)

            def _send(self, code: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
                self.send_response(code)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body and hub.break_after is not None and len(data) > hub.break_after:
                    data, hub.break_after = data[: hub.break_after], None
                    self.close_connection = True
                if body:
                    self.wfile.write(data)

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def info(self) -> dict[str, object]:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            if len(data) > 1000:
                entry["lfs"] = {"sha256": self.stated.get(name, sha(data)), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {"id": "someone/thing", "modelId": "someone/thing", "sha": self.commit, "siblings": siblings}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running hub with one repository, and a catalogue that knows it."""
    hub = Hub({"vae/model.safetensors": BIG, "vae/config.json": SMALL, "README.md": b"no"})
    server = hub.server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("SANA_HUB_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "")
    catalogue(monkeypatch, tmp_path, {"vae/*": {"bytes": 1}})
    yield hub
    server.shutdown()
    server.server_close()


def catalogue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, dict[str, object]], **more: str
) -> None:
    entry = {"for": "trying", "repo": "someone/thing", "licence": "MIT", "terms": "https://x.y", "files": files, **more}
    path = tmp_path / "weights.yaml"
    path.write_text(json.dumps({"thing": entry}))
    monkeypatch.setattr(weights, "CATALOGUE", path)


def test_the_catalogue_has_the_agreed_names_and_says_terms_and_size_of_each() -> None:
    assert list(weights.catalogue()) == NAMES
    for name in NAMES:
        line = weights.describe(name)
        assert f"`sana-video weights fetch {name}`" in line
        assert "GB" in line and "licence: " in line and "(https://" in line and "\n" not in line
    gemma = weights.find("gemma-2-2b-it")
    assert all(file.sha256 for file in gemma.files.values())
    with pytest.raises(ValueError, match="no weights are called 'gemma'; there are sana-video-2b-480p"):
        weights.describe("gemma")


def test_fetching_pins_what_came_and_fetching_again_asks_for_nothing(hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    place = weights.fetch("thing", tmp_path / "w", said.append)
    assert (place / "vae" / "model.safetensors").read_bytes() == BIG
    assert (place / "vae" / "config.json").read_bytes() == SMALL
    assert sorted(p.name for p in place.iterdir()) == ["vae"]
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["thing", "weights.lock.json"]
    assert said == ["thing: vae/model.safetensors, 1.02 MB", "thing: vae/config.json, 9 B"]
    lock = json.loads((tmp_path / "w" / "weights.lock.json").read_text())
    assert lock["thing"]["revision"] == COMMIT
    assert lock["thing"]["files"]["vae/config.json"] == {"bytes": len(SMALL), "sha256": sha(SMALL)}
    hub.ranges.clear()
    weights.fetch("thing", tmp_path / "w", said.append)
    assert (hub.ranges, len(said)) == ([], 2)
    assert [row["here"] for row in weights.listing(tmp_path / "w")] == ["yes"]


def test_a_folder_of_the_repository_may_become_the_whole(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(monkeypatch, tmp_path, {"vae/*": {"bytes": 1}}, inside="vae")
    place = weights.fetch("thing", tmp_path / "w")
    assert sorted(p.name for p in place.iterdir()) == ["config.json", "model.safetensors"]
    assert len(weights.verify(tmp_path / "w", "thing")) == 2
    assert weights.listing(tmp_path / "w")[0]["here"] == "yes"


def test_an_interrupted_file_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what is kept of an interrupted file: whole pieces
    hub.break_after = 300_000
    place = weights.fetch("thing", tmp_path / "w")
    assert any(asked.startswith("bytes=262144-") for asked in hub.ranges)
    assert (place / "vae" / "model.safetensors").read_bytes() == BIG


def test_a_file_that_arrives_corrupted_is_refused_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.stated["vae/model.safetensors"] = sha(b"something else")
    with pytest.raises(ValueError, match=r"vae/model.safetensors arrived with sha256 [0-9a-f]{64}, not .*; removed"):
        weights.fetch("thing", tmp_path / "w")
    assert list((tmp_path / "w").rglob("*.safetensors")) == []
    assert not (tmp_path / "w" / "weights.lock.json").exists()


def test_a_pinned_file_that_the_hub_changed_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(monkeypatch, tmp_path, {"vae/model.safetensors": {"bytes": 9, "sha256": sha(b"the first")}})
    with pytest.raises(ValueError, match=r"now has another vae/model.safetensors: .* is not the pinned"):
        weights.fetch("thing", tmp_path / "w")
    catalogue(monkeypatch, tmp_path, {"vae/config.json": {"bytes": 9, "sha256": sha(b"the first")}})
    with pytest.raises(ValueError, match=r"vae/config.json arrived with sha256"):
        weights.fetch("thing", tmp_path / "w")


def test_what_was_fetched_is_pinned_for_ever(hub: Hub, tmp_path: Path) -> None:
    weights.fetch("thing", tmp_path / "w")
    assert {row["file"] for row in weights.verify(tmp_path / "w")} == {"vae/model.safetensors", "vae/config.json"}
    damaged = tmp_path / "w" / "thing" / "vae" / "model.safetensors"
    damaged.write_bytes(BIG[:-1] + b"?")
    with pytest.raises(ValueError, match=r"model.safetensors is missing or not what was fetched; .*fetch thing` mends"):
        weights.verify(tmp_path / "w", "thing")
    hub.files["vae/model.safetensors"] = b"new" * 1000  # the same commit with other bytes: not what was pinned
    with pytest.raises(ValueError, match="arrived with sha256"):
        weights.fetch("thing", tmp_path / "w")
    hub.files["vae/model.safetensors"] = BIG
    weights.fetch("thing", tmp_path / "w")
    assert damaged.read_bytes() == BIG
    assert len(weights.verify(tmp_path / "w", "thing")) == 2


def test_what_stands_in_the_way_is_a_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no weights are called 'nosuch'"):
        weights.fetch("nosuch", tmp_path / "w")
    with pytest.raises(ValueError, match=r"holds no record of someone/thing; thing: trying.*fetch thing`"):
        weights.verify(tmp_path / "w", "thing")
    assert weights.verify(tmp_path / "w") == []
    catalogue(monkeypatch, tmp_path, {"nosuch/*": {"bytes": 1}})
    with pytest.raises(ValueError, match=r"someone/thing at main has no nosuch/\*"):
        weights.fetch("thing", tmp_path / "w")
    hub.gated = True
    with pytest.raises(ValueError, match=r"is gated: accept its terms at http.*someone/thing \(MIT\) and set HF_TOKEN"):
        weights.fetch("thing", tmp_path / "w")
    (tmp_path / "w").mkdir(exist_ok=True)
    (tmp_path / "w" / "weights.lock.json").write_text("{")
    with pytest.raises(ValueError, match=r"weights.lock.json is damaged"):
        weights.listing(tmp_path / "w")


def test_a_hub_that_does_not_answer_is_a_connection_error(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_HUB_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9 cannot be reached for someone/thing"):
        weights.fetch("thing", tmp_path / "w")


def test_an_offline_setting_does_not_stop_an_explicit_fetch(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    weights.fetch("thing", tmp_path / "w")
    assert constants.HF_HUB_OFFLINE is True


def test_a_file_of_another_server_is_fetched_verified_by_what_is_known_and_pinned(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"bytes": 1, "sha256": sha(BIG)[:8]}  # its name says no more
    catalogue(monkeypatch, tmp_path, {"vae/model.safetensors": big}, repo=f"{hub.url}/plain")
    place = weights.fetch("thing", tmp_path / "w")
    assert (place / "vae" / "model.safetensors").read_bytes() == BIG
    lock = json.loads((tmp_path / "w" / "weights.lock.json").read_text())
    assert lock["thing"]["files"]["vae/model.safetensors"] == {"bytes": len(BIG), "sha256": sha(BIG)}
    assert [row["sha256"] for row in weights.verify(tmp_path / "w", "thing")] == [sha(BIG)]
    hub.files.clear()
    assert weights.fetch("thing", tmp_path / "w") == place  # it lies there and is right: nothing is asked for


def test_what_another_server_gets_wrong_is_a_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"bytes": 1, "sha256": sha(b"something else")[:8]}
    catalogue(monkeypatch, tmp_path, {"vae/model.safetensors": wrong}, repo=f"{hub.url}/plain")
    with pytest.raises(ValueError, match=r"vae/model.safetensors arrived with sha256 [0-9a-f]{64}, not [0-9a-f]{8}; r"):
        weights.fetch("thing", tmp_path / "w")
    catalogue(monkeypatch, tmp_path, {"nosuch": {"bytes": 1}}, repo=f"{hub.url}/plain")
    with pytest.raises(ValueError, match="/plain/nosuch: the server has no such file"):
        weights.fetch("thing", tmp_path / "w")
    catalogue(monkeypatch, tmp_path, {"vae/model.safetensors": {"bytes": 1}}, repo=f"{hub.url}/plain")
    hub.break_after = 300_000
    with pytest.raises(ConnectionError, match=r"/plain/vae/model.safetensors cannot be fetched: "):
        weights.fetch("thing", tmp_path / "w")
    assert list((tmp_path / "w").glob("thing/**/*.safetensors")) == []
    catalogue(monkeypatch, tmp_path, {"a": {"bytes": 1}}, repo="http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/a cannot be fetched: "):
        weights.fetch("thing", tmp_path / "w")

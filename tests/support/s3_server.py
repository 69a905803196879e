"""A real S3 server for tests, SeaweedFS, that can be killed and started again; and a proxy that fails on request."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3fs import S3FileSystem

_KEYS = {"accessKey": "films", "secretKey": "not-a-secret"}
_WEED = Path(sys.executable).with_name("weed")


class Server:
    """SeaweedFS with its data in a folder; what was written is there after a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        self._ports = _free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        who = {"name": "tests", "credentials": [_KEYS], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [who]}))
        (folder / "data").mkdir()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        s3, master, volume, filer = self._ports
        flags = {
            "dir": self._folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.port": s3,
            "s3.config": self._folder / "s3.json", "master.port": master, "volume.port": volume, "filer.port": filer,
            "master.volumeSizeLimitMB": 64, "volume.max": 0, "master.telemetry": "false",
            "s3.port.iceberg": 0, "s3.port.lance": 0,  # ports of their own, on which a second server would end
        }  # fmt: skip
        command = [str(_WEED), "server", "-s3", *(f"-{name}={value}" for name, value in flags.items())]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(BotoCoreError, ClientError):
                self.client().list_buckets()
                return
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def client(self) -> Any:
        keys = {"aws_access_key_id": _KEYS["accessKey"], "aws_secret_access_key": _KEYS["secretKey"]}
        few = Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10)
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", config=few, **keys)


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """A server that runs, named with its credentials in the environment."""
    server = Server(folder)
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", _KEYS["accessKey"])
            patch.setenv("AWS_SECRET_ACCESS_KEY", _KEYS["secretKey"])
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
            yield server
    finally:
        S3FileSystem.clear_instance_cache()  # or tests of the next server, in this process, would ask this one
        server.kill()


class Proxy:
    """Between a client and a server: reads of an object are spoilt as often as `spoil` says, in the way it says.

    `spoil`: {key: (times, "500" | "503" | "cut")}; "cut" sends half of the body and hangs up. `reads`: how often each
    object was asked for.
    """

    def __init__(self, server: Server) -> None:
        self.spoil: dict[str, tuple[int, str]] = {}
        self.reads: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, urlsplit(server.endpoint).netloc))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def how(self, method: str, path: str) -> str | None:
        """How this request is to be spoilt."""
        key = urlsplit(path).path
        if method != "GET" or not key.endswith(".mp4"):
            return None
        name = key.rsplit("/", 1)[-1]
        self.reads[name] += 1
        times, way = self.spoil.get(name, (0, ""))
        return way if self.reads[name] <= times else None


def _handler(proxy: Proxy, target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _pass_on(self) -> None:
            way = proxy.how(self.command, self.path)
            if way in ("500", "503"):
                self.send_response(int(way))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            behind = http.client.HTTPConnection(target, timeout=30)
            # the Host header goes along as it came: it is part of what the client has signed
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if way == "cut" else data)
            self.close_connection = way == "cut"
            behind.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    return Handler


def _free_ports(count: int) -> list[int]:
    """So many that are free, and so are those 10,000 above, which SeaweedFS takes for gRPC."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError, OverflowError):
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1] - 10_000
            other.bind(("127.0.0.1", port))
            if port > 10_000:
                found.append(port)
    return found

"""Captions from any endpoint that speaks OpenAI's chat completions (vLLM, SGLang …): bounded, patient, within a budget.

Requests go to the configured address and nowhere else: no redirect is followed and no proxy is looked up. What the
server says is untrusted: at most a mebibyte is read, within the time limit, and it is JSON or it is nothing. Overload
and faults of the server (429, 408, 5xx, time-outs, broken connections) are waited out, each time longer and never in
step with the other requests; where the server names the time, that long. What stays broken stops the stage, to be
gone on with later; only a clip that alone makes a healthy server fail costs its caption.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http.client
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from data_pipeline.caption.ask import Ask, Reply
from data_pipeline.params import EndpointParams

MAX_BODY = 1 << 20
MAX_WAIT = 300.0  # seconds: a server that asks for longer is not waited for
LONGEST_BACKOFF = 60.0
BUSY = (408, 409, 425, 429, 502, 503, 504)  # of the server, not of what was asked
REFUSED = (400, 413, 415, 422)  # of what was asked, and of this clip alone
IN_A_ROW = 3  # asks that a server fails one after another before the server counts as the cause


class BudgetSpent(Exception):
    """The run's budget of requests or tokens is used up."""


@dataclass(frozen=True)
class _Said:
    """One answer over HTTP: status, the wait it asks for, and its body; None where that was over the limit."""

    status: int
    wait: float | None
    body: bytes | None


class Failed(Exception):
    """An ask that the server failed however often it was sent. `server`: whether it is surely the server's fault."""

    def __init__(self, ask: Ask, text: str, requests: int, server: bool) -> None:
        super().__init__(text)
        self.ask, self.requests, self.server = ask, requests, server


class Endpoint:
    """A captioner behind `base_url`/chat/completions. `key` is sent as a bearer token."""

    def __init__(self, params: EndpointParams, new_tokens: int, key: str | None) -> None:
        self.model = params.model
        self._params, self._new_tokens, self._key = params, new_tokens, key
        self._at = urlsplit(params.base_url)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.requests = self.tokens = 0

    def replies(self, asks: Iterable[Ask], seed: int, attempt: int) -> Iterator[Reply]:
        """See `Captioner`. Raises ConnectionError when the server stays unable, ValueError when it refuses us (key,
        address) or the budget is spent; what was answered until then, and what is on its way, is yielded first."""
        self._stop.clear()
        held: list[Failed] = []
        fault: Exception | None = None
        for done in self._finished(asks, seed, attempt):
            try:
                yield done.result()
                if fault is None:
                    yield from map(_lost, held)
                    held.clear()
            except Failed as error:
                held += [] if error.server else [error]
                if error.server or len(held) >= IN_A_ROW:
                    fault = fault or ConnectionError(f"{self._host()}: {error}")
                    self._stop.set()
            except (ValueError, BudgetSpent) as error:
                fault = fault or error
                self._stop.set()
        if isinstance(fault, BudgetSpent):
            raise ValueError(f"{fault}; raise it, or run the stage again: it goes on where it stopped")
        if fault is not None:
            raise fault
        yield from map(_lost, held)

    def _finished(self, asks: Iterable[Ask], seed: int, attempt: int) -> Iterator[Future[Reply]]:
        """Requests as they end, `concurrency` at a time; pictures are drawn from `asks` no further ahead than that."""
        running: set[Future[Reply]] = set()
        with ThreadPoolExecutor(self._params.concurrency) as pool:
            try:
                for ask in asks:
                    running.add(pool.submit(self._one, ask, seed, attempt))
                    if len(running) > self._params.concurrency:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from done
                    if self._stop.is_set():
                        break
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from done
            finally:
                self._stop.set()

    def _one(self, ask: Ask, seed: int, attempt: int) -> Reply:
        """One clip's reply, with as many retries as are allowed."""
        body = json.dumps(self._body(ask, seed, attempt)).encode()
        trouble = ""
        for sent in range(1, self._params.retries + 2):
            self._take_from_budget()
            try:
                said = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                said, trouble = None, type(error).__name__
            if said is not None and said.status == 200:
                return self._answered(ask, said.body, sent)
            if said is not None and said.status in REFUSED:
                return Reply(ask.clip_id, None, f"ENDPOINT_REFUSED: {said.status}", requests=sent)
            if said is not None and said.status < 500 and said.status not in BUSY:
                raise ValueError(self._mistake(said.status))
            trouble = trouble if said is None else f"HTTP {said.status}"
            if sent > self._params.retries or not self._rest(ask, sent, said.wait if said else None):
                break
        raise Failed(ask, f"{trouble} after {sent} requests", sent, server=said is None or said.status in BUSY)

    def _body(self, ask: Ask, seed: int, attempt: int) -> dict[str, Any]:
        pictures = [
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(one).decode()}}
            for one in ask.pictures
        ]
        data = [{"type": "text", "text": ask.data}] if ask.data is not None else []
        return {
            "model": self._params.model,
            "messages": [{"role": "system", "content": ask.instruction}, {"role": "user", "content": pictures + data}],
            "max_tokens": self._new_tokens,
            "temperature": 0.7 if attempt else 0.0,
            "seed": seed + attempt,
        }

    def _take_from_budget(self) -> None:
        with self._lock:
            for name, spent in (("requests", self.requests), ("tokens", self.tokens)):
                most = getattr(self._params, f"max_{name}")
                if most is not None and spent >= most:
                    raise BudgetSpent(f"data.caption.endpoint.max_{name} {most} is spent ({self.tokens} tokens)")
            if self._stop.is_set():
                raise BudgetSpent("the stage is stopping")
            self.requests += 1

    def _post(self, body: bytes) -> _Said:
        """One request on a connection of its own. Raises OSError (TimeoutError) or HTTPException."""
        deadline = time.monotonic() + self._params.timeout_seconds
        secure = self._at.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(str(self._at.hostname), self._at.port, timeout=self._params.timeout_seconds)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request("POST", self._at.path.rstrip("/") + "/chat/completions", body, headers)
            answer = connection.getresponse()
            return _Said(answer.status, _wait(answer.getheader("Retry-After")), _read(answer, connection, deadline))
        finally:
            connection.close()

    def _answered(self, ask: Ask, body: bytes | None, sent: int) -> Reply:
        """The text of a completion; anything else is ENDPOINT_GARBAGE, for that is what the server said."""
        try:
            document = json.loads(body or b"")
            text = document["choices"][0]["message"]["content"]
            usage = document.get("usage") or {}
            tokens = usage.get("total_tokens", 0) if isinstance(usage, dict) else 0
            tokens = tokens if isinstance(tokens, int) and tokens > 0 else 0
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            text, tokens = None, 0
        with self._lock:
            self.tokens += tokens
        if not isinstance(text, str):
            return Reply(ask.clip_id, None, "ENDPOINT_GARBAGE", tokens, sent)
        return Reply(ask.clip_id, text.encode("utf-8", "replace").decode(), None, tokens, sent)

    def _rest(self, ask: Ask, sent: int, asked: float | None) -> bool:
        """Wait before the next try: as long as the server asks for, or twice as long as last time, and a part of it
        that differs from clip to clip. False where there is no point in waiting."""
        backoff = min(LONGEST_BACKOFF, self._params.backoff_seconds * 2 ** (sent - 1))
        jitter = _jitter(ask.clip_id, sent)
        seconds = backoff * (0.5 + jitter) if asked is None else asked + backoff * jitter
        return seconds <= MAX_WAIT + LONGEST_BACKOFF and not self._stop.wait(seconds)

    def _mistake(self, status: int) -> str:
        if status in (401, 403):
            return f"{self._host()} refuses us (HTTP {status}): set SANA_CAPTION_API_KEY to a key that is valid there"
        if 300 <= status < 400:
            return f"{self._host()} redirects (HTTP {status}), which is not followed: set base_url to where it leads"
        return f"{self._host()} answers HTTP {status}: check data.caption.endpoint.base_url and model"

    def _host(self) -> str:
        return f"data.caption.endpoint {self._at.scheme}://{self._at.netloc}"


def _lost(error: Failed) -> Reply:
    return Reply(error.ask.clip_id, None, "ENDPOINT_FAILED", requests=error.requests)


def _read(answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, deadline: float) -> bytes | None:
    """The body, None where it is larger than MAX_BODY. TimeoutError at the deadline, however steadily it drips."""
    parts = bytearray()
    while len(parts) <= MAX_BODY:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        part = answer.read1(1 << 16)
        if not part:
            return bytes(parts)
        parts += part
    return None


def _wait(header: str | None) -> float | None:
    """Seconds that a Retry-After asks for, as a number or as a date; None where it says nothing sensible."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _jitter(clip_id: str, sent: int) -> float:
    """0 to 1 from the clip and the number of the try."""
    return hashlib.sha256(f"{clip_id}/{sent}".encode()).digest()[0] / 255

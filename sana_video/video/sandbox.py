"""A child process for work on files that nobody vouches for.

A decoder that crashes, hangs or eats all memory on a hostile or broken file must cost one row, never the stage.
So files are opened in a child that lives under limits (address space, CPU time, wall time) and is replaced when it
dies. Requests and answers are JSON lines, never pickles: a decoder that was taken over can lie about a video, but it
cannot run code in the parent. The child ends with its parent: it leaves as soon as its standard input closes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import queue
import resource
import select
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

GIBIBYTE = 1 << 30
CRASHES = 2  # of children, before it is the file's fault: what kills at random (a machine out of memory) kills once


class Sandbox:
    """Calls `module:function` with JSON arguments in a child under limits; a context manager.

    `memory` is the address space in bytes that the work may add to what the bare child uses; `seconds` is the wall
    time of one call and also its CPU time per thread of decoding. The child is kept between calls, and started anew
    after it died; the call is then made once more. One thread may use it at a time.
    """

    def __init__(self, *, memory: int = 3 * GIBIBYTE, seconds: float = 600.0) -> None:
        self._memory, self._seconds = memory, seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def call(self, function: str, *, within: float | None = None, **arguments: Any) -> Any:
        """The function's answer, through JSON; `within` seconds if given, in place of the sandbox's own.

        Raises ValueError when the function does, with DECODER_TIMEOUT or DECODER_MEMORY at a limit, and DECODER_CRASHED
        when two children did not survive the call; RuntimeError with the child's traceback for any other exception.
        """
        seconds = self._seconds if within is None else within
        request = {"function": function, "arguments": arguments, "memory": self._memory, "seconds": seconds}
        line = self._ask(json.dumps(request).encode() + b"\n", seconds)
        answer: dict[str, Any] = json.loads(line)
        if "value_error" in answer:
            raise ValueError(answer["value_error"])
        if "failure" in answer:
            raise RuntimeError(f"{function} failed in its child process:\n{answer['failure']}")
        return answer["result"]

    def _start(self) -> subprocess.Popen[bytes]:
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _ask(self, request: bytes, seconds: float) -> bytes:
        code = 0
        for _ in range(CRASHES):
            child = self._child = self._child or self._start()
            if (line := self._line(child, request, seconds)).endswith(b"\n"):
                return line
            code = child.wait()
            self._stop()
        raise ValueError(f"DECODER_CRASHED: the decoding process ended with {_how(code)}")

    def _line(self, child: subprocess.Popen[bytes], request: bytes, seconds: float) -> bytes:
        """The child's answer, or what there is of it where the child died."""
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(request)
            child.stdin.flush()
            return _read_line(child.stdout, seconds)
        except BrokenPipeError:
            return b""
        except TimeoutError:
            self._stop()
            raise ValueError(f"DECODER_TIMEOUT: no answer within {seconds:g} s") from None

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # of what was still buffered for a dead child
                pipe.close()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _read_line(pipe: BinaryIO | Any, seconds: float) -> bytes:
    """One line from a pipe, b"" or a part of a line at its end. Raises TimeoutError after `seconds`."""
    deadline, parts = time.monotonic() + seconds, bytearray()
    descriptor = pipe.fileno()
    while not parts.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError
        part = os.read(descriptor, 1 << 20)
        if not part:
            break
        parts += part
    return bytes(parts)


def serve() -> None:
    """The child's life: answer requests from standard input until it closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to standard error, not among the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        answers.write(json.dumps(_answer(json.loads(requests.get()))).encode() + b"\n")
        answers.flush()
        gc.collect()  # a decoder in a cycle holds many frames, and Python by itself may not look for hours


def _listen(requests: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)  # the parent closed the pipe or died: stop in the middle of whatever runs


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, _, name = request["function"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        _limit(request["memory"], request["seconds"])
        return {"result": function(**request["arguments"])}
    except MemoryError:
        return {"value_error": f"DECODER_MEMORY: needs more than {request['memory'] >> 20} MiB"}
    except ValueError as error:
        return {"value_error": str(error)}
    except Exception:
        import traceback

        return {"failure": traceback.format_exc()}


def _limit(memory: int, seconds: float) -> None:
    """Address space: what is used now and `memory` more. CPU: `seconds` more for each core (the wall clock rules)."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(usage.ru_utime + usage.ru_stime + seconds * len(os.sched_getaffinity(0))) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, resource.RLIM_INFINITY))

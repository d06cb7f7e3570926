"""Owns one question to one rank's worker server, over its unix socket; must not know when or why to ask.

What answers is a rank's process, so answers are untrusted: bounded in size, any nonsense is an OSError or ValueError.
"""

import http.client
import json
import math
import socket
import time
from typing import Any
from urllib.parse import urlencode

ASK_S = 1.0
MAX_ANSWER_BYTES = 16 << 20


class _ImpatientSocket(socket.socket):
    """Bounds all of its reads together: an answer that drips counts as none."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(socket.AF_UNIX)
        self.settimeout(timeout_s)
        self._end_s = time.monotonic() + timeout_s

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer takes too long")
        self.settimeout(left_s)
        return super().recv_into(*args, **kwargs)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = _ImpatientSocket(self._timeout_s)
        self.sock.connect(self._path)


def ask(path: str, handler: str, timeout_s: float = ASK_S, **arguments: str) -> bytes:
    """Returns the answer of a handler. Raises OSError, also on a time-out or a bad status."""
    query = f"?{urlencode(arguments)}" if arguments else ""
    return _answer(path, "POST", f"/handler/{handler}{query}", timeout_s)


def _answer(path: str, method: str, url: str, timeout_s: float) -> bytes:
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, url)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER_BYTES + 1)
    except (http.client.HTTPException, ValueError) as e:
        raise OSError(f"{url}: {e!r}") from e
    finally:
        connection.close()
    if response.status != http.client.OK or response.length or len(body) > MAX_ANSWER_BYTES:
        raise OSError(f"{url}: status {response.status}, {len(body)} bytes and {response.length or 0} missing")
    return body


def handlers(path: str) -> tuple[str, ...]:
    """Returns the names that a worker server answers to. Raises OSError."""
    try:
        names = json.loads(_answer(path, "GET", "/handler/", ASK_S))
    except (ValueError, RecursionError) as e:
        raise OSError(f"handlers: {e!r}") from e
    if not isinstance(names, list):
        raise OSError("handlers: not a list")
    return tuple(n for n in names if isinstance(n, str))


_COMPILE_COUNTERS = (
    "dynamo_compile",
    "entire_forward_compile",
    "entire_backward_compile",
    "compile_aot_autograd",
    "compile_inductor",
    "compile_file",
    "compile_triton",
    "compile_runtime_overheads",
    "triton_autotuner",
    "fx_codegen_and_compile",
    "actual_codegen_and_compile",
    "fxgraph_cache",
    "async_compile",
    "filelock.enter",
    "filelock.region",
)
_TOTALS = ("dynamo_compile", "entire_backward_compile")


def read_wait_counters(body: bytes) -> tuple[tuple[str, ...], float]:
    """Returns the compile counters that are active now, and the compile seconds so far. Waiting on an Inductor file
    lock counts as compiling. Raises ValueError.
    """
    try:
        return _wait_counters(json.loads(body))
    except (TypeError, AttributeError, ArithmeticError, RecursionError) as e:
        raise ValueError(f"wait counters have an unknown form: {e!r}") from None


def _wait_counters(data: Any) -> tuple[tuple[str, ...], float]:
    active, total_us = [], 0.0
    for full_name, counter in data.items():
        name = full_name.removeprefix("pytorch.").removeprefix("wait_counter.")
        if int(counter.get("active_count", 0)) > 0 and name.startswith(_COMPILE_COUNTERS):
            active.append(name)
        if name in _TOTALS:
            total_us += float(counter.get("total_time_us", 0))
    if not math.isfinite(total_us):
        raise ValueError("wait counters have no finite total")
    return tuple(sorted(active)), total_us / 1e6

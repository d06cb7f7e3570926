"""Owns one question to one rank's worker server, over its unix socket; must not know when or why to ask."""

import http.client
import json
import socket
from urllib.parse import urlencode

ASK_S = 1.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, handler: str, timeout_s: float = ASK_S, **arguments: str) -> bytes:
    """The answer of a handler; raises OSError (also on a time-out or a bad status)."""
    connection = _UnixConnection(path, timeout_s)
    query = f"?{urlencode(arguments)}" if arguments else ""
    try:
        connection.request("POST", f"/handler/{handler}{query}")
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as e:
        raise OSError(f"{handler}: {e!r}") from e
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise OSError(f"{handler}: status {response.status}")
    return body


def handlers(path: str) -> tuple[str, ...]:
    """The names that a worker server answers to."""
    connection = _UnixConnection(path, ASK_S)
    try:
        connection.request("GET", "/handler/")
        names = json.loads(connection.getresponse().read())
    except (http.client.HTTPException, ValueError) as e:
        raise OSError(f"handlers: {e!r}") from e
    finally:
        connection.close()
    return tuple(str(n) for n in names)


_COMPILE_COUNTERS = (
    "dynamo_compile",
    "entire_forward_compile",
    "entire_backward_compile",
    "compile_aot_autograd",
    "compile_inductor",
    "compile_file",
    "compile_triton",
    "fx_codegen_and_compile",
    "actual_codegen_and_compile",
    "fxgraph_cache",
    "async_compile",
    "filelock.region",
)
_TOTALS = ("dynamo_compile", "entire_backward_compile")


def read_wait_counters(body: bytes) -> tuple[tuple[str, ...], float]:
    """(compile counters active now, compile seconds so far). Waiting on an Inductor file lock counts as compiling.

    Raises ValueError.
    """
    data = json.loads(body)
    if not isinstance(data, dict):
        raise ValueError("wait counters are not an object")
    active, total_us = [], 0.0
    for full_name, counter in data.items():
        name = str(full_name).removeprefix("pytorch.").removeprefix("wait_counter.")
        if int(counter.get("active_count", 0)) > 0 and name.startswith(_COMPILE_COUNTERS):
            active.append(name)
        if name in _TOTALS:
            total_us += float(counter.get("total_time_us", 0))
    return tuple(sorted(active)), total_us / 1e6

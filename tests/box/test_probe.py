"""Questions to a rank's worker server: any answer is an answer or an OSError, any counters are read or refused."""

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.box.look import probe
from pytest_megacpp.box.look.probe import ask, handlers, read_wait_counters
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.wire import encode, read_all
from tests.recording.strategies import JSON

Serve = Callable[[bytes], list[bytes]]


@pytest.fixture
def server() -> Iterator[tuple[str, Serve]]:
    """A path, and a function that lets a server there answer the next connection; it returns what was asked."""
    with tempfile.TemporaryDirectory(prefix="megacpp-") as directory:
        path = str(Path(directory) / "worker")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def serve(answer: bytes) -> list[bytes]:
            asked: list[bytes] = []

            def once() -> None:
                line, _ = listener.accept()
                with line:
                    asked.append(line.recv(65536))
                    line.sendall(answer)

            threading.Thread(target=once, daemon=True).start()
            return asked

        yield path, serve
        listener.close()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_question_and_its_answer(server: tuple[str, Serve]) -> None:
    path, serve = server
    asked = serve(http(b"\x00body"))
    assert ask(path, "pyspy_dump", nonblocking="1") == b"\x00body"
    assert asked[0].startswith(b"POST /handler/pyspy_dump?nonblocking=1 HTTP/1.1\r\n")


@pytest.mark.parametrize("at_once", [0, 10, 40], ids=["status", "header", "body"])
def test_an_answer_that_drips_is_none(at_once: int) -> None:
    """Each byte comes in time, and in the end it would be an answer."""
    answer = http(b"x" * 100)

    def drip(listener: socket.socket) -> None:
        line, _ = listener.accept()
        with line, contextlib.suppress(OSError):
            line.sendall(answer[:at_once])
            for byte in answer[at_once:]:
                time.sleep(0.02)
                line.sendall(bytes([byte]))

    with tempfile.TemporaryDirectory(prefix="megacpp-") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(directory) / "worker")
        listener.bind(path)
        listener.listen()
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        with pytest.raises(OSError):
            ask(path, "wait_counter_values", 0.2)


def test_the_handlers_it_knows(server: tuple[str, Serve]) -> None:
    path, serve = server
    asked = serve(http(b'["ping", "fr_trace_json", 7]'))
    assert handlers(path) == ("ping", "fr_trace_json")
    assert asked[0].startswith(b"GET /handler/ HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        http(b"", "404 Not Found"),
        http(b"no such handler", "500 Internal Server Error"),
    ],
)
def test_a_bad_answer_is_an_oserror(server: tuple[str, Serve], answer: bytes) -> None:
    path, serve = server
    serve(answer)
    with pytest.raises(OSError):
        ask(path, "ping")
    serve(answer)
    with pytest.raises(OSError):
        handlers(path)


@pytest.mark.parametrize("body", [b"", b"{}", b"7", b"null", b"\xff", b"[" * 100_000])
def test_handlers_that_are_no_list_are_an_oserror(server: tuple[str, Serve], body: bytes) -> None:
    path, serve = server
    serve(http(body))
    with pytest.raises(OSError):
        handlers(path)


def test_an_answer_without_end_is_cut_off(server: tuple[str, Serve], monkeypatch: pytest.MonkeyPatch) -> None:
    path, serve = server
    monkeypatch.setattr(probe, "MAX_ANSWER_BYTES", 100)
    serve(http(b"x" * 100))
    assert len(ask(path, "ping")) == 100
    serve(http(b"x" * 101))
    with pytest.raises(OSError, match="101 bytes"):
        ask(path, "ping")


def test_nobody_there_or_no_answer_is_an_oserror(server: tuple[str, Serve]) -> None:
    path, _ = server
    with pytest.raises(FileNotFoundError):
        ask(f"{path}.gone", "ping")
    with pytest.raises(TimeoutError):
        ask(path, "ping", timeout_s=0.01)


def counters(**active: tuple[int, float]) -> bytes:
    said = {f"pytorch.wait_counter.{n}": {"active_count": a, "total_time_us": t} for n, (a, t) in active.items()}
    return json.dumps(said).encode()


def test_active_compile_counters_and_seconds() -> None:
    body = counters(
        dynamo_compile=(1, 2_500_000),
        compile_inductor=(1, 9e9),
        entire_backward_compile=(0, 500_000),
        all_reduce=(1, 1),
    )
    assert read_wait_counters(body) == (("compile_inductor", "dynamo_compile"), 3.0)
    assert read_wait_counters(b"{}") == ((), 0.0)


def test_waiting_on_a_lock_of_inductors_counts_as_compiling() -> None:
    body = json.dumps({f"pytorch.filelock.{name}": {"active_count": 2} for name in ("enter", "region")}).encode()
    assert read_wait_counters(body) == (("filelock.enter", "filelock.region"), 0.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b'{"dynamo_compile": 7}',
        b'{"dynamo_compile": null}',
        b'{"dynamo_compile": {"active_count": "many"}}',
        b'{"dynamo_compile": {"active_count": []}}',
        b'{"dynamo_compile": {"active_count": Infinity}}',
        b'{"dynamo_compile": {"total_time_us": NaN}}',
        b'{"dynamo_compile": {"total_time_us": 1e999}}',
        b'{"dynamo_compile": {"total_time_us": {}}}',
        b'{"a":' * 50_000,
    ],
)
def test_other_counters_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_wait_counters(body)


@given(JSON | st.dictionaries(st.sampled_from(["pytorch.wait_counter.dynamo_compile", "x"]), JSON | st.floats()))
def test_what_is_accepted_can_be_recorded(data: Any) -> None:
    try:
        active, seconds = read_wait_counters(json.dumps(data).encode())
    except ValueError:
        return
    said = ev.Event("r1", "w1", "box", 0, 1.0, ev.Sampled(0, 0, True, "S", active, seconds, 0.0))
    assert read_all(encode(said)) == [said]

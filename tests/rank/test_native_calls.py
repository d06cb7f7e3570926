"""That torch's blocking native calls show on stacks, and do what they did."""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch._C import _distributed_c10d as native

from pytest_megacpp.rank import native_calls
from pytest_megacpp.recording.stacks import Frame, Thread, communication_call, waits_for_peer


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    owners = (native.Work, native.Store, native.TCPStore, torch._C.Future)
    before = [(owner, dict(vars(owner))) for owner in owners]
    native_calls.install()
    yield
    for owner, kept in before:
        for name, value in vars(owner).copy().items():
            if name in kept and kept[name] is not value:
                setattr(owner, name, kept[name])


def test_a_thread_in_a_native_call_is_seen_in_it() -> None:
    store = native.HashStore()
    thread = threading.Thread(target=store.get, args=("nobody sets it",))
    thread.start()
    while communication_call(seen := _stack(thread)) is None:
        time.sleep(0.001)
    assert waits_for_peer(seen)
    assert communication_call(seen) == "Store.get"
    store.set("nobody sets it", "1")
    thread.join()


def test_calls_answer_and_fail_as_they_did() -> None:
    store = native.HashStore()
    store.set("key", "value")
    assert store.get("key") == b"value"
    with pytest.raises(torch.distributed.DistStoreError) as caught:
        store.wait(["nothing"], timedelta(milliseconds=10))
    assert caught.traceback[-1].frame.code.name == "wait"
    assert str(caught.traceback.filter(caught)[-1].path).endswith("test_native_calls.py")
    server = native.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5))
    assert native.TCPStore("127.0.0.1", server.port, None, False, timedelta(seconds=5)).num_keys() >= 0
    future: torch.futures.Future[int] = torch.futures.Future()
    future.set_result(3)
    assert future.wait() == 3


def test_what_a_collective_raises_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(native_calls, "_report_failure", lambda: heard.append("failed"))
    future: torch.futures.Future[int] = torch.futures.Future()
    future.set_exception(ValueError("connection closed by peer"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        future.wait()
    assert heard == ["failed"]
    with pytest.raises(torch.distributed.DistStoreError):  # says nothing of collectives
        native.HashStore().wait(["nothing"], timedelta(milliseconds=10))
    assert heard == ["failed"]


def test_a_store_written_in_python_does_not_recurse() -> None:
    class Own(native.Store):
        def get(self, key: str) -> bytes:
            return b"1"

    assert Own().multi_get(["a"]) == [b"1"]


def _stack(thread: threading.Thread) -> Thread:
    frame = sys._current_frames().get(thread.ident or 0)
    walked = traceback.walk_stack(frame) if frame else ()
    return Thread("", tuple(Frame(f.f_code.co_filename, n, f.f_code.co_name) for f, n in walked), framed=True)


def test_what_a_work_tells_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    before = {name: getattr(native.Work, name) for name in ("exception", "is_success", "is_completed")}
    groups = dict(vars(native.ProcessGroup))
    native_calls.report_issued(
        lambda *said: heard.append(said[1]),
        lambda: heard.append("failed"),
        succeeded=lambda _: heard.append("succeeded"),
        polled=lambda _, is_over: heard.append(f"polled {is_over}"),
    )
    torch.distributed.init_process_group("gloo", store=native.HashStore(), rank=0, world_size=1)
    try:
        work = torch.distributed.all_reduce(torch.ones(1), async_op=True)
        assert work is not None
        assert work.wait()
        with contextlib.suppress(TypeError):  # torch 2.11 can't convert what it returns
            assert work.exception() is None
        assert work.is_success()
        assert heard == ["allreduce", "succeeded", "succeeded"]
        failing: Any = native_calls._answering(lambda _: RuntimeError("timed out"), "exception", pytest.fail)
        assert str(failing(work)) == "timed out"
        assert heard[3:] == ["failed"]
        asked_early: Any = native_calls._answering(lambda _: True, "is_success", lambda _: False)
        assert asked_early(work)
        unsuccessful: Any = native_calls._answering(lambda _: False, "is_success", lambda _: True)
        assert not unsuccessful(work)
        assert heard[4:] == ["failed"]
        assert work.is_completed()
        assert heard[5:] == ["polled True"]
    finally:
        torch.distributed.destroy_process_group()
        native_calls.report_issued(lambda *_: None)
        for name, method in before.items():
            setattr(native.Work, name, method)
        for name, method in groups.items():
            if getattr(native.ProcessGroup, name) is not method and callable(method):
                setattr(native.ProcessGroup, name, method)

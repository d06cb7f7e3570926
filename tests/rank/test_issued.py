"""Reading a rank's recorders before they lose anything, and knowing what they lost."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch._C import _distributed_c10d as c10d

from pytest_megacpp.rank.flight_recorders import Dump
from pytest_megacpp.rank.issued import SPARE_ENTRIES, Issued
from pytest_megacpp.recording.agreement import differing
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.issued import CUT, KEPT_UNHEARD, before, stretches

RING = 64


class Recorder:
    """As torch's: a ring of entries and counters."""

    def __init__(self, ring: int = RING) -> None:
        self.ring = ring
        self.entries: list[dict[str, Any]] = []
        self.enqueued: dict[str, int] = {}
        self.records = self.reads = self.looks = 0

    def issue(self, count: int, pg: int = 0, dtype: str = "Float", size: int = 8, **more: object) -> None:
        for _ in range(count):
            self.enqueued[str(pg)] = seq = self.enqueued.get(str(pg), 0) + 1
            entry = {"record_id": self.records, "process_group": (str(pg), ""), "pg_id": pg, "collective_seq_id": seq}
            common = {"profiling_name": "gloo:all_reduce", "input_dtypes": [dtype], "input_sizes": [[size]]}
            self.entries.append(entry | common | more)
            del self.entries[: -self.ring]
            self.records += 1

    def dump(self, entries: bool) -> Sequence[Dump]:
        self.reads, self.looks = self.reads + entries, self.looks + (not entries)
        status = {pg: {"last_enqueued_collective": n} for pg, n in self.enqueued.items()}
        return (Dump("gloo", {"entries": list(self.entries) if entries else None, "pg_status": status}),)


GROUPS = [SimpleNamespace(group_name=str(pg)) for pg in range(3)]
SIZES = st.integers(0, 3)


def call(issued: Issued, recorder: Recorder, pg: int, size: int) -> None:
    recorder.issue(1, pg, size=size)
    issued.call(GROUPS[pg], "allreduce", ([torch.ones(size)], None), {})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def issued(recorder: Recorder) -> Issued:
    def failed(error: Exception) -> None:
        raise error

    made = Issued(recorder.dump, failed, RING)
    made.begin()
    return made


def stretches_of(issued: Issued) -> dict[str, list[str]]:
    """First and last numbers of the stretches of each group."""
    return {group: [one.partition(":")[0] for one in stretches(d).values()] for group, d in issued.end().items()}


def test_calls_that_are_counted_are_never_lost(issued: Issued, recorder: Recorder) -> None:
    for n in range(5_000):
        call(issued, recorder, n % 3, size=n)
    issued.take()
    assert issued.missed == 0
    assert stretches_of(issued)["0"] == ["1-1023", "1024-1667"]
    assert recorder.reads <= 5_000 / (RING - SPARE_ENTRIES) + 3


def ends(issued: Issued) -> list[str]:
    """The last numbers of what is said of group 0."""
    return [one.partition(":")[0] for one in before(issued.end()["0"])]


class Work:
    """As torch's."""


def test_what_nobody_heard_of_may_have_failed(issued: Issued, recorder: Recorder) -> None:
    """gloo's recorder says that it is over."""
    works = [call_of(issued, recorder) for _ in range(3)]
    issued.hearing.succeeded(works[1])
    issued.take()
    assert ends(issued) == ["1-3", "1-2", "1-1"]
    issued.begin()
    call_of(issued, recorder)
    works.append(call_of(issued, recorder))
    issued.take()
    assert ends(issued) == ["4-5", "4-4"]


def test_little_is_said_where_nothing_is_open(recorder: Recorder) -> None:
    """The counters say that gloo's are over, as always; as many tails as of one that is open would cost 1.6 KB."""
    completed = recorder.enqueued

    def dump(entries: bool) -> Sequence[Dump]:
        (taken,) = recorder.dump(entries)
        status = taken.data["pg_status"]
        for pg, number in completed.items():
            status[pg]["last_completed_collective"] = number
        return (taken,)

    issued = Issued(dump, lambda e: pytest.fail(str(e)), RING)
    issued.begin()
    recorder.issue(30)
    issued.take()
    assert ends(issued) == [*(f"1-{n}" for n in range(30, 30 - KEPT_UNHEARD - 1, -1)), CUT]
    completed = {"0": 30}
    issued.begin()
    recorder.issue(20)
    issued.take()
    assert ends(issued) == [f"31-{n}" for n in range(50, 30, -1)]


class Interrupting(Work):
    """Another thread issues a collective while this one is being heard of."""

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[], object]] = []

    def __hash__(self) -> int:
        while self.meanwhile:
            self.meanwhile.pop()()
        return id(self)


def test_what_is_issued_while_another_is_heard_of_is_not_heard(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(1)
    issued.call(GROUPS[0], "allreduce", ([torch.ones(8)], None), {}, work := Interrupting())
    newer: list[Work] = []
    work.meanwhile.append(lambda: newer.append(call_of(issued, recorder)))
    issued.hearing.succeeded(work)
    issued.take()
    assert len(newer) == 1
    assert ends(issued) == ["1-2", "1-1"]


def test_what_was_open_when_last_asked_was_given_up(issued: Issued, recorder: Recorder) -> None:
    first, second, third = (call_of(issued, recorder) for _ in range(3))
    issued.hearing.polled(first, False)
    assert issued.gave_up
    issued.hearing.polled(first, True)
    issued.hearing.polled(second, False)
    issued.hearing.succeeded(second)
    issued.hearing.polled(third, True)
    issued.hearing.polled(Work(), False)  # of a message, or of another test
    assert not issued.gave_up
    issued.hearing.polled(second, False)
    issued.begin()
    assert not issued.gave_up


def test_groups_of_threads_that_still_run_are_told(issued: Issued, recorder: Recorder) -> None:
    goes_on, ends = threading.Event(), threading.Event()

    def issue() -> None:
        call_of(issued, recorder)
        goes_on.set()
        ends.wait()

    call_of(issued, recorder)
    assert issued.running() == []
    (thread := threading.Thread(target=issue)).start()
    goes_on.wait()
    assert issued.running() == ["0"]
    ends.set()
    thread.join()
    assert issued.running() == []


def test_what_succeeded_is_certain(issued: Issued, recorder: Recorder) -> None:
    works = [call_of(issued, recorder) for _ in range(3)]
    for work in (works[2], works[2], works[0]):
        issued.hearing.succeeded(work)
    issued.take()
    assert ends(issued) == ["1-3"]


@pytest.mark.parametrize("method", [None, "_start_coalescing"])
def test_what_no_call_told_of_is_not_heard(issued: Issued, recorder: Recorder, method: str | None) -> None:
    """DDP's reducer and functional collectives pass through no Python."""
    issued.hearing.succeeded(call_of(issued, recorder))
    recorder.issue(1)
    if method:
        issued.call(GROUPS[0], method, (), {})
        issued.hearing.succeeded(call_of(issued, recorder))
    issued.take()
    assert len(ends(issued)) > 1


def test_a_message_tells_nothing_of_a_collective(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(1)
    call_of(issued, recorder)  # nobody keeps this work, so the next one may have its identity
    message = Work()
    issued.call(GROUPS[0], "send", (), {}, message)
    issued.hearing.succeeded(message)
    issued.take()
    assert ends(issued) == ["1-2", "1-1"]


def test_other_recorders_tell_failures(recorder: Recorder) -> None:
    nccl = Issued(lambda e: (Dump("nccl", recorder.dump(e)[0].data),), lambda e: pytest.fail(str(e)), RING)
    nccl.begin()
    recorder.issue(3)
    nccl.take()
    assert ends(nccl) == ["1-3"]


def call_of(issued: Issued, recorder: Recorder) -> Work:
    recorder.issue(1)
    issued.call(GROUPS[0], "allreduce", ([torch.ones(8)], None), {}, work := Work())
    return work


def test_where_a_collective_failed_digests_tell_of_the_time_before(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(3)
    issued.fail()  # gloo's recorder says that they are over
    issued.take()
    assert ends(issued) == ["1-3", "1-2", "1-1"]
    issued.begin()
    recorder.issue(1)
    issued.take()
    assert ends(issued) == ["4-4"]


def test_so_they_do_where_one_is_open(recorder: Recorder) -> None:
    completed = {"last_completed_collective": 3}

    def dump(entries: bool) -> Sequence[Dump]:
        (taken,) = recorder.dump(entries)
        taken.data["pg_status"]["0"] |= completed
        return (Dump("nccl", taken.data),)  # gloo's calls what failed complete

    recorder.issue(1)
    issued = Issued(dump, lambda e: pytest.fail(str(e)), RING)
    issued.begin()
    recorder.issue(3)
    issued.take()
    assert ends(issued) == ["2-4", "2-3"]
    recorder.issue(1)
    issued.take()
    completed["last_completed_collective"] = 5
    assert not issued.behind()
    assert ends(issued) == ["5-5"]


def test_a_backward_pass_that_raises_has_failed(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(2)
    with pytest.raises(RuntimeError), issued.burst():
        raise RuntimeError("connection closed by peer")
    issued.take()
    assert ends(issued) == ["1-2", "1-1"]


@pytest.mark.parametrize("size", ["0", "-1"])
def test_of_a_recorder_that_is_switched_off_nothing_is_known(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", size)
    issued = Issued(lambda _: (Dump("gloo", {"entries": [], "pg_status": {}}),), lambda e: pytest.fail(str(e)))
    issued.begin()
    issued.call(GROUPS[0], "send", ([torch.ones(1)], 1, 0), {})
    assert issued.missed == 0
    issued.call(GROUPS[0], "allreduce", ([torch.ones(1)], None), {})
    with issued.burst():
        pass
    assert (issued.end(), issued.missed) == ({}, 2)


def test_calls_that_are_known_need_no_read(issued: Issued, recorder: Recorder) -> None:
    for n in range(5_000):
        call(issued, recorder, n % 3, size=n % 7)
    issued.take()
    assert issued.missed == 0
    assert recorder.reads == 2


Step: TypeAlias = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["call", "call", "call", "native", "p2p", "batch"]), st.integers(0, 2), SIZES),
    max_size=30,
)


@given(STEPS)
def test_it_makes_no_difference_who_told(steps: list[Step]) -> None:
    """What is learned, and what is read of a ring in which nothing is lost."""
    ends_of_both = []
    for ring, knows in ((RING, True), (100_000, False)):
        recorder = Recorder(ring)
        issued = Issued(recorder.dump, lambda e: pytest.fail(str(e)), RING)
        for what, pg, size in steps * 8:
            if what == "call" and knows:
                call(issued, recorder, pg, size)
            elif what == "batch" and knows:
                issued.call(GROUPS[pg], "_start_coalescing", (), {})
            elif what == "p2p" and knows:
                recorder.issue(1, pg, is_p2p=True, p2p_seq_id=1)
                recorder.enqueued[str(pg)] -= 1
                issued.call(GROUPS[pg], "send", (), {})
            elif what != "batch" and what != "p2p":
                recorder.issue(1, pg, size=size)
        issued.take()
        ends_of_both.append(({**issued.end()}, issued.missed))
    (ours, missed), (truth, none) = ends_of_both
    assert none == 0
    assert missed or ours == truth
    groups = Groups(2, {name: frozenset({0, 1}) for name in "012"})
    assert not differing({0: ours, 1: truth}, groups)


def test_another_thread_is_left_to_the_ring(issued: Issued, recorder: Recorder) -> None:
    for n in range(300):
        call(issued, recorder, 0, size=1)
        if n % 40 == 39:
            thread = threading.Thread(target=call, args=(issued, recorder, 0, 2))
            thread.start()
            thread.join()
    issued.take()
    assert issued.missed == 0
    assert stretches_of(issued) == {"0": ["1-307"]}


def test_what_no_call_counted_is_taken_in_where_it_is_looked_for(issued: Issued, recorder: Recorder) -> None:
    for _ in range(500):
        with issued.burst():
            recorder.issue(20)
    issued.take()
    assert issued.missed == 0
    assert stretches_of(issued)["0"][-1].endswith("-10000")
    assert recorder.reads < 300


def test_there_is_room_for_a_burst_behind_calls(issued: Issued, recorder: Recorder) -> None:
    for n in range(300):
        for _ in range(n % 60):
            call(issued, recorder, 0, size=n)
        with issued.burst():
            recorder.issue(25)
    issued.take()
    assert issued.missed == 0


def test_what_is_lost_is_counted(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(100)
    issued.take()
    recorder.issue(1_000, dtype="Int")
    issued.take()
    assert issued.missed >= 36 + 936
    assert stretches_of(issued) == {"0": ["1038-1100"]}


def test_a_test_begins_with_what_it_issues(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(500)
    issued.begin()
    recorder.issue(3)
    issued.take()
    assert (issued.missed, stretches_of(issued)) == (0, {"0": ["501-503"]})


def test_messages_are_left_out(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(1)
    recorder.issue(3, is_p2p=True, p2p_seq_id=1)
    recorder.enqueued["0"] -= 3
    recorder.issue(1)
    issued.take()
    assert (issued.missed, stretches_of(issued)) == (0, {"0": ["1-2"]})


def test_a_recorder_that_can_not_be_read_says_so_and_harms_nobody() -> None:
    said: list[str] = []

    def broken(entries: bool) -> Sequence[Dump]:
        raise RuntimeError("no recorder")

    issued = Issued(broken, lambda e: said.append(str(e)), RING)
    issued.begin()
    with issued.burst():
        issued.take()
    assert said == ["no recorder"] * 4
    assert issued.end() == {}


def test_recorders_of_a_device_are_kept_apart() -> None:
    """NCCL's and gloo's groups have the same names, and each recorder its own numbers."""
    nccl, gloo = Recorder(), Recorder()

    def dump(entries: bool) -> Sequence[Dump]:
        return Dump("nccl", nccl.dump(entries)[0].data), gloo.dump(entries)[0]

    issued = Issued(dump, lambda e: pytest.fail(str(e)), RING)
    issued.begin()
    for n in range(500):
        call(issued, nccl if n % 2 else gloo, 0, size=n % 2)
    issued.take()
    assert issued.missed == 0
    assert stretches_of(issued) == {"0": ["1-250"], "0:gloo": ["1-250"]}


@pytest.fixture
def world() -> Iterator[None]:
    dist.init_process_group("gloo", store=c10d.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("world")
def test_a_recorder_that_torch_writes_as_json_is_read_as_well() -> None:
    """NCCL's legacy one: its counters are texts there."""
    written: Any = getattr(c10d, "_dump_fr_trace_json")  # noqa: B009  # of which torch has no stub

    def dump(entries: bool) -> Sequence[Dump]:
        return (Dump("nccl", json.loads(written(entries, False))),)

    issued = Issued(dump, lambda e: pytest.fail(str(e)), RING)
    issued.begin()
    numbers = torch.ones(3)
    for _ in range(300):
        dist.all_reduce(numbers)
        issued.call(dist.group.WORLD, "allreduce", ([numbers], None), {})
    issued.take()
    assert issued.missed == 0
    assert stretches_of(issued)["0"][-1].endswith("-300")


class Held:
    """The lock, as another thread holds it that reads a recorder."""

    def __init__(self, issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pytest_megacpp.rank.issued.PATIENCE_S", 0.05)
        self._lock = issued._lock

    def __enter__(self) -> None:
        thread = threading.Thread(target=self._lock.acquire)
        thread.start()
        thread.join()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.fixture
def held(issued: Issued, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(issued, monkeypatch)


@pytest.mark.parametrize("when", ["take", "end", "both"])
def test_digests_that_may_lack_something_are_not_told(
    issued: Issued, recorder: Recorder, held: Held, when: str
) -> None:
    """Short ones would differ from the other ranks'."""
    for _ in range(60):
        call(issued, recorder, 0, size=1)
    digests: dict[str, str] = {}
    if when == "end":
        issued.take()
        with held:
            digests = issued.end()
    elif when == "take":
        with held:
            assert issued.take()
        digests = issued.end()
    else:
        with held:
            issued.take()
            digests = issued.end()
    assert digests == {}
    assert issued.missed >= 1
    issued.begin()
    call(issued, recorder, 0, size=1)
    issued.take()
    assert (issued.missed, stretches_of(issued)) == (0, {"0": ["61-61"]})


def test_a_test_that_could_not_begin_is_not_compared(issued: Issued, recorder: Recorder, held: Held) -> None:
    recorder.issue(3)
    with held:
        issued.begin()
    issued.take()
    assert issued.end() == {}
    assert issued.missed >= 1


def test_who_waits_for_another_thread_tells_all(issued: Issued, recorder: Recorder) -> None:
    for _ in range(60):
        call(issued, recorder, 0, size=1)
    issued._lock.acquire()
    threading.Timer(0.2, issued._lock.release).start()
    issued.take()
    assert (issued.missed, stretches_of(issued)) == (0, {"0": ["1-60"]})


def test_a_read_that_fails_half_way_leaves_no_digest() -> None:
    recorder, said = Recorder(), []
    issued = Issued(recorder.dump, lambda e: said.append(type(e)), RING)
    issued.begin()
    recorder.issue(3)
    issued.take()
    recorder.issue(2)
    recorder.issue(1, process_group=())
    assert issued.take()
    assert said == [IndexError]
    assert issued.end() == {}
    assert issued.missed >= 1


def test_an_interrupted_read_leaves_no_digest(issued: Issued, recorder: Recorder) -> None:
    """By the signal of a time-out, whose exception is the test's."""

    def interrupted(entries: bool) -> Sequence[Dump]:
        raise KeyboardInterrupt

    recorder.issue(3)
    issued.take()
    recorder.issue(3)
    issued._dump = interrupted
    with pytest.raises(KeyboardInterrupt):
        issued.take()
    issued._dump = recorder.dump
    issued.take()
    assert issued.end() == {}
    assert issued.missed >= 1


def test_ends_are_said_while_others_take_in(issued: Issued, recorder: Recorder) -> None:
    """Dictionaries don't like to change while they are gone through."""
    issued._digests.add((f"g{n}", n, 1, 1) for n in range(3_000))
    over = threading.Event()

    def issue() -> None:
        n = 0
        while not over.is_set():
            n += 1
            issued._alone(partial(issued._digests.add, [(f"h{n % 5_000}", n, 1, 1)]))

    other = threading.Thread(target=issue)
    other.start()
    for _ in range(300):
        issued.end()
    over.set()
    other.join()


class Hooked(Recorder):
    """As the one that torch's hook writes: its counters number operations of any kind, from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.enqueued["0"] = -1
        self.seq = 0

    def issue(self, count: int, pg: int = 0, dtype: str = "Float", size: int = 8, **more: object) -> None:
        for _ in range(count):
            self.seq += "is_p2p" not in more
            super().issue(1, pg, dtype, size, **({"collective_seq_id": self.seq} | more))

    def dump(self, entries: bool) -> Sequence[Dump]:
        (dump,) = super().dump(entries)
        return (Dump("nccl2", dump.data),)


@pytest.fixture
def hooked() -> Hooked:
    return Hooked()


@pytest.fixture
def issued_hooked(hooked: Hooked) -> Issued:
    made = Issued(hooked.dump, lambda e: pytest.fail(str(e)), RING)
    made.begin()
    return made


def test_the_first_collective_of_a_group_may_have_the_number_0(issued_hooked: Issued, hooked: Hooked) -> None:
    hooked.issue(1)
    assert hooked.enqueued == {"0": 0}
    assert issued_hooked.behind()
    issued_hooked.take()
    assert (issued_hooked.missed, stretches_of(issued_hooked)) == (0, {"0": ["1-1"]})


def test_a_group_that_has_issued_nothing_counts_as_one(issued: Issued, recorder: Recorder) -> None:
    """Of two groups one may fall by what the other rises."""
    recorder.issue(3, 0)
    recorder.issue(4, 1)
    issued.take()
    recorder.enqueued |= {"0": 4, "1": 3}
    assert issued.behind()


def test_counters_of_nccl_may_come_back_to_where_they_were(recorder: Recorder) -> None:
    """A message sets the group's counter to a number of its own."""
    issued = Issued(
        lambda entries: (Dump("nccl", recorder.dump(entries)[0].data),), lambda e: pytest.fail(str(e)), RING
    )
    issued.begin()
    recorder.issue(1)
    issued.take()
    recorder.issue(1)
    recorder.issue(1, is_p2p=True, p2p_seq_id=1)
    recorder.enqueued["0"] = 1
    assert issued.behind() or issued.may_hide()
    issued.begin()
    recorder.enqueued["0"] = 2
    recorder.issue(1)
    issued.take()
    assert (issued.missed, stretches_of(issued)) == (0, {"0": ["3-3"]})


def test_numbers_of_operations_are_not_taken_for_those_of_collectives(issued_hooked: Issued, hooked: Hooked) -> None:
    """After one message they agree, until the next one."""
    hooked.issue(1, is_p2p=True, p2p_seq_id=1)
    issued_hooked.call(GROUPS[0], "send", (), {})
    issued_hooked.take()
    for n in range(300):
        if n == 150:
            hooked.issue(1, is_p2p=True, p2p_seq_id=2)
            issued_hooked.call(GROUPS[0], "send", (), {})
        call(issued_hooked, hooked, 0, size=1)
    issued_hooked.take()
    assert (issued_hooked.missed, stretches_of(issued_hooked)) == (0, {"0": ["1-300"]})


class Capture:
    """Of a CUDA graph: what is issued meanwhile gets a number, and no entry; no recorder may be read."""

    def __init__(self, recorder: Recorder) -> None:
        self.on = False
        self.recorder = recorder
        self.issued = Issued(self.dump, lambda e: pytest.fail(str(e)), RING, self.__bool__)
        self.issued.begin()

    def __bool__(self) -> bool:
        return self.on

    def dump(self, entries: bool) -> Sequence[Dump]:
        assert not self.on, "operation not permitted when stream is capturing"
        return self.recorder.dump(entries)

    def call(self, count: int) -> None:
        for _ in range(count):
            if self.on:
                self.issued.call(GROUPS[0], "allreduce", ([torch.ones(1)], None), {})
            else:
                call(self.issued, self.recorder, 0, size=1)


@pytest.fixture
def capture(recorder: Recorder) -> Capture:
    return Capture(recorder)


def test_no_recorder_is_read_during_a_capture(capture: Capture) -> None:
    """And what is captured is compared with nobody's."""
    capture.call(100)
    capture.on = True
    capture.call(200)
    with capture.issued.burst():
        capture.call(50)
    capture.on = False
    capture.issued.take()
    assert stretches_of(capture.issued) == {"0": ["1-100"]}
    assert capture.issued.missed == 251


def test_a_capture_may_begin_or_end_within_a_pass(capture: Capture) -> None:
    for begins in (True, False):
        with capture.issued.burst():
            capture.call(10)
            capture.on = begins
    capture.issued.take()
    assert stretches_of(capture.issued)


def test_calls_behind_a_capture_are_not_taken_for_known_ones(capture: Capture, recorder: Recorder) -> None:
    capture.call(150)
    capture.on = True
    capture.call(7)
    capture.on = False
    recorder.enqueued["0"] += 7
    capture.call(150)
    capture.issued.take()
    assert capture.issued.missed >= 7
    assert stretches_of(capture.issued)["0"][-1].endswith("-307")


@pytest.mark.parametrize("more", [0, 3], ids=["all-taken", "some-lost"])
def test_a_recorder_that_was_reset_is_there(issued: Issued, recorder: Recorder, more: int) -> None:
    """What it had is lost, as far as that wasn't reported before."""
    recorder.issue(10)
    issued.take()
    recorder.issue(more)
    recorder.entries.clear()
    recorder.records = 0
    issued.take()
    assert issued.missed >= 1
    recorder.issue(5)
    issued.take()
    assert stretches_of(issued) == {"0": [f"{more + 12}-{more + 15}"]}


def test_nothing_is_told_of_a_recorder_that_was_reset_at_the_end(issued: Issued, recorder: Recorder) -> None:
    recorder.issue(10)
    issued.take()
    recorder.issue(1)
    recorder.entries.clear()
    issued.take()
    assert issued.missed >= 1
    assert stretches_of(issued) == {}


def test_there_is_room_for_a_burst_around_others(issued: Issued, recorder: Recorder) -> None:
    """Checkpointing that is reentrant runs backward passes within one; the short ones tell nothing about the long."""
    for n in range(50):
        for _ in range(20 if n else 0):
            call(issued, recorder, 0, size=n)
        with issued.burst():
            recorder.issue(45)
            with issued.burst():
                recorder.issue(1)
    issued.take()
    assert issued.missed == 0


def test_a_burst_within_one_leaves_room_for_the_rest(issued: Issued, recorder: Recorder) -> None:
    for _ in range(50):
        with issued.burst():
            for _ in range(3):
                with issued.burst():
                    recorder.issue(1)
                recorder.issue(40)
    issued.take()
    assert issued.missed == 0


def test_calls_that_no_recorder_shows_any_more_are_missed() -> None:
    """A world that was aborted takes its recorder's counters along."""
    recorder, aborted = Recorder(), False
    issued = Issued(lambda entries: () if aborted else recorder.dump(entries), lambda e: pytest.fail(str(e)), RING)
    issued.begin()
    for _ in range(3):
        call(issued, recorder, 0, 1)
    aborted = True
    issued.take()
    assert issued.missed == 3

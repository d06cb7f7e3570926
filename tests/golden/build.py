"""Owns the golden scenarios: at least one per verdict code and cause, by the fake box. The name of a case
begins with the code of its first test's verdict.
"""

from collections.abc import Callable, Iterable

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.numbers import Numbers
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    FaultKind,
    FlightOrigin,
    MemoryLimit,
    NotRun,
    ProblemCode,
    Purpose,
    ReportOutcome,
    RunEnd,
    SettingOrigin,
    SettingPhase,
    StackMethod,
    Stage,
    Stream,
    TestEnd,
    TestPhase,
)
from tests.scenario import C10D, ENFORCE, NODEID, PEER_CLOSED, TIMED_OUT, USER_FILE, FakeBox

CASES: dict[str, Callable[[], FakeBox]] = {}
SHORT = ev.Limits(startup=60, skew=30, compile=60, stall=30, test=100)
SEGFAULT = (
    "Fatal Python error: Segmentation fault\n\n"
    "Current thread 0x7f01 (most recent call first):\n"
    f'  File "{USER_FILE}", line 61 in launch_kernel\n'
    '  File "/repo/suite/test_step.py", line 9 in test_step\n'
)


def case(build: Callable[[], FakeBox]) -> Callable[[], FakeBox]:
    CASES[build.__name__.replace("_", "-")] = build
    return build


def in_step(ranks: int = 4, limits: ev.Limits = SHORT) -> FakeBox:
    """All ranks through their set-up and one collective."""
    box = FakeBox(ranks, limits=limits).begins()
    return box.enters(range(ranks)).after(0.01).completes().after(0.5)


def on_devices() -> FakeBox:
    """The same on GPUs: collectives are NCCL's, each rank reports its device."""
    box = FakeBox(4, limits=SHORT, dry_run=False).begins()
    for rank in range(4):
        box.rank(ev.DeviceUsed(rank, rank, "NVIDIA H200", f"GPU-{rank}"))
    return box.enters(range(4), "nccl:all_reduce", started=True).after(0.01).completes().after(0.5)


# -- green ---------------------------------------------------------------------------------------------------


@case
def passed() -> FakeBox:
    return in_step().passes().ends().done()


@case
def skipped() -> FakeBox:
    return FakeBox().starts().phase("setup").skips(when=TestPhase.SETUP).finishes().ends().done()


@case
def skipped_in_call() -> FakeBox:
    return in_step().skips().finishes().ends().done()


@case
def xfailed() -> FakeBox:
    return in_step().reports(TestPhase.CALL, outcome=ReportOutcome.SKIPPED, xfail="issue 7").finishes().ends().done()


@case
def xfailed_on_one_rank() -> FakeBox:
    box = in_step().reports(TestPhase.CALL, 3, ReportOutcome.SKIPPED, xfail="issue 7")
    return box.reports(TestPhase.CALL, box.others(3), xfail="issue 7").finishes().ends().done()


@case
def xfailed_leaving_others() -> FakeBox:
    box = (
        in_step()
        .enters((0, 1, 2), seq=2)
        .after(0.2)
        .reports(TestPhase.CALL, 3, ReportOutcome.SKIPPED, xfail="issue 7")
        .finishes(3)
    )
    return box.after(0.6).acts(ActReason.FAILURE_STUCK, "", (0, 1, 2), (3,), (), 0.8).aborts("failure-stuck").done()


@case
def xpassed() -> FakeBox:
    return in_step().reports(TestPhase.CALL, xfail="issue 7").finishes().ends().done()


# -- test-failed ---------------------------------------------------------------------------------------------


@case
def test_failed() -> FakeBox:
    box = in_step().raises((1, 2), "AssertionError", "assert 3.0 == 4.0")
    return box.after(0.01).reports(TestPhase.CALL, (0, 3)).finishes().ends().done()


@case
def test_failed_differently() -> FakeBox:
    box = in_step().raises(0, "AssertionError", "assert 1 == 2", 12).after(0.1).raises(1, "KeyError", "'loss'", 20)
    return box.reports(TestPhase.CALL, (2, 3)).finishes().ends().done()


@case
def test_failed_cuda_oom() -> FakeBox:
    message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 1 has a total capacity of 139.80 GiB"
    box = in_step().raises(1, "torch.OutOfMemoryError", message)
    return box.reports(TestPhase.CALL, box.others(1)).finishes().ends().done()


@case
def test_failed_skipped_on_some_ranks() -> FakeBox:
    box = in_step().skips(2)
    return box.reports(TestPhase.CALL, box.others(2)).finishes().ends().done()


@case
def test_failed_skip_leaves_others_waiting() -> FakeBox:
    box = in_step().skips(2).finishes(2).after(0.1).enters((0, 1, 3), seq=2).after(0.5)
    return box.acts(ActReason.FAILURE_STUCK, "", (0, 1, 3), (2,), (), 0.5).aborts("failure-stuck").done()


@case
def test_failed_xpassed_strict() -> FakeBox:
    error = ev.Error("", "[XPASS(strict)] issue 7", "", 0, "")
    return in_step().reports(TestPhase.CALL, outcome=ReportOutcome.FAILED, error=error).finishes().ends().done()


@case
def test_failed_in_setup() -> FakeBox:
    box = FakeBox().starts().phase("setup").raises(range(4), "OSError", "no data", when=TestPhase.SETUP)
    return box.finishes().ends().done()


@case
def test_failed_in_teardown() -> FakeBox:
    box = in_step().reports(TestPhase.CALL).phase("teardown").reports(TestPhase.TEARDOWN, (0, 2, 3))
    box.raises(1, "OSError", "can't tidy up", when=TestPhase.TEARDOWN).after(0.01)
    for rank in range(4):
        box.rank(ev.Finished(rank, 0, False))
    return box.ends().done()


# -- rank-death ----------------------------------------------------------------------------------------------


def others_wait(box: FakeBox, rank: int, op: str = "gloo:all_gather", seq: int = 12) -> FakeBox:
    return box.enters(box.others(rank), op, seq).after(2.0)


def died(box: FakeBox, rank: int, why: ActReason = ActReason.EXIT) -> FakeBox:
    return box.after(0.2).acts(why, "", box.others(rank), (rank,), (), 2.2).aborts(why).done()


@case
def rank_death_exception() -> FakeBox:
    box = others_wait(in_step(8), 3).raises(3)
    return died(box.after(0.4), 3, ActReason.FAILURE_STUCK)


@case
def rank_death_exception_victims() -> FakeBox:
    """With gloo the others' connections break: their errors come from the peer."""
    box = others_wait(in_step(), 3).raises(3).finishes(3).after(0.04).loses_peer((0, 1, 2)).finishes((0, 1, 2))
    return box.ends().done()


@case
def rank_death_exception_victims_in_own_words() -> FakeBox:
    """The cause takes its time to unwind; the others hide whose error they met (`from None`), before it is reported."""
    box = in_step().enters((0, 1, 2), seq=2).after(0.5)
    box.raises((0, 1, 2), "AssertionError", "the loss didn't fall", context=(f"RuntimeError: {PEER_CLOSED}",))
    return box.finishes((0, 1, 2)).after(1.0).raises(3, "ValueError", "true cause").finishes(3).ends().done()


@case
def rank_death_signal_seen_late() -> FakeBox:
    """A busy box learns of the death after a victim has reacted to it."""
    box = in_step().enters((0, 1, 2), seq=2).after(1.0)
    alive_s = box.now_s
    box.after(0.02).raises((0, 1, 2), "AssertionError", "the loss didn't fall")
    box.after(0.05).exits(3, -9, "SIGKILL", alive_s=alive_s)
    return died(box, 3)


@case
def rank_death_exception_before_a_kill() -> FakeBox:
    """The process that was killed was seen alive after the other had raised."""
    box = in_step().enters((0, 1), seq=2).after(1.0).raises(2)
    alive_s = box.now_s + 0.001
    return died(box.after(0.005).exits(3, -9, "SIGKILL", alive_s=alive_s), 3)


@case
def rank_death_exception_late() -> FakeBox:
    """The others time out first, the true cause comes after them."""
    box = in_step().enters((0, 1, 2), seq=2).after(6.0).loses_peer(0, TIMED_OUT).after(0.01).loses_peer((1, 2))
    box.finishes((0, 1, 2)).after(4.0).raises(3, "ValueError", "true cause").finishes(3)
    return box.ends().done()


@case
def rank_death_exception_in_a_finally_of_most_ranks() -> FakeBox:
    """Three of four raise and wait in `finally: dist.barrier()`: the majority isn't right because it is one."""
    box = in_step().handles((1, 2, 3)).enters((1, 2, 3), "gloo:barrier", 2).enters(0, seq=2).after(0.4)
    box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0")
    return box.blocked(0, "all_reduce").blocked((1, 2, 3), "barrier").aborts("mismatch").done()


@case
def collective_mismatch_operation_with_exceptions_that_most_ranks_caught() -> FakeBox:
    """Either they took the wrong way because of these, or the rank without one did: nobody is blamed."""
    box = in_step().handles((1, 2, 3), "KeyError", "cache", propagates=False)
    box.enters((1, 2, 3), seq=2).enters(0, "gloo:broadcast", 2).after(0.4)
    box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0")
    return box.blocked(0, "broadcast").blocked((1, 2, 3), "all_reduce").aborts("mismatch").done()


@case
def straggler_of_futures_that_timed_out() -> FakeBox:
    """`pool.submit(dist.barrier).result(timeout=2)` says nothing of the rank that sleeps."""
    box = in_step().enters((0, 2, 3), "gloo:barrier", 2).after(2.0)
    box.raises((0, 2, 3), "TimeoutError", "", raised_in="/usr/lib/python3.11/concurrent/futures/_base.py")
    box.finishes((0, 2, 3)).after(6).enters(1, "gloo:barrier", 2).completes().passes(1)
    return box.ends().done()


@case
def rank_death_exception_then_teardown() -> FakeBox:
    """What the rank that failed does in its teardown meets what the others still do in the test."""
    box = in_step().enters((0, 1, 2), seq=2).after(0.1).raises(3, "ValueError", "first").after(0.01)
    box.enters(3, "gloo:barrier", 2).after(0.4)
    return box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0").aborts("mismatch").done()


@case
def rank_death_exception_second_failure() -> FakeBox:
    """Two failures of their own; the first one left others waiting."""
    box = in_step().enters((0, 3), seq=2).after(0.1).raises(1, "ValueError", "first", 20).after(0.3)
    box.raises(2, "KeyError", "'second'", 25).after(0.4)
    return box.acts(ActReason.FAILURE_STUCK, "", (0, 3), (1, 2), (), 0.8).aborts("failure-stuck").done()


@case
def rank_death_exception_in_setup() -> FakeBox:
    box = FakeBox().starts().phase("setup").after(0.1).raises(1, "OSError", "no data set", when=TestPhase.SETUP)
    box.reports(TestPhase.SETUP, box.others(1)).phase("call", box.others(1)).enters(box.others(1)).after(0.5)
    return died(box, 1, ActReason.FAILURE_STUCK)


@case
def rank_death_oom_killed() -> FakeBox:
    return died(others_wait(in_step(8), 3).exits(3, None, "SIGKILL", True), 3)


@case
def rank_death_cuda_oom() -> FakeBox:
    message = "CUDA out of memory. Tried to allocate 20.00 GiB."
    box = others_wait(in_step(), 2).raises(2, "torch.OutOfMemoryError", message)
    return died(box.after(0.4), 2, ActReason.FAILURE_STUCK)


@case
def rank_death_cuda_error() -> FakeBox:
    message = "CUDA error: an illegal memory access was encountered"
    box = others_wait(in_step(), 2).raises(2, "torch.AcceleratorError", message)
    return died(box.after(0.4), 2, ActReason.FAILURE_STUCK)


@case
def rank_death_signal_SIGSEGV() -> FakeBox:
    box = others_wait(in_step(), 1).exits(1, -11, "SIGSEGV").after(0.2)
    box.acts(ActReason.EXIT, "a rank's process ended", (0, 2, 3), (1,), (), 2.2).writes(1, SEGFAULT)
    return box.aborts("exit").done()


@case
def rank_death_signal_SIGABRT() -> FakeBox:
    """A C++ exception that nobody caught."""
    said = "terminate called after throwing an instance of 'std::runtime_error'\n  what():  queue is closed\n"
    box = others_wait(in_step(), 1).exits(1, -6, "SIGABRT").after(0.2)
    box.acts(ActReason.EXIT, "a rank's process ended", (0, 2, 3), (1,), (), 2.2)
    return box.writes(1, said + SEGFAULT.replace("Segmentation fault", "Aborted")).aborts("exit").done()


@case
def rank_death_signal_SIGKILL() -> FakeBox:
    """This box can't tell an OOM kill from another."""
    box = FakeBox(limits=SHORT)
    box.say(ev.Capability("memory_events", False, "no cgroup v2"))
    box.begins().enters((0, 1, 2), seq=1).after(1.0).exits(3, None, "SIGKILL", None)
    return died(box, 3)


@case
def rank_death_exit_3() -> FakeBox:
    return died(others_wait(in_step(), 2).exits(2, 3), 2)


@case
def rank_death_exit_0() -> FakeBox:
    return died(others_wait(in_step(), 2).exits(2, 0), 2)


@case
def rank_death_exit_unknown() -> FakeBox:
    return died(others_wait(in_step(), 2).exits(2, None, None, None), 2)


@case
def rank_death_nobody_waits() -> FakeBox:
    """All had passed when a process ended."""
    box = in_step().passes((0, 1, 3)).reports(TestPhase.CALL, 2).exits(2, -11, "SIGSEGV").after(0.2)
    return box.acts(ActReason.EXIT, "a rank's process ended").aborts("exit").done()


# -- compiling -----------------------------------------------------------------------------------------------

COMPILING = ("dynamo_compile", "compile_inductor")


@case
def compile_skew() -> FakeBox:
    box = in_step(8).samples(1, compiling=COMPILING).after(0.2).enters(box_others(8, 1), seq=7)
    box.after(31.0).samples(1, compiling=COMPILING, cpu_s=30.0)
    box.acts(ActReason.SKEW, "all_reduce #7 while a missing peer compiles", box_others(8, 1), (1,), (1,), 31.0)
    return box.samples(1, compiling=COMPILING, cpu_s=30.2).aborts("skew").done()


def box_others(size: int, *ranks: int) -> tuple[int, ...]:
    return tuple(r for r in range(size) if r not in ranks)


@case
def compile_skew_no_progress() -> FakeBox:
    """The counters say compiling, but nothing moves: its compiler is stuck."""
    box = in_step().samples(1, compiling=COMPILING, cpu_s=2.0).after(0.2).enters((0, 2, 3), seq=7).after(31.0)
    box.acts(ActReason.STALL, "all_reduce #7 without a missing peer", (0, 2, 3), (1,), (1,), 31.0)
    return box.at(1, 44, "build").aborts("stall").done()


@case
def compile_stall() -> FakeBox:
    box = in_step().samples((0, 1), compiling=COMPILING).after(30.0).samples(0).after(31.0)
    box.samples(1, compiling=COMPILING, cpu_s=60.0).acts(ActReason.COMPILE, "rank 1 compiles in one go")
    return box.aborts("compile").done()


# -- collective-mismatch -------------------------------------------------------------------------------------


@case
def collective_mismatch_operation() -> FakeBox:
    box = in_step().enters((0, 1, 3), seq=2).after(0.01).enters(2, "gloo:broadcast", 2).after(0.3)
    return box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0").aborts("mismatch").done()


@case
def collective_mismatch_operation_after_a_failure() -> FakeBox:
    """A subtest failed on rank 0, which went on with the others; a second later rank 2 issues something else."""
    box = in_step().raises(0, "AssertionError", "assert 1 == 2").after(1.2)
    box.enters((0, 1, 3), "gloo:barrier", 2).enters(2, seq=2).after(0.4)
    return box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0").aborts("mismatch").done()


@case
def collective_mismatch_size() -> FakeBox:
    """gloo aborts a rank that did nothing wrong; the culprit is the one with another size."""
    box = in_step().enters((0, 1), seq=2).enters(3, seq=2, numel=12).exits(2, -6, "SIGABRT").after(0.2)
    box.acts(ActReason.EXIT, "a rank's process ended", (0, 1, 3), (2,), (), 0.2).writes(2, ENFORCE)
    return box.aborts("exit").done()


@case
def collective_mismatch_dtype() -> FakeBox:
    """The transport moves as many bytes as it should: every rank passes, only the numbers are wrong."""
    box = in_step().enters((0, 2, 3), seq=2).enters(1, seq=2, dtype="Int").after(0.01).completes()
    return box.passes().ends().done()


@case
def collective_mismatch_tie() -> FakeBox:
    box = in_step(2).enters(0, seq=2).enters(1, "gloo:broadcast", 2).after(0.3)
    return box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0").aborts("mismatch").done()


@case
def collective_mismatch_that_only_digests_show() -> FakeBox:
    """Longer ago than the recorder remembers; nobody noticed."""
    reported = dict.fromkeys(range(4), "1-203:0a1b2c3d4e5f") | {2: "1-203:ffeeddccbbaa"}
    return in_step().reports(TestPhase.CALL).finishes(digests=reported).ends().done()


@case
def passed_with_digests_that_begin_elsewhere() -> FakeBox:
    """One rank's ring had room for more of them: what doesn't begin alike can't be compared."""
    reported = dict.fromkeys(range(4), "3-203:0a1b2c3d4e5f") | {2: "1-203:ffeeddccbbaa"}
    return in_step().reports(TestPhase.CALL).finishes(digests=reported).ends().done()


@case
def collective_mismatch_group_order() -> FakeBox:
    box = in_step().announces("1", range(4)).announces("2", range(4))
    box.enters((0, 1, 2), group="1").enters(3, group="2").after(31.0)
    box.acts(ActReason.STALL, "all_reduce #1 without a missing peer", (0, 1, 2), (3,), (), 31.0)
    return box.aborts("stall").done()


@case
def collective_mismatch_group_order_of_a_collective_and_a_making() -> FakeBox:
    """All make the same group, rank 0 a collective later."""
    box = in_groups().enters(0, seq=2)
    for rank in (1, 2, 3):
        makes(box, rank, "1", range(4))
    return everybody_waits(box.blocked((1, 2, 3), "new_group"))


def in_groups() -> FakeBox:
    """As `in_step`, with ranks that announce their groups."""
    box = FakeBox(4, limits=SHORT).begins()
    for rank in range(4):
        makes(box, rank, "0", (), made=True)
    return box.enters(range(4)).after(0.01).completes().after(0.5)


def makes(box: FakeBox, rank: int, name: str, members: Iterable[int], *, made: bool = False, line: int = 24) -> FakeBox:
    ranks = tuple(members)
    is_member, at = not ranks or rank in ranks, ("/repo/suite/groups.py", line)
    box.rank(ev.GroupBegun(rank, 0, name, ranks, len(ranks) or 4, is_member, "", not ranks, None, *at))
    return box.rank(ev.GroupCreated(rank, 0, name, ranks, "gloo")) if made else box


def everybody_waits(box: FakeBox) -> FakeBox:
    return box.after(31.0).acts(ActReason.STALL, "everybody waits", range(4), (), (), 31.0).aborts("stall").done()


def lists_differ(*through: int, odd: Iterable[int] = (1,)) -> FakeBox:
    """Rank 1 makes a group without rank 3, which all others count in; `through`: whom gloo let pass."""
    box, odd = in_groups(), tuple(odd)
    for rank in range(4):
        makes(box, rank, "1", range(3) if rank in odd else range(4), made=rank in through)
    return box.after(0.01)


@case
def collective_mismatch_members() -> FakeBox:
    """An innocent rank waits in the making, the others are through."""
    return everybody_waits(lists_differ(0, 1, 2).enters((0, 1, 2), seq=2).blocked(3, "new_group"))


@case
def collective_mismatch_members_that_all_wait() -> FakeBox:
    return everybody_waits(lists_differ().blocked(range(4), "new_group"))


@case
def collective_mismatch_members_in_use() -> FakeBox:
    """All are through, and each waits in its own idea of the group."""
    return everybody_waits(lists_differ(0, 1, 2, 3).enters(range(4), group="1"))


@case
def collective_mismatch_members_of_which_one_fails() -> FakeBox:
    """An innocent rank fails in the making."""
    box = lists_differ(0, 1, 2).enters((0, 1, 2), seq=2).after(10.0)
    box.rank(ev.GroupCreated(3, 0, "1", (0, 1, 2, 3), failed=True))
    box.raises(3, "RuntimeError", "vector::_M_range_check: __n (which is 3) >= this->size() (which is 3)").after(0.5)
    box.acts(ActReason.FAILURE_STUCK, "every rank left in the test waits", (0, 1, 2), (3,), (), 10.5)
    return box.aborts("failure-stuck").done()


@case
def collective_mismatch_members_of_which_one_aborts() -> FakeBox:
    box = lists_differ(0, 1, 2).enters((0, 1, 2), seq=2).after(0.5).exits(3, -6, "SIGABRT").after(0.2)
    return box.acts(ActReason.EXIT, "a rank's process ended", (0, 1, 2), (3,), (), 0.2).aborts("exit").done()


@case
def collective_mismatch_members_that_nobody_noticed() -> FakeBox:
    return lists_differ(0, 1, 2, 3).enters(range(4), seq=2).after(0.01).completes().passes().ends().done()


@case
def collective_mismatch_members_tie() -> FakeBox:
    return everybody_waits(lists_differ(odd=(1, 2)).blocked(range(4), "new_group"))


@case
def collective_mismatch_members_of_one_group_fewer() -> FakeBox:
    """Rank 3 calls new_group only for the groups that it is in."""
    box = in_groups()
    for rank in (0, 1, 2):
        makes(makes(box, rank, "1", range(3), made=True), rank, "2", range(4), line=26)
    return everybody_waits(makes(box, 3, "1", range(4), line=26).blocked(range(4), "new_group"))


@case
def collective_mismatch_members_without_the_rank_itself() -> FakeBox:
    """It is no member of what it names, so it goes on."""
    box = in_groups()
    for rank in range(4):
        makes(box, rank, "1", (0, 1) if rank == 2 else range(4))
    return everybody_waits(box.enters(2, seq=2).blocked((0, 1, 3), "new_group"))


@case
def collective_mismatch_size_of_the_root() -> FakeBox:
    """Two ranks that got more than they expected are gone, what they issued with them: they break the tie."""
    box = in_step().enters(0, "gloo:broadcast", 2, numel=16).enters(3, "gloo:broadcast", 2)
    box.exits(1, -6, "SIGABRT").exits(2, -6, "SIGABRT").after(0.2)
    box.acts(ActReason.EXIT, "a rank's process ended", (0, 3), (1, 2), (), 0.2).writes(1, ENFORCE).writes(2, ENFORCE)
    return box.aborts("exit").done()


@case
def collective_mismatch_size_seen_in_the_crash() -> FakeBox:
    """Two ranks abort at once, the odd one and an innocent one; both were looked at before they were gone."""
    box = in_step().enters((1, 2), seq=2).enters(0, seq=2, numel=16, origin=FlightOrigin.FAILURE)
    box.enters(3, seq=2, origin=FlightOrigin.FAILURE).exits(0, -6, "SIGABRT").exits(3, -6, "SIGABRT").after(0.2)
    return box.acts(ActReason.EXIT, "", (1, 2), (), (), 0.2).writes(0, ENFORCE).writes(3, ENFORCE).aborts("exit").done()


@case
def collective_mismatch_told_by_gloo() -> FakeBox:
    """The aborted rank took its memory along; all others agree, so it is the odd one."""
    box = in_step().enters((0, 1, 3), seq=2, numel=12).exits(2, -6, "SIGABRT").after(0.2)
    return box.acts(ActReason.EXIT, "", (0, 1, 3), (2,), (), 0.2).writes(2, ENFORCE).aborts("exit").done()


@case
def collective_mismatch_told_by_torch() -> FakeBox:
    def reported(mine: str, rank: int) -> str:
        return (
            f"Detected mismatch between collectives on ranks. Rank {rank} is running collective: "
            f"CollectiveFingerPrint(SequenceNumber=2, OpType={mine}, TensorShape=[8]), but Rank 2 is running "
            "collective: CollectiveFingerPrint(SequenceNumber=2, OpType=BROADCAST, TensorShape=[8])."
        )

    box = in_step()
    for rank in (0, 1, 3):
        box.raises(rank, "RuntimeError", reported("ALLREDUCE", rank))
    return box.raises(2, "RuntimeError", reported("ALLREDUCE", 0)).finishes().ends().done()


# -- straggler -----------------------------------------------------------------------------------------------


def stalls(box: FakeBox, rank: int, seq: int = 4) -> FakeBox:
    waiting = box.others(rank)
    box.enters(waiting, seq=seq).after(31.0)
    return box.acts(ActReason.STALL, f"all_reduce #{seq} without a missing peer", waiting, (rank,), (), 31.0)


@case
def straggler() -> FakeBox:
    return stalls(in_step(), 2).at(2).aborts("stall").done()


@case
def straggler_frozen() -> FakeBox:
    box = in_step().samples(2, state="T", answered=False)
    return stalls(box, 2).samples(2, state="T", answered=False).aborts("stall").done()


@case
def straggler_frozen_inside() -> FakeBox:
    """It had entered the collective before it was stopped: nobody seems to be missing."""
    box = in_step().enters(range(4), seq=4).after(0.1).samples(2, state="T", answered=False).after(31.0)
    box.acts(ActReason.STALL, "everybody waits", range(4), (), (), 31.0)
    return box.samples(2, state="T", answered=False).aborts("stall").done()


@case
def straggler_left_early() -> FakeBox:
    box = in_step().passes(2).after(0.1).enters((0, 1, 3), seq=4).after(0.5)
    box.acts(ActReason.FAILURE_STUCK, "every rank left in the test waits", (0, 1, 3), (2,), (), 0.5)
    return box.aborts("failure-stuck").done()


@case
def straggler_left_early_closing_its_group() -> FakeBox:
    box = in_step().passes(2).after(0.05).enters((0, 1, 3), seq=4).after(0.05).loses_peer((0, 1, 3))
    return box.finishes((0, 1, 3)).ends().done()


@case
def straggler_behind_a_dead_thread() -> FakeBox:
    """The thread that it waits for is gone, and pytest keeps that to itself."""
    error = ev.Error("ValueError", "no shards", USER_FILE, 12, "")
    box = in_step().rank(ev.ThreadRaised(2, 0, "loader", error))
    return stalls(box, 2).at(2).aborts("stall").done()


@case
def straggler_in_teardown() -> FakeBox:
    """All are tearing down: the missing one didn't leave, it is late."""
    box = in_step().reports(TestPhase.CALL).phase("teardown").enters((0, 1, 3), "gloo:barrier", 4).after(31.0)
    box.acts(ActReason.STALL, "barrier #4 without a missing peer", (0, 1, 3), (2,), (), 31.0)
    return box.at(2, 95, "tidy_up").aborts("stall").done()


@case
def straggler_after_taking_evidence() -> FakeBox:
    """Looking at it woke the straggler: what ranks do after the box has acted is no evidence."""
    box = stalls(in_step(), 2).at(2).after(0.5).enters(2, seq=4).completes().passes((0, 1, 3))
    return box.aborts("stall").done()


@case
def straggler_gil_held() -> FakeBox:
    box = stalls(in_step(), 2).stack(2, ok=False)
    return box.stack(2, (USER_FILE, 59, "native_step"), method=StackMethod.PY_SPY).aborts("stall").done()


@case
def straggler_not_answering() -> FakeBox:
    box = stalls(in_step(), 2).samples(2, answered=False, state="D").stack(2, ok=False)
    return box.stack(2, method=StackMethod.FAULTHANDLER, ok=False).aborts("stall").done()


@case
def straggler_behind_a_chain() -> FakeBox:
    """Ranks 0 and 1 wait for rank 2, which waits for rank 3 in another group."""
    box = in_step().announces("1", (0, 1, 2)).announces("2", (2, 3))
    box.enters((0, 1), group="1").enters(2, "gloo:broadcast", group="2").after(31.0)
    box.acts(ActReason.STALL, "all_reduce #1 without a missing peer", (0, 1), (2,), (), 31.0)
    return box.at(3).aborts("stall").done()


@case
def straggler_on_its_way() -> FakeBox:
    """Ranks 0 and 1 wait for rank 2, which still goes through one collective after another with rank 3."""
    box = (
        in_step().announces("1", (0, 1, 2)).announces("2", (2, 3)).enters((0, 1), "gloo:barrier", group="1").after(30.8)
    )
    box.enters(2, "gloo:all_reduce", 14, group="2").after(0.2)
    box.acts(ActReason.STALL, "barrier #1 waits for a missing peer", (0, 1), (2,), (), 31.0)
    return box.blocked(2, "all_reduce").at(3).aborts("stall").done()


@case
def straggler_outnumbered() -> FakeBox:
    """Everybody waits: three in a collective, the fourth for a message that nobody sends."""
    box = in_step().enters((0, 1, 3), seq=2).after(31.0)
    box.acts(ActReason.STALL, "everybody waits", (0, 1, 2, 3), (), (), 31.0)
    return box.blocked(2, "recv").aborts("stall").done()


@case
def straggler_device_busy() -> FakeBox:
    """On devices a collective is queued long before it begins: rank 2 queued it behind a kernel that doesn't end."""
    box = on_devices().enters((0, 1, 3), "nccl:all_reduce", 2, started=True).enters(2, "nccl:all_reduce", 2).after(31.0)
    box.acts(ActReason.STALL, "all_reduce #2 waits for a missing peer", (0, 1, 3), (2,), (), 31.0)
    return box.at(2, 120, "attention").aborts("stall").done()


@case
def straggler_point_to_point_on_devices() -> FakeBox:
    """NCCL's recorder names the partner of a message: rank 2 never sends what rank 3 receives."""
    box = on_devices().enters(3, "nccl:recv 3<-2", 1, started=True).after(31.0)
    box.acts(ActReason.STALL, "recv from rank 2 #1 waits for a missing peer", (3,), (2,), (), 31.0)
    return box.at(2).aborts("stall").done()


@case
def hang_device_busy() -> FakeBox:
    """Every host queued the collective behind a kernel that doesn't end: nobody waits for a peer."""
    box = on_devices().box(ev.EnvironmentSet("TORCH_NCCL_ENABLE_TIMING", "1", SettingOrigin.PLUGIN, "who began"))
    box.enters(range(4), "nccl:all_reduce", 2).after(99.5).samples(range(4), state="R", cpu_s=99.0)
    return (
        box.acts(ActReason.TEST_LIMIT, "the test ran longer than 100 s").at(range(4), 120, "attention").aborts().done()
    )


@case
def hang_on_nccl2() -> FakeBox:
    """Its recorder never tells that a device has begun: whether the devices are busy is not known."""
    box = on_devices().box(ev.EnvironmentSet("TORCH_NCCL_ENABLE_TIMING", "1", SettingOrigin.PLUGIN, "who began"))
    box.enters(range(4), "nccl2:all_reduce", 2).after(99.5).samples(range(4), state="R", cpu_s=99.0)
    return (
        box.acts(ActReason.TEST_LIMIT, "the test ran longer than 100 s").at(range(4), 120, "attention").aborts().done()
    )


@case
def hang_in_a_collective_on_devices() -> FakeBox:
    """Every device has begun it, and it doesn't end: the hosts burn CPU meanwhile."""
    box = on_devices().enters(range(4), "nccl:all_reduce", 2, started=True).after(31.0)
    box.samples(range(4), state="R", cpu_s=32.0)
    box.acts(ActReason.STALL, "everybody waits", range(4), (), (), 31.0)
    return box.aborts("stall").done()


@case
def environment_xid_79() -> FakeBox:
    """A GPU fell off the bus: what its rank raised, and what others then waited for, is nobody's code."""
    box = on_devices().enters((0, 1, 3), "nccl:all_reduce", 2).after(0.4)
    box.box(ev.DeviceFault(FaultKind.XID, 79, 2, "GPU-2", None, "GPU has fallen off the bus.")).after(0.1)
    box.raises(2, "torch.AcceleratorError", "CUDA error: unspecified launch failure").after(0.4)
    return box.acts(ActReason.FAILURE_STUCK, "", (0, 1, 3), (2,), (), 0.9).aborts("failure-stuck").done()


@case
def environment_ecc() -> FakeBox:
    box = on_devices().box(ev.DeviceFault(FaultKind.ECC, 2, 1, "GPU-1", None, "")).after(0.1)
    box.exits(1, -6, "SIGABRT").after(0.2).acts(ActReason.EXIT).aborts("exit")
    return box.done()


NVLS = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:93, unhandled cuda error (run with"
    " NCCL_DEBUG=INFO for details), NCCL version 2.29.3\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\n"
    "Failed to bind NVLink SHARP (NVLS) Multicast memory of size 2097152 : CUDA error 401 'the operation cannot be"
    " performed in the present state'.\n"
)


NVLS_WARNING = (
    "node004:27907:27907 [1] transport/nvls.cc:254 NCCL WARN Cuda failure 401 'the operation cannot be performed in the"
    " present state'\n"
)


def with_nvls(value: str, origin: SettingOrigin) -> FakeBox:
    box = FakeBox(4, limits=SHORT, dry_run=False)
    return box.box(ev.EnvironmentSet("NCCL_NVLS_ENABLE", value, origin, "", SettingPhase.GROUP))


@case
def environment_nvls() -> FakeBox:
    """The first group of NCCL can't be made; one rank is seconds behind and meets nothing but its peers' absence."""
    box = with_nvls("1", SettingOrigin.USER).starts().phase("setup")
    box.raises((0, 1, 2), "torch.distributed.DistBackendError", NVLS, when=TestPhase.SETUP).finishes((0, 1, 2)).after(
        0.8
    )
    return box.acts(ActReason.FAILURE_STUCK, "", (3,), (0, 1, 2), (), 0.8).aborts("failure-stuck").done()


@case
def environment_nvls_in_a_collective() -> FakeBox:
    """In a call, on some ranks; the others wait. What a rank says later of its own is none of it."""
    box = with_nvls("1", SettingOrigin.USER).begins().enters((0, 1)).after(0.1)
    box.raises((2, 3), "torch.distributed.DistBackendError", NVLS).finishes((2, 3)).after(0.8)
    return box.acts(ActReason.FAILURE_STUCK, "", (0, 1), (2, 3), (), 0.8).aborts("failure-stuck").done()


@case
def environment_nvls_beside_a_failure_of_another_kind() -> FakeBox:
    """Which came first is not known, so it isn't certain."""
    box = with_nvls("1", SettingOrigin.USER).begins().enters((0, 1)).after(0.1)
    box.raises(3, "ValueError", "no such shard").after(0.006).raises(2, "torch.distributed.DistBackendError", NVLS)
    box.finishes((2, 3)).after(0.8)
    return box.acts(ActReason.FAILURE_STUCK, "", (0, 1), (2, 3), (), 0.8).aborts("failure-stuck").done()


@case
def environment_nvls_of_a_process_that_ended() -> FakeBox:
    """A library of its own aborts; NCCL_DEBUG=WARN tells why."""
    box = with_nvls("0", SettingOrigin.PLUGIN).begins().after(0.1)
    box.rank(ev.OutputRead(1, 0, Stream.STDERR, NVLS_WARNING)).exits(1, -6, "SIGABRT")
    return died(box, 1)


@case
def environment_nvls_before_the_first_test() -> FakeBox:
    box = with_nvls("1", SettingOrigin.USER).starts_world().readies()
    for rank in range(4):
        box.rank(ev.RankBroken(rank, Stage.CONFTEST, "torch.distributed.DistBackendError", NVLS, ""))
    return box.say(ev.TestEnded(0, TestEnd.NOT_RUN, "")).done()


@case
def rank_death_exception_before_nvls() -> FakeBox:
    """A rank that failed before keeps its blame."""
    box = with_nvls("1", SettingOrigin.USER).begins().after(0.1).raises(2).finishes(2).after(0.5)
    box.raises((0, 1), "torch.distributed.DistBackendError", NVLS).finishes((0, 1)).after(0.5)
    return box.acts(ActReason.FAILURE_STUCK, "", (3,), (2,), (), 0.5).aborts("failure-stuck").done()


@case
def rank_death_cuda_error_with_its_xid() -> FakeBox:
    """An Xid that a kernel caused is evidence beside what the rank raised."""
    box = on_devices().enters((0, 1, 3), "nccl:all_reduce", 2).after(0.4)
    box.raises(2, "torch.AcceleratorError", "CUDA error: an illegal memory access was encountered").after(0.01)
    box.box(ev.DeviceFault(FaultKind.XID, 31, 2, "GPU-2", 2, "pid=1002, name=python3, MMU Fault: FAULT_PDE")).after(0.4)
    return box.acts(ActReason.FAILURE_STUCK, "", (0, 1, 3), (2,), (), 0.9).aborts("failure-stuck").done()


@case
def straggler_on_nccl2() -> FakeBox:
    box = on_devices().enters((0, 1, 3), "nccl2:all_reduce", 2).after(31.0)
    box.acts(ActReason.STALL, "all_reduce #2 waits for a missing peer", (0, 1, 3), (2,), (), 31.0)
    return box.at(2).aborts("stall").done()


@case
def straggler_unrecorded_on_devices() -> FakeBox:
    """NCCL has issued collectives, and no recorder of torch's shows them: only stacks tell who waits."""
    box = on_devices()
    reported = "LookupError: nccl2 has issued collectives that torch did not record"
    box.rank(ev.Capability("flight_recorder", False, reported, 0)).after(31.0)
    box.acts(ActReason.STALL, "ranks without a missing peer", (0, 1, 3), (2,), (), 31.0)
    return box.at(2).aborts("stall").done()


@case
def straggler_without_flight_recorder() -> FakeBox:
    box = FakeBox(limits=SHORT)
    box.begins().rank(ev.Capability("flight_recorder", False, "this torch has none", 0)).after(31.0)
    box.acts(ActReason.STALL, "ranks without a missing peer", (0, 1, 3), (2,), (), 31.0)
    return box.at(2).aborts("stall").done()


@case
def straggler_gave_up_on() -> FakeBox:
    """The process group's own time-out was shorter than the box's limit."""
    box = in_step().enters((0, 1, 2), seq=4).after(3.0).at(3).after(3.0).loses_peer(0, TIMED_OUT).after(0.01)
    box.loses_peer((1, 2), PEER_CLOSED).finishes((0, 1, 2)).after(4.0).enters(3, seq=4).after(0.01).loses_peer(3)
    return box.finishes(3).ends().done()


@case
def straggler_point_to_point() -> FakeBox:
    box = in_step(2).blocked(0).after(31.0)
    box.acts(ActReason.STALL, "point-to-point #0 without a missing peer", (0,), (1,), (), 31.0)
    return box.blocked(0).at(1).aborts("stall").done()


# -- hang, overtime, unclear ---------------------------------------------------------------------------------


@case
def hang_point_to_point() -> FakeBox:
    box = in_step().blocked(range(4)).after(31.0)
    box.acts(ActReason.STALL, "everybody waits", range(4), (), (), 31.0)
    return box.blocked(range(4)).aborts("stall").done()


@case
def hang_in_a_collective() -> FakeBox:
    box = in_step().enters(range(4), "nccl:all_reduce", 9).after(31.0)
    box.acts(ActReason.STALL, "everybody waits", range(4), (), (), 31.0)
    return box.blocked(range(4), "all_reduce").aborts("stall").done()


@case
def hang_at_the_limit() -> FakeBox:
    """Only the time says so: nobody communicates, nobody moves."""
    box = in_step().after(100.0).acts(ActReason.TEST_LIMIT, "the test ran longer than 100 s")
    return box.at(range(4), 70, "sleep").aborts("test-limit").done()


@case
def overtime() -> FakeBox:
    box = in_step()
    for second in range(10):
        box.samples(range(4), cpu_s=2.0 + second).after(10.0)
    box.samples(range(4), cpu_s=20.0).after(0.5)
    return box.acts(ActReason.TEST_LIMIT, "the test ran longer than 100 s").at(range(4)).aborts("test-limit").done()


@case
def overtime_run_limit() -> FakeBox:
    box = FakeBox(limits=SHORT, tests=(NODEID, NODEID + "_2")).begins().samples(range(4), cpu_s=9.0).after(1.0)
    box.acts(ActReason.RUN_LIMIT, "the run took longer than 10 s").aborts("run-limit")
    return box.done(RunEnd.RUN_LIMIT, "the run took longer than 10 s")


@case
def unclear() -> FakeBox:
    """The limit passed after less silence than a stall."""
    limits = ev.Limits(stall=120, test=60)
    box = FakeBox(limits=limits).begins().after(60.0).acts(ActReason.TEST_LIMIT, "the test ran longer than 60 s")
    return box.at(range(4)).aborts("test-limit").done()


# -- start-up ------------------------------------------------------------------------------------------------

IMPORT_ERROR = "ImportError while importing test module.\nE   ModuleNotFoundError: No module named 'apex'"


@case
def startup_failure_import() -> FakeBox:
    box = FakeBox().starts_world().readies().collects((0, 2, 3))
    box.collects(1, (), ("suite/test_step.py", IMPORT_ERROR))
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def startup_failure_collection() -> FakeBox:
    """Only the test that not all ranks have is hit."""
    box = FakeBox(tests=(NODEID + "_of_some", NODEID)).starts_world().readies().collects((0, 2, 3)).collects(1, (1,))
    box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection"))
    return box.begins(1).passes().ends().done()


@case
def startup_failure_collection_of_other_parameters() -> FakeBox:
    """Every process draws its own parameters."""
    box = FakeBox(2, (NODEID + "[17]",)).starts_world().readies()
    for rank, other in ((0, 4), (1, 8)):
        box.rank(ev.RankCollected(rank, Numbers(), "d", unplanned=(f"{NODEID}[{other}]",)))
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def startup_failure_collection_in_the_order_of_a_set() -> FakeBox:
    """Two of four names: the rank that has the desk's has another one beside it, which stands in for nothing."""
    box = FakeBox(2, (NODEID + "[forces]",)).starts_world().readies()
    box.rank(ev.RankCollected(0, Numbers((0,)), "d", unplanned=(f"{NODEID}[energy]",)))
    box.rank(ev.RankCollected(1, Numbers(), "e", unplanned=(f"{NODEID}[stress]",)))
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def startup_failure_collection_file_skipped() -> FakeBox:
    box = FakeBox().starts_world().readies().collects((0, 1, 3))
    box.rank(
        ev.RankCollected(2, Numbers(), "d", skipped=(ev.CollectError("suite/test_step.py", "Skipped: not there"),))
    )
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def skipped_at_import() -> FakeBox:
    """The box lacks what the desk has, on every rank."""
    box, why = FakeBox().starts_world().readies(), "Skipped: could not import 'flash_attn'"
    for rank in range(4):
        box.rank(ev.RankCollected(rank, Numbers(), "d", skipped=(ev.CollectError("suite/test_step.py", why),)))
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def startup_failure_conftest() -> FakeBox:
    box = FakeBox().starts_world().readies()
    box.rank(ev.RankBroken(2, Stage.CONFTEST, "NameError", "name 'torhc' is not defined", "conftest.py:3: in <module>"))
    return box.after(0.6).gives_up(NotRun.BROKEN).done()


@case
def startup_failure_conftest_of_a_directory() -> FakeBox:
    """Below the root a conftest.py is loaded while its directory is collected, and reported under its name."""
    box = FakeBox().starts_world().readies().collects((0, 1, 3))
    box.collects(2, (), ("suite", "suite/conftest.py:8: in <module>\n    import torhc\nE   ModuleNotFoundError: torhc"))
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def startup_failure_exit_before_collection() -> FakeBox:
    box = FakeBox().starts_world().readies((0, 1, 3)).exits(2, -11, "SIGSEGV").after(0.2)
    box.box(ev.OutputRead(2, None, Stream.STDERR, "Fatal Python error: Segmentation fault\n"))
    return box.gives_up(NotRun.EXIT).done()


@case
def startup_failure_exit_after_collection() -> FakeBox:
    """While another rank was still on its way, and before the first test."""
    box = FakeBox(2).starts_world().readies().collects(1).exits(1, 3).after(0.2)
    return box.gives_up(NotRun.EXIT).done()


@case
def startup_failure_killed_without_a_witness() -> FakeBox:
    """Nobody can say whether it was for memory: no cgroup counts, and the kernel log is out of reach."""
    box = FakeBox().starts_world().readies((0, 1, 3)).exits(2, -9, "SIGKILL", None).after(0.2)
    return box.gives_up(NotRun.EXIT).done()


@case
def startup_failure_oom_killed_after_an_nvls_warning() -> FakeBox:
    """What NCCL warned of doesn't kill with SIGKILL: that the kernel did it for memory is known."""
    box = with_nvls("1", SettingOrigin.USER).starts_world().readies((0, 1, 3)).exits(2, -9, "SIGKILL", True).after(0.2)
    return box.writes(2, NVLS_WARNING).gives_up(NotRun.EXIT).done()


@case
def startup_failure_rendezvous() -> FakeBox:
    message = "Timed out after 7 seconds waiting for clients. 3/4 clients joined."
    box = FakeBox().starts().phase("setup").after(7.0)
    box.raises(range(4), "torch.distributed.DistStoreError", message, when=TestPhase.SETUP)
    return box.finishes().ends().done()


@case
def startup_failure_rendezvous_of_a_late_rank() -> FakeBox:
    """Rank 2 comes when the others have given up, and meets nobody."""
    error, key = "torch.distributed.DistStoreError", "wait timeout after 3000ms, keys: /default_pg/0//cpu//0/2"
    box = FakeBox(3).starts().phase("setup").phase("call").after(3.0).raises((0, 1), error, key).after(2.0)
    return box.raises(2, "RuntimeError", "Gloo connectFullMesh failed with [pair.cc:152]").finishes().ends().done()


@case
def startup_failure_rendezvous_of_a_wrong_size() -> FakeBox:
    error, key = "torch.distributed.DistStoreError", "wait timeout after 3000ms, keys: /default_pg/0//cpu//0/4"
    return (
        FakeBox().starts().phase("setup").phase("call").after(3.0).raises(range(4), error, key).finishes().ends().done()
    )


@case
def startup_failure_rendezvous_at_another_address() -> FakeBox:
    """Rank 2 has a wrong port: nobody gives up within the limits."""
    box = FakeBox(3).starts().phase("setup").phase("call").blocked((0, 1), "init_process_group")
    seeks = (C10D.replace("distributed_c10d", "rendezvous"), 190, "_create_c10d_store")
    box.stack(2, seeks, (C10D, 1892, "init_process_group"), ("/repo/suite/train.py", 12, "setup")).after(31.0)
    return box.acts(ActReason.STALL, "everybody waits", range(3), (), (), 31.0).aborts("stall").done()


@case
def startup_failure_startup_limit_frozen() -> FakeBox:
    box = FakeBox(2).starts_world().readies().collects(0).after(60.0)
    box.box(ev.Acted(None, ActReason.STARTUP_LIMIT, "not every rank was ready within 60 s"))
    return box.box(ev.Sampled(1, None, False, "T", (), 0.0, 0.0)).gives_up(NotRun.STARTUP_LIMIT).done()


@case
def startup_failure_startup_limit() -> FakeBox:
    box = FakeBox().starts_world().readies((0, 1)).collects(0).after(60.0)
    box.box(ev.Acted(None, ActReason.STARTUP_LIMIT, "not every rank was ready within 60 s")).at(
        1, 5, "import_everything"
    )
    return box.gives_up(NotRun.STARTUP_LIMIT).done()


# -- the box -------------------------------------------------------------------------------------------------


@case
def environment() -> FakeBox:
    detail, remedy = "8 devices were asked for, this box has 2", "rent H200:8"
    return FakeBox().box(ev.ProblemFound(ProblemCode.ENVIRONMENT, "devices", detail, remedy)).done(RunEnd.REFUSED)


@case
def blocked_by_contract() -> FakeBox:
    detail = "TORCH_DISTRIBUTED_DEBUG=DETAIL deadlocks fully_shard in a container"
    box = FakeBox().box(ev.ProblemFound(ProblemCode.BLOCKED, "environment", detail, "set it to INFO"))
    return box.done(RunEnd.REFUSED)


@case
def blocked_dry_run() -> FakeBox:
    """A gate that finds no GPU: refused at the desk."""
    detail = "a gate never degrades to a dry run in silence, and there is no GPU here"
    remedy = "run it where the GPUs are, or ask for a dry run by name: --dry-run"
    return FakeBox().box(ev.ProblemFound(ProblemCode.BLOCKED, "dry-run", detail, remedy)).done(RunEnd.REFUSED)


@case
def blocked_budget() -> FakeBox:
    detail = "the budget of $0.10 buys 9.9 s of this box at $36.32/h (list prices as of 2026-06-27)"
    remedy = "give it at least $0.31 with --lane-budget"
    return FakeBox().box(ev.ProblemFound(ProblemCode.BLOCKED, "budget", detail, remedy)).done(RunEnd.REFUSED)


@case
def box_lost() -> FakeBox:
    """Cut off in the second of three tests."""
    box = FakeBox(tests=(NODEID, NODEID + "_2", NODEID + "_3")).begins(1).passes().ends()
    return box.begins(0).enters(range(4)).after(3.0).samples(range(4))


@case
def box_lost_broken() -> FakeBox:
    box = FakeBox().world_ready()
    return box.done(RunEnd.BROKEN, "OSError: [Errno 28] No space left on device")


@case
def blocked_capacity() -> FakeBox:
    """Reported by the desk: no machine became available."""
    remedy = "rerun later, or raise capacity_s in [tool.pytest_megacpp.modal]"
    detail = "Modal has no capacity: the machine took longer than 600 s"
    return FakeBox().say(ev.ProblemFound(ProblemCode.BLOCKED, "capacity", detail, remedy), "desk")


@case
def environment_image_build() -> FakeBox:
    detail = "the image could not be built: RUN pip install torchx / ERROR: No matching distribution found for torchx"
    remedy = "fix the image (megacpp doctor --surface modal)"
    return FakeBox().say(ev.ProblemFound(ProblemCode.ENVIRONMENT, "image-build", detail, remedy), "desk")


@case
def box_lost_killed() -> FakeBox:
    """Evicted in the middle of a test: the desk knows it from the sandbox's exit code alone."""
    box = FakeBox(tests=(NODEID, NODEID + "_2")).begins().enters(range(4)).after(3.0).samples(range(4)).after(1.0)
    detail = "the sandbox was killed: evicted, preempted or out of memory (Modal's dashboard shows which)"
    return box.say(
        ev.ProblemFound(ProblemCode.BOX_LOST, "killed", detail, "rerun; if it was out of memory, raise memory_mib"),
        "desk",
        "",
    )


def box_lost_at(
    used_gib: float,
    growth_gib_s: float = 0.0,
    limit_from: MemoryLimit = MemoryLimit.ORDERED,
    held_gib: float | None = None,
) -> FakeBox:
    """A box of 16 GiB that uses this much, `held_gib` (by default most) of it on rank 3, and is gone a little later."""
    box, gib = FakeBox(tests=(NODEID, NODEID + "_2")).begins().enters((0, 1, 2)).after(3.0), 1 << 30
    held = int((used_gib - 3.5 if held_gib is None else held_gib) * gib)
    ranks = (ev.RankMemory(3, held, growth_gib_s * gib), ev.RankMemory(0, 900 << 20))
    used = ev.MemoryUsed(int(used_gib * gib), 16 * gib, limit_from, growth_gib_s * gib, ranks)
    return box.box(used).samples(range(4)).after(1.0)


KILLED = ev.ProblemFound(
    ProblemCode.BOX_LOST,
    "killed",
    "the sandbox was killed: evicted, preempted or out of memory (Modal's dashboard shows which)",
    "rerun; if it was out of memory, raise memory_mib",
)


@case
def box_lost_oom() -> FakeBox:
    """gVisor: the host killed the whole sandbox, and no rank's death was recorded."""
    return box_lost_at(15.6, 2.0).say(KILLED, "desk", "")


@case
def box_lost_oom_unseen() -> FakeBox:
    """It grew from 60 % to the end between two looks."""
    return box_lost_at(9.6, 7.0).say(KILLED, "desk", "")


@case
def box_lost_oom_without_a_word() -> FakeBox:
    """A container whose kernel kills all of it: the recording just stops."""
    return box_lost_at(15.9, limit_from=MemoryLimit.CGROUP)


@case
def box_lost_killed_with_memory_to_spare() -> FakeBox:
    return box_lost_at(9.6, 0.5).say(KILLED, "desk", "")


def box_lost_beyond_its_order(growth_gib_s: float) -> FakeBox:
    """A sandbox of Modal's that had more than it ordered for minutes, and is killed then."""
    box, gib = box_lost_at(17.0), 1 << 30
    box.after(200.0).samples(range(4))
    ranks = (ev.RankMemory(3, 14 * gib, growth_gib_s * gib),)
    return box.box(ev.MemoryUsed(18 * gib, 16 * gib, MemoryLimit.ORDERED, growth_gib_s * gib, ranks)).after(1.0)


@case
def box_lost_killed_long_after_it_had_more_than_it_ordered() -> FakeBox:
    """An order is a request: what was above it for minutes was no limit."""
    return box_lost_beyond_its_order(0.0).say(KILLED, "desk", "")


@case
def box_lost_oom_growing_beyond_its_order() -> FakeBox:
    """Whatever the host had to spare, it grew fast at the end."""
    return box_lost_beyond_its_order(4.0).say(KILLED, "desk", "")


@case
def box_lost_oom_of_a_machine() -> FakeBox:
    return box_lost_at(15.6, limit_from=MemoryLimit.MACHINE)


@case
def box_lost_oom_of_a_busy_machine() -> FakeBox:
    """Others had most of its memory, and a rank took the rest at once."""
    return box_lost_at(15.6, 2.0, limit_from=MemoryLimit.MACHINE, held_gib=3.0)


@case
def box_lost_on_a_machine_that_others_filled() -> FakeBox:
    """A desk whose other programs use nearly all of it; somebody killed the box."""
    return box_lost_at(15.6, limit_from=MemoryLimit.MACHINE, held_gib=1.5)


@case
def box_lost_killed_long_after_memory_grew() -> FakeBox:
    """It rose to 82 % at 24 % a second, stayed there, and was preempted ten minutes later."""
    box = box_lost_at(13.1, 3.9)
    for _ in range(5):
        box.after(118.0).samples(range(4))
    return box.say(KILLED, "desk", "")


@case
def box_lost_connection_with_memory_nearly_full() -> FakeBox:
    """A network that fails says nothing about memory."""
    problem = ev.ProblemFound(ProblemCode.BOX_LOST, "connection", "no connection to the box for 91 s", "rerun")
    return box_lost_at(15.9).say(problem, "desk", "")


@case
def box_lost_with_a_status_and_memory_nearly_full() -> FakeBox:
    """A box that could say why it ended was not killed for its memory."""
    detail = "the box could not write its recording: is the disk full?"
    return box_lost_at(15.9).say(ev.ProblemFound(ProblemCode.BOX_LOST, "cut-off", detail), "desk", "")


@case
def box_lost_to_a_desk_that_failed_and_memory_nearly_full() -> FakeBox:
    detail = "following the box failed: TypeError: unexpected message"
    return box_lost_at(15.9).say(ev.ProblemFound(ProblemCode.BOX_LOST, "cut-off", detail, "rerun"), "desk", "")


@case
def rank_death_signal_before_the_box_is_lost() -> FakeBox:
    """What a rank did before stays the verdict, however full the memory was."""
    box = box_lost_at(15.9).exits(3, signal="SIGSEGV").after(0.2)
    return box.say(KILLED, "desk", "")


@case
def box_lost_connection() -> FakeBox:
    box = FakeBox().begins().enters(range(4)).after(3.0).samples(range(4)).after(91.0)
    detail = "no connection to the box for 91 s; without a desk it ends within 60 s"
    remedy = "see what it recorded (pytest --attach run-1), or rerun"
    return box.say(ev.ProblemFound(ProblemCode.BOX_LOST, "connection", detail, remedy), "desk", "")


@case
def not_run_stopped() -> FakeBox:
    """-x: the first failure ends the run."""
    box = FakeBox(tests=(NODEID + "_2", NODEID)).world_ready().begins(1).raises(range(4)).finishes().ends()
    return box.done(RunEnd.STOPPED, "1 failed, the limit of --maxfail")


@case
def not_run_interrupted() -> FakeBox:
    box = FakeBox(tests=(NODEID, NODEID + "_2")).begins().after(1.0).acts(ActReason.STOP, "the desk asked for it")
    return box.aborts("interrupted").done(RunEnd.INTERRUPTED, "the desk asked for it")


@case
def not_run_skipped() -> FakeBox:
    """A gate was triggered for this test."""
    box = FakeBox(must_run=True).starts().phase("setup")
    return box.skips(when=TestPhase.SETUP, reason="no NVLink here").finishes().ends().done()


@case
def not_run_skipped_at_import() -> FakeBox:
    """A gate was triggered, and on the box the whole file skips itself."""
    box, why = FakeBox(must_run=True).starts_world().readies(), "Skipped: could not import 'flash_attn'"
    for rank in range(4):
        box.rank(ev.RankCollected(rank, Numbers(), "d", skipped=(ev.CollectError("suite/test_step.py", why),)))
    return box.box(ev.TestEnded(0, TestEnd.NOT_RUN, "collection")).done()


@case
def not_run_skipped_by_xfail() -> FakeBox:
    box = FakeBox(must_run=True).starts().phase("setup")
    return (
        box.reports(TestPhase.SETUP, outcome=ReportOutcome.SKIPPED, xfail="reason: [NOTRUN] it hangs")
        .finishes()
        .ends()
        .done()
    )


@case
def not_run_budget() -> FakeBox:
    detail = "after 83 s there is only enough left to end in order"
    box = FakeBox(tests=(NODEID, NODEID + "_2")).begins().after(1.0).acts(ActReason.STOP, detail)
    return box.aborts("budget").done(RunEnd.BUDGET, detail)


@case
def not_run_no_result() -> FakeBox:
    box = in_step().passes((0, 1, 2)).reports(TestPhase.CALL, 3)
    return box.ends().done()


@case
def not_run_world_size() -> FakeBox:
    box = FakeBox(sizes=(4,), ranks=4).world_ready(2)
    return box.begins().passes().ends().done()


# -- several attempts ----------------------------------------------------------------------------------------


def skews(box: FakeBox) -> FakeBox:
    """The running test ends because rank 1 compiles."""
    box.enters(range(4)).after(0.01).completes().after(0.5).samples(1, compiling=COMPILING).after(0.2)
    box.enters((0, 2, 3), seq=7).after(31.0).samples(1, compiling=COMPILING, cpu_s=30.0)
    box.acts(ActReason.SKEW, "all_reduce #7 while a missing peer compiles", (0, 2, 3), (1,), (1,), 31.0)
    return box.samples(1, compiling=COMPILING, cpu_s=30.2).aborts("skew").after(0.5)


def hangs(box: FakeBox, op: str = "gloo:all_reduce", numel: int = 8) -> FakeBox:
    """Everybody waits in the running test."""
    box.enters(range(4), op, numel=numel).after(0.01).completes().after(0.5)
    box.enters(range(4), op, 9, numel=numel, started=op.startswith("nccl")).after(31.0)
    box.samples(range(4), cpu_s=31.5).acts(ActReason.STALL, "everybody waits", range(4), (), (), 31.0)
    return box.blocked(range(4), "all_reduce").aborts("stall").after(0.5)


def differs(box: FakeBox) -> FakeBox:
    box.enters(0, seq=2).enters(1, "gloo:broadcast", 2).after(0.3)
    return box.acts(ActReason.MISMATCH, "operation differs at #2 of group 0").aborts("mismatch").after(0.5)


def first_attempt(ranks: int = 4, *, dry_run: bool = True) -> FakeBox:
    return FakeBox(ranks, limits=SHORT, dry_run=dry_run).begins()


def warmed_up() -> FakeBox:
    box = skews(first_attempt()).tries(Purpose.WARM_UP).after(61.0).passes().plans(Purpose.MEASURED).ends()
    return box.world_ready().begins(2)


@case
def passed_after_a_warm_up() -> FakeBox:
    return warmed_up().passes().ends().done()


@case
def rank_death_signal_after_a_warm_up() -> FakeBox:
    box = warmed_up().enters((0, 1, 3), seq=3).exits(2, -9, "SIGKILL").after(0.3)
    return box.acts(ActReason.EXIT, "a rank's process ended", (0, 1, 3), (2,), (), 0.3).aborts("exit").done()


@case
def compile_skew_that_a_warm_up_does_not_mend() -> FakeBox:
    return skews(warmed_up()).tries(Purpose.DIAGNOSTIC).passes().ends().done()


@case
def compile_skew_infrastructure() -> FakeBox:
    return hangs(skews(warmed_up()).tries(Purpose.DIAGNOSTIC)).done()


@case
def compile_skew_that_nothing_is_left_for() -> FakeBox:
    return skews(first_attempt()).refuses(Purpose.WARM_UP, NotRun.UNAFFORDABLE).done()


@case
def compile_skew_whose_warm_up_meets_the_limit_of_the_run() -> FakeBox:
    box = (
        skews(first_attempt())
        .tries(Purpose.WARM_UP)
        .samples(range(4), cpu_s=5.0)
        .after(20.0)
        .samples(range(4), cpu_s=20.0)
    )
    box.acts(ActReason.RUN_LIMIT, "the run took longer than 53 s").aborts("run-limit")
    return box.done(RunEnd.RUN_LIMIT, "the run took longer than 53 s")


@case
def compile_skew_of_an_interrupted_ladder() -> FakeBox:
    """The measured attempt never began: a warm-up that passed proves nothing."""
    box = skews(first_attempt()).tries(Purpose.WARM_UP).after(61.0).passes().plans(Purpose.MEASURED).ends()
    return box.done(RunEnd.INTERRUPTED, "the desk asked for it")


@case
def hang_infrastructure() -> FakeBox:
    """On GPUs, with all that a support ticket needs."""
    states: list[ev.Json] = [
        {"uuid": f"GPU-{n}", "bus_id": f"00000000:{n}B:00.0", "uncorrected": int(n == 2)} for n in range(4)
    ]
    ways: list[ev.Json] = [["X" if row == column else "NV18" for column in range(4)] for row in range(4)]
    gpus: dict[str, ev.Json] = {"driver": "570.124", "states": states, "topology": ways, "xids": []}
    facts: dict[str, ev.Json] = {
        "platform": "Linux-6.8",
        "cpus": 64,
        "memory_bytes": 1 << 40,
        "image": "im-1",
        "gpus": gpus,
    }
    box = FakeBox(4, limits=SHORT, dry_run=False)
    box.box(ev.BoxReady({"python": "3.12", "torch": "2.13.0", "cuda": "12.9", "nccl": "2.27"}, facts, ("H200",) * 4))
    box = hangs(box.begins(), "nccl:all_reduce", 4096).tries(Purpose.DIAGNOSTIC)
    return hangs(box, "nccl:all_reduce", 64).done()


@case
def hang_infrastructure_at_a_guess() -> FakeBox:
    """The test takes no notice of the preset."""
    return hangs(hangs(first_attempt()).tries(Purpose.DIAGNOSTIC)).done()


@case
def hang_of_the_full_preset_only() -> FakeBox:
    return hangs(first_attempt()).tries(Purpose.DIAGNOSTIC).passes().ends().done()


@case
def hang_whose_diagnostic_preset_dies() -> FakeBox:
    box = hangs(first_attempt()).tries(Purpose.DIAGNOSTIC).enters((0, 1, 3), seq=3).exits(2, -9, "SIGKILL").after(0.3)
    return box.acts(ActReason.EXIT, "a rank's process ended", (0, 1, 3), (2,), (), 0.3).aborts("exit").done()


@case
def unclear_infrastructure() -> FakeBox:
    def stops(box: FakeBox) -> FakeBox:
        box.after(60.0).acts(ActReason.TEST_LIMIT, "the test ran longer than 60 s")
        return box.at(range(4)).aborts("test-limit").after(0.5)

    box = FakeBox(limits=ev.Limits(stall=120, test=60)).begins()
    return stops(stops(box).tries(Purpose.DIAGNOSTIC)).done()


@case
def collective_mismatch_that_torch_confirms() -> FakeBox:
    box = differs(first_attempt(2)).tries(Purpose.DETAIL)
    for rank, mine, other in ((0, "ALLREDUCE", "BROADCAST"), (1, "BROADCAST", "ALLREDUCE")):
        reported = (
            f"Detected mismatch between collectives on ranks. Rank {rank} is running collective: "
            f"CollectiveFingerPrint(SequenceNumber=2, OpType={mine}, TensorShape=[8]), but Rank {1 - rank} is running "
            f"collective: CollectiveFingerPrint(SequenceNumber=2, OpType={other}, TensorShape=[8])."
        )
        box.raises(rank, "RuntimeError", reported)
    return box.finishes().ends().done()


@case
def collective_mismatch_that_torch_does_not_see() -> FakeBox:
    return differs(first_attempt(2)).tries(Purpose.DETAIL).passes().ends().done()


@case
def collective_mismatch_that_torch_may_not_look_at() -> FakeBox:
    return differs(first_attempt(2)).refuses(Purpose.DETAIL, NotRun.UNSAFE_FSDP).done()

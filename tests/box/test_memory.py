"""What the box may use, what it uses, and when that is worth a record."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.box.host.memory import (
    CALM_S,
    NEAR_S,
    Allowance,
    Cgroup,
    Ledger,
    allowance,
    cgroups,
    resident_by_rank,
    resident_bytes,
)
from pytest_megacpp.box.host.process import Stat
from pytest_megacpp.recording.events import MemoryUsed
from pytest_megacpp.recording.vocabulary import MemoryLimit

GIB = 1 << 30


class Machine:
    """Memory groups and a /proc made of files."""

    def __init__(self, root: Path, membership: str = "0::/\n", total: int = 64 * GIB, free: int = 60 * GIB) -> None:
        self.root, self.proc = root / "cgroup", root / "proc"
        self.root.mkdir(parents=True)
        self.proc.mkdir()
        self.membership = root / "membership"
        self.membership.write_text(membership)
        kb = {"MemTotal": total >> 10, "MemFree": (free - GIB) >> 10, "MemAvailable": free >> 10}
        (self.proc / "meminfo").write_text("".join(f"{name}: {value} kB\n" for name, value in kb.items()))

    def group(self, path: str, *, limit: str, used: int, cache: int = 0, v1: bool = False) -> None:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(f"{limit}\n")
        (directory / ("memory.usage_in_bytes" if v1 else "memory.current")).write_text(f"{used}\n")
        prefix = "total_" if v1 else ""
        files = f"{prefix}inactive_file {cache - cache // 4}\n{prefix}active_file {cache // 4}\n"
        (directory / "memory.stat").write_text(f"{files}anon 5\n")

    def groups(self) -> list[Cgroup]:
        return list(cgroups(self.root, self.membership))

    def allows(self, ordered: int | None = None, *, gvisor: bool = False) -> Allowance:
        found = allowance(ordered, groups=self.groups(), proc=self.proc, gvisor=gvisor)
        assert found is not None
        return found


def test_the_group_of_a_container(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    machine.group("", limit=str(16 * GIB), used=9 * GIB, cache=2 * GIB)
    allowed = machine.allows()
    assert (allowed.limit_bytes, allowed.source, allowed.used_bytes()) == (16 * GIB, "cgroup", 7 * GIB)


@pytest.mark.parametrize("v1", [False, True], ids=["v2", "v1"])
def test_the_tightest_limit_above_counts(tmp_path: Path, v1: bool) -> None:
    machine = Machine(tmp_path / "m", "4:memory:/job/step\n" if v1 else "0::/job/step\n")
    top = "memory/" if v1 else ""
    machine.group(f"{top}job", limit=str(8 * GIB), used=3 * GIB, v1=v1)
    machine.group(f"{top}job/step", limit=str(2**63 - 4096) if v1 else "max", used=GIB, v1=v1)
    allowed = machine.allows()
    assert (allowed.limit_bytes, allowed.source, allowed.used_bytes()) == (8 * GIB, "cgroup", 3 * GIB)


def test_a_limit_that_is_none_leaves_the_machine(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    machine.group("", limit=str(2**63 - 1), used=GIB)
    allowed = machine.allows()
    assert (allowed.limit_bytes, allowed.source, allowed.used_bytes()) == (64 * GIB, "machine", 4 * GIB)


def test_what_was_ordered_is_the_truth_in_gvisor(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m", total=1007 * GIB, free=1000 * GIB)
    machine.group("", limit=str(2**63 - 1), used=0)
    allowed = machine.allows(16 * GIB, gvisor=True)
    assert (allowed.limit_bytes, allowed.source, allowed.used_bytes()) == (16 * GIB, "ordered", 8 * GIB)


def test_what_was_ordered_of_a_container_is_measured_by_its_group(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    machine.group("", limit="max", used=3 * GIB)
    allowed = machine.allows(16 * GIB)
    assert (allowed.source, allowed.used_bytes()) == ("ordered", 3 * GIB)


def test_without_any_file_the_limit_is_the_machines_and_nothing_is_measured(tmp_path: Path) -> None:
    allowed = allowance(None, groups=(), proc=tmp_path, gvisor=False)
    assert allowed is not None
    assert allowed.source == "machine"
    assert allowed.used_bytes() is None


def test_an_unreadable_membership_is_a_container_of_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "m")
    machine.group("", limit=str(GIB), used=5)
    machine.membership.unlink()
    assert [group.limit_bytes() for group in machine.groups()] == [GIB]


# -- ranks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def eater() -> "Iterator[subprocess.Popen[bytes]]":
    """A process with a child that has 100 MB."""
    child = "data = bytearray(b'x') * 100_000_000; print(flush=True); input()"
    code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        yield popen
        popen.communicate(b"\n")


def test_a_rank_has_what_its_children_have(eater: "subprocess.Popen[bytes]") -> None:
    found = resident_by_rank({3: eater.pid}, process.all_processes())
    assert found[3] > resident_bytes(eater.pid) + 100_000_000


def test_a_daemon_counts_by_its_session_and_a_stranger_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_megacpp.box.host.memory.resident_bytes", lambda pid: pid)
    rank, daemon, stranger = Stat(10, "S", 1, 10, 10, 0.0), Stat(11, "S", 1, 10, 10, 0.0), Stat(12, "S", 1, 12, 12, 0.0)
    assert resident_by_rank({0: 10, 1: 99}, [rank, daemon, stranger]) == {0: 21}


# -- the ledger ------------------------------------------------------------------------------------------------


class Box:
    """A box whose use the test says; two ranks, the second of which has nearly all of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used: int | None = GIB
        self.looks, self.reads, self.now_s = 0, 0, 0.0
        monkeypatch.setattr(
            "pytest_megacpp.box.host.memory.resident_bytes", lambda pid: self.used or 0 if pid == 11 else 7
        )
        self.ledger = Ledger(Allowance(16 * GIB, MemoryLimit.ORDERED, self._use), self._processes)

    def _use(self) -> int | None:
        self.reads += 1
        return self.used

    def _processes(self) -> list[Stat]:
        self.looks += 1
        return [Stat(pid, "S", 1, pid, pid, 0.0) for pid in (10, 11)]

    def look(self, used: int | None, after_s: float = CALM_S) -> MemoryUsed | None:
        self.used, self.now_s = used, self.now_s + after_s
        found = self.ledger.look(self.now_s, lambda: {"w1": {0: 10, 1: 11}, "w2": {}})
        return found[1] if found is not None else None


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(monkeypatch)


def test_the_first_look_is_recorded_and_a_quiet_box_says_nothing_more(box: Box) -> None:
    first = box.look(GIB)
    assert first is not None
    assert (first.total_bytes, first.limit_bytes, first.limit_from) == (GIB, 16 * GIB, "ordered")
    assert [(one.rank, one.used_bytes) for one in first.ranks] == [(1, GIB), (0, 7)]
    assert [box.look(GIB + i) for i in range(100)] == [None] * 100
    assert box.looks == 1, "processes were looked at although nothing moved"


def test_a_step_of_the_limit_is_recorded_with_its_rates(box: Box) -> None:
    box.look(GIB)
    second = box.look(3 * GIB)
    assert second is not None
    assert second.growth_bytes_s == 2 * GIB
    assert second.ranks[0].growth_bytes_s == 2 * GIB
    assert second.ranks[1].growth_bytes_s == 0


def test_it_is_recorded_that_memory_was_given_back(box: Box) -> None:
    box.look(15 * GIB)
    given_back = box.look(2 * GIB)
    assert given_back is not None
    assert given_back.growth_bytes_s < 0


def test_between_two_looks_nothing_is_read(box: Box) -> None:
    box.look(GIB)
    assert box.look(4 * GIB, CALM_S / 2) is None
    assert box.look(4 * GIB, CALM_S / 2) is not None


def test_near_the_limit_looks_and_records_are_denser(box: Box) -> None:
    box.look(13 * GIB)
    near = box.look(13 * GIB + GIB // 4, NEAR_S)
    assert near is not None
    assert near.growth_bytes_s == GIB


def test_who_grows_fast_is_looked_at_again_soon(box: Box) -> None:
    box.look(GIB)
    box.look(4 * GIB)
    assert box.look(5 * GIB, NEAR_S) is not None


def test_a_rate_is_no_average_over_a_long_time(box: Box) -> None:
    box.look(GIB)
    later = box.look(9 * GIB, 60.0)
    assert later is not None
    assert (later.growth_bytes_s, later.ranks[0].growth_bytes_s) == (0.0, 0.0)


def test_it_is_recorded_once_that_a_fast_growth_has_stopped(box: Box) -> None:
    box.look(9 * GIB)
    grown = box.look(13 * GIB)
    assert grown is not None
    assert grown.growth_bytes_s == 4 * GIB
    stopped = box.look(13 * GIB + 5, NEAR_S)
    assert stopped is not None
    assert stopped.growth_bytes_s < 100
    assert [box.look(13 * GIB + 5) for _ in range(100)] == [None] * 100


def test_where_nothing_can_be_measured_it_is_not_tried_all_the_time(box: Box) -> None:
    assert [box.look(None, 0.05) for _ in range(100)] == [None] * 100
    assert box.reads <= 6


def test_a_rank_that_grows_while_others_shrink_is_recorded_near_the_limit(
    monkeypatch: pytest.MonkeyPatch, box: Box
) -> None:
    box.look(15 * GIB)
    monkeypatch.setattr("pytest_megacpp.box.host.memory.resident_bytes", lambda pid: 9 * GIB if pid == 10 else 6 * GIB)
    other = box.look(15 * GIB)
    assert other is not None
    assert [one.rank for one in other.ranks] == [0, 1]
    assert box.look(15 * GIB) is None

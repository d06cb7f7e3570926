"""Who says that the kernel killed a process for memory, and when that is believed."""

import os
from pathlib import Path

import pytest

from pytest_megacpp.box.host import kernel
from pytest_megacpp.box.host.oom import OomWitness

KILLED = "6,1234,5678,-;Memory cgroup out of memory: Killed process {pid} (python) total-vm:9kB, anon-rss:8kB\n"


class Machine:
    """A cgroup and a kernel log made of files."""

    def __init__(self, root: Path, membership: str) -> None:
        self.root = root
        self.membership = root / "cgroup"
        self.membership.write_text(membership)
        self.log = root / "kmsg"
        self.namespace = root / "pid"
        self.namespace.symlink_to("pid:[4026531836]")

    def counts(self, file: str, kills: int) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"low 0\noom 7\noom_kill {kills}\n")
        (path.parent / "memory.current").write_text("4096\n")

    def logs(self, *pids: int) -> None:
        with self.log.open("a") as f:
            f.writelines(KILLED.format(pid=pid) for pid in pids)

    def witness(self, *, gvisor: bool = False) -> OomWitness:
        return OomWitness(self.root, self.membership, self.log, self.namespace, gvisor)


V2 = "0::/machine/box\n"
V2_FILE = "machine/box/memory.events"
V1 = "9:name=systemd:/\n4:memory,hugetlb:/box\n0::/\n"
V1_FILE = "memory/box/memory.oom_control"


@pytest.mark.parametrize(("membership", "file"), [(V2, V2_FILE), (V1, V1_FILE)], ids=["v2", "v1"])
def test_a_counter_that_rose_is_an_oom_kill(tmp_path: Path, membership: str, file: str) -> None:
    machine = Machine(tmp_path, membership)
    machine.counts(file, 3)
    witness = machine.witness()
    assert witness.counts
    assert not witness.reads_log
    assert witness.killed(41) is False
    machine.counts(file, 4)
    assert witness.killed(41) is True


def test_all_that_a_rise_killed_are_named_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    witness = machine.witness()
    machine.counts(V2_FILE, 2)
    assert [witness.killed(41), witness.killed(42)] == [True, True]


def test_what_was_killed_before_a_look_explains_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    witness = machine.witness()
    machine.counts(V2_FILE, 1)
    witness.look()
    assert witness.killed(41) is False


def test_the_log_names_every_process_however_many_are_asked_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    machine.logs(40)
    witness = machine.witness()
    machine.logs(41, 42)
    assert [witness.killed(pid) for pid in (40, 42, 41, 43)] == [False, True, True, False]


def test_the_log_knows_better_than_the_counter_which_process_it_was(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    machine.log.touch()
    witness = machine.witness()
    machine.counts(V2_FILE, 1)
    machine.logs(99)
    assert witness.killed(41) is False


def test_without_a_witness_nothing_is_claimed(tmp_path: Path) -> None:
    witness = Machine(tmp_path, "0::/\n").witness()
    assert not witness.counts
    assert not witness.reads_log
    assert witness.killed(os.getpid()) is None


def test_a_log_that_speaks_of_other_process_ids_is_no_witness(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    machine.log.touch()
    machine.namespace.unlink()
    machine.namespace.symlink_to("pid:[4026532254]")
    witness = machine.witness()
    assert not witness.reads_log
    machine.counts(V2_FILE, 1)
    assert witness.killed(41) is True


def test_the_constant_text_of_gvisor_is_no_witness(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    witness = machine.witness(gvisor=True)
    assert not witness.counts
    assert witness.why_not == "gVisor counts no OOM kills"
    assert witness.killed(41) is None


def test_events_of_a_group_that_does_not_account_for_memory_are_no_witness(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    (tmp_path / V2_FILE).with_name("memory.current").unlink()
    witness = machine.witness()
    assert (witness.counts, witness.killed(41)) == (False, None)
    assert witness.why_not == "no memory cgroup that counts OOM kills"


def test_odd_lines_of_a_membership_are_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path, f"nonsense\n7:\n\n{V2}")
    machine.counts(V2_FILE, 0)
    assert machine.witness().counts


def open_files() -> list[str]:
    return [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]


def test_a_witness_that_is_closed_has_no_open_log(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    machine.logs(40)
    with machine.witness() as witness:
        assert str(machine.log) in open_files()
    assert str(machine.log) not in open_files()
    witness.close()
    assert witness.killed(40) is None


@pytest.mark.parametrize("name", ["memory_events", "kernel_log"])
def test_asking_whether_there_is_a_witness_leaves_no_log_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    machine = Machine(tmp_path, V2)
    machine.counts(V2_FILE, 0)
    machine.log.touch()
    made: list[OomWitness] = []

    def make() -> OomWitness:
        made.append(machine.witness())
        return made[-1]

    monkeypatch.setattr(kernel, "OomWitness", make)
    (row,) = (row for row in kernel.INTERFACES if row.name == name)
    assert kernel.why_not(row, tmp_path) == ""
    assert len(made) == 1
    assert str(machine.log) not in open_files()

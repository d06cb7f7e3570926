"""Machines that lack what a box looks at: whatever is missing, ranks are judged as on any machine, or the run is
refused with what to do about it. Real desks, boxes and ranks.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.box.logs.size import LINE_BYTES, MAX_LOG_BYTES
from tests.kernel import lacking
from tests.plugin.project import LANE, Project, Ran

FAULTS = """
    import os, signal, time
    import pytest, torch, torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2)

    def step():
        together = torch.ones(1)
        dist.all_reduce(together)
        assert together.item() == 2

    def test_sum(modal_h200x8):
        step()

    def test_killed(modal_h200x8):
        step()
        if modal_h200x8.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step()

    def test_late(modal_h200x8):
        step()
        if modal_h200x8.rank == 1:
            time.sleep(120)
        step()

    def test_exits(modal_h200x8):
        step()
        if modal_h200x8.rank == 1:
            os._exit(3)
        step()
"""
VERDICTS = {
    "test_sum": ("passed", [], None),
    "test_killed": ("rank-death", [1], "signal:SIGKILL"),
    "test_late": ("straggler", [1], None),
    "test_exits": ("rank-death", [1], "exit:3"),
}
HARMLESS = {
    "files": (["proc_subset", "sys_writable", "sys_class_net"], {"cpu_model"}),
    "cgroups-and-logs": (
        ["sys", "cgroup", "meminfo", "kmsg", "syslog"],
        {"memory_events", "kernel_log", "memory_used"},
    ),
    "addresses": (["ipv4_first"], {"address_order"}),
    "children": (["hidepid", "orphans", "child_status"], {"subreaper"}),
    "ends-and-names": (["pidfd_open", "peer_credentials", "environ"], {"pidfd", "process_environment"}),
    "refused-by-seccomp": (["pidfd_open=EPERM", "parent_death_signal"], {"pidfd", "parent_death_signal"}),
    "signals-and-locks": (["prctl", "interrupts", "flock"], {"parent_death_signal", "subreaper", "file_locks"}),
}
"""Several at once, because a run takes long, with the capabilities that the recording must then lack."""
ENDS = """
    import ctypes, os, signal, time
    import pytest, torch, torch.distributed as dist
    from pytest_megacpp.box.logs.size import MAX_LOG_BYTES

    pytestmark = pytest.mark.h200x8(ranks=2)

    def log_bytes():
        return os.fstat(1).st_blocks * 512

    def test_crashes(modal_h200x8):
        dist.barrier()
        if modal_h200x8.rank == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        dist.barrier()

    def test_floods(modal_h200x8):
        dist.barrier()
        if modal_h200x8.rank == 1:
            for _ in range(24):
                os.write(1, (b"x" * 99 + b"\\n") * 50_000)
                time.sleep(0.1)
            end_s = time.monotonic() + 10
            while log_bytes() > 2 * MAX_LOG_BYTES and time.monotonic() < end_s:
                time.sleep(0.1)
            assert log_bytes() <= 2 * MAX_LOG_BYTES
        dist.barrier()

    def test_holds_the_interpreter_lock(modal_h200x8):
        dist.barrier()
        if modal_h200x8.rank == 1:
            ctypes.PyDLL(None).sleep(120)
        dist.barrier()
"""
ENDED = {
    "test_crashes": ("rank-death", [1], "signal:SIGSEGV"),
    "test_floods": ("passed", [], None),
    "test_holds_the_interpreter_lock": ("straggler", [1], "gil-held"),
}
WAITS = """
    import os, time
    import pytest, torch, torch.distributed as dist

    @pytest.mark.h200x8(ranks=2)
    def test_nothing_is_sent(modal_h200x8):
        if modal_h200x8.rank == 0:
            dist.recv(torch.ones(1), src=1)
        time.sleep(120)

    @pytest.mark.h200x8(ranks=2)
    def test_messages_come_one_by_one(modal_h200x8):
        for _ in range(4):
            if modal_h200x8.rank == 0:
                dist.recv(torch.ones(1), src=1)
            else:
                time.sleep(0.75 * 4)
                dist.send(torch.ones(1), dst=0)

    @pytest.mark.h200x8(ranks=2, test=9)
    def test_everybody_waits_for_a_file(modal_h200x8):
        while not os.path.exists("/never/there"):
            time.sleep(0.01)

    @pytest.mark.h200x8(ranks=2, test=9)
    def test_everybody_computes(modal_h200x8):
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            pass
"""
WAITED = {
    "test_nothing_is_sent": ("straggler", [1]),
    "test_messages_come_one_by_one": ("passed", []),
    "test_everybody_waits_for_a_file": ("hang", [0, 1]),
    "test_everybody_computes": ("overtime", []),
}
COUNTED = {
    "context-switches": (["schedstat"], set()),
    "ticks": (["schedstat", "task_status", "others"], {"thread_runs"}),
}
"""What is left to tell waiting from computing, with the capabilities that the recording must then lack."""
REFUSED = {
    "unix-sockets": (["unix"], "kernel", "allow AF_UNIX", {"unix_sockets"}),
    "proc": (["proc"], "proc", "mount -t proc", set()),
    "shared-memory": (["dev_shm"], "shared-memory", "mount a writable /dev/shm", set()),
    "network": (["netlink"], "network", "allow netlink sockets", set()),
    "loopback": (["loopback"], "network", "ip link set lo up", set()),
    "descriptors": (["descriptors"], "descriptors", "ulimit -n", set()),
}
"""With cause, advice, and the capabilities that the recording must lack where it comes to look for them."""


@pytest.fixture
def faults(project: Project) -> Project:
    project.write("test_faults.py", FAULTS)
    return project


def check_possible(without: Sequence[str]) -> None:
    if (why := lacking.impossible(without)) is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{', '.join(without)}: {why}")


def missing_capabilities(ran: Ran) -> set[str]:
    assert ran.directory is not None
    lines = (ran.directory / "recording.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines]
    return {fact["name"] for fact in facts if fact["kind"] == "capability" and not fact["available"]}


def run(project: Project, without: Sequence[str], *more: str) -> Ran:
    check_possible(without)
    return project.pytest(*LANE, "--lane-limit", "stall=4", *more, "-p", "no:randomly", without=without)


def judged(ran: Ran, name: str) -> tuple[str, list[int], str | None]:
    verdict = ran.verdict(name)
    return verdict["code"], verdict["blamed_ranks"], verdict["cause"]


@pytest.mark.parametrize(("without", "lost"), HARMLESS.values(), ids=HARMLESS.keys())
def test_ranks_are_judged_as_on_any_machine(faults: Project, without: Sequence[str], lost: set[str]) -> None:
    ran = run(faults, without)
    assert lost <= missing_capabilities(ran)
    assert {name: judged(ran, name) for name in VERDICTS} == VERDICTS, ran.text


def test_crashes_floods_and_a_held_interpreter_lock(project: Project) -> None:
    """What is lost is a last look and a stack, not the verdict, and not the bound of the log."""
    project.write("test_ends.py", ENDS)
    ran = run(project, ["fallocate", "send_buffer", "process_vm_readv"])
    assert {"hole_punching", "crash_look"} <= missing_capabilities(ran)
    assert {name: judged(ran, name) for name in ENDED} == ENDED, ran.text
    assert ran.directory is not None
    sizes = [log.stat().st_size for log in (ran.directory / "ranks").rglob("stdout.log")]
    assert 4 << 20 < max(sizes) <= MAX_LOG_BYTES + LINE_BYTES


@pytest.mark.parametrize(("without", "lost"), COUNTED.values(), ids=COUNTED.keys())
def test_waiting_and_computing_are_told_apart_without_scheduler_statistics(
    project: Project, without: Sequence[str], lost: set[str]
) -> None:
    project.write("test_waits.py", WAITS)
    ran = run(project, without)
    assert missing_capabilities(ran) & {"thread_runs"} == lost
    assert {name: judged(ran, name)[:2] for name in WAITED} == WAITED, ran.text


@pytest.mark.parametrize(("without", "cause", "advice", "lost"), REFUSED.values(), ids=REFUSED.keys())
def test_what_ranks_can_not_do_without_is_refused(
    faults: Project, without: Sequence[str], cause: str, advice: str, lost: set[str]
) -> None:
    ran = run(faults, without)
    assert lost <= missing_capabilities(ran)
    for name in VERDICTS:
        assert judged(ran, name) == ("environment", [], cause)
    assert advice in ran.text


def test_a_sigkill_without_any_witness_of_oom_kills_is_likely_only(faults: Project) -> None:
    ran = run(faults, ["cgroup", "kmsg"], "-k", "test_killed")
    assert judged(ran, "test_killed") == ("rank-death", [1], "signal:SIGKILL")
    assert ran.verdict("test_killed")["certainty"] == "likely"


def test_a_box_that_is_killed_with_its_memory_full(project: Project) -> None:
    """As the host kills a sandbox: all of it at once, without a word. Ranks hold more than half of what there is."""
    without = ["free_memory", "cgroup"]
    check_possible(without)
    project.write(
        "test_full.py",
        """
        import pathlib, time
        import pytest

        @pytest.mark.h200x8(ranks=2)
        def test_full(modal_h200x8):
            held = bytearray(b"x") * (500_000_000 if modal_h200x8.rank == 1 else 1)
            time.sleep(3)
            pathlib.Path(f"full-{modal_h200x8.rank}").touch()
            time.sleep(600)
        """,
    )
    with project.start(*LANE, without=without) as desk:
        desk.wait_until(lambda: len(list(project.root.glob("full-*"))) == 2)
        kill_box(project)
        ran = desk.ran()
    assert judged(ran, "test_full") == ("box-lost", [], "oom")
    verdict = ran.verdict("test_full")
    assert verdict["certainty"] == "likely"
    assert verdict["summary"].startswith(
        "the box was lost, probably because memory ran out: the machine used 1.8 of 2.0 GiB, rank 1 used 0."
    )
    assert "memory_mib" in verdict["next_step"]


def kill_box(project: Project) -> None:
    """Guard, box and ranks. The guard, whose death all others notice, is stopped first."""
    pids = list(project.processes())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any((seen := process.stat(pid)) and seen.state not in "ZX" for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_cpus_that_gvisor_calls_unknown_are_told_apart(tmp_path: Path) -> None:
    from pytest_megacpp.box.host.survey import cpu_model

    def model(number: int, flags: str) -> str:
        file = tmp_path / f"cpuinfo-{number}"
        file.write_text(lacking.GVISOR_CPUINFO.replace("143", str(number)) + f"flags\t\t: {flags}\n")
        return cpu_model(file)

    assert model(143, "fpu avx2").startswith("GenuineIntel 6 143 (")
    assert len({model(143, "fpu avx2"), model(207, "fpu avx2"), model(143, "fpu avx2 amx_tile")}) == 3
    nothing = cpu_model(tmp_path / "missing")
    assert os.uname().nodename in nothing

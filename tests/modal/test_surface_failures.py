"""Each way in which Modal fails a run, brought about for real: its code comes quickly, and no sandbox is left."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from grpclib import Status

from pytest_megacpp.desk.run.directory import new_run_id, utc_now
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.recording.plan import Again, Enough, Plan, PlannedTest
from pytest_megacpp.recording.vocabulary import Preset, Purpose, RunEnd, SeedMode
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.modal import client, conversation
from pytest_megacpp.surfaces.modal.config import ModalConfig, VolumeConfig
from pytest_megacpp.surfaces.modal.surface import ModalBox, ModalSurface
from pytest_megacpp.surfaces.source import SourceConfig
from tests.modal_emulator import Emulator
from tests.modal_emulator.control import Result

SOON_S = 40.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_a.py").write_text(
        "import time\n\ndef test_a(): time.sleep(600)  # what happens, happens meanwhile\n"
    )
    return project


def started(project: Path, config: ModalConfig | None = None, *, dry_run: bool = False, **kind: Any) -> ModalBox:
    plan = Plan(
        run_id=new_run_id(utc_now()),
        lane="h200x8",
        surface="modal",
        gpu="H200:8",
        devices=0 if dry_run else 8,  # more than this machine has: the box refuses, and no test waits for torch
        ranks=1,
        dry_run=dry_run,
        fsdp=False,
        tests=(PlannedTest("test_a.py::test_a", 1, Preset.FULL, ev.Limits()),),
        args=(),
        cwd=str(project),
    )
    run = project / "lane" / plan.run_id
    run.mkdir(parents=True)
    surface = ModalSurface(config or ModalConfig(), SourceConfig(), (project / "lane",), **kind)
    return surface.start(plan, run)


def problem_of(box: ModalBox) -> ev.ProblemFound:
    deadline = time.monotonic() + SOON_S
    while (ended := box.ended()) is None:
        assert time.monotonic() < deadline, "no code came"
        time.sleep(0.01)
    assert ended.problem is not None
    return ended.problem


def facts(box: ModalBox) -> list[ev.Fact]:
    return [event.fact for event in read_all(box.inbox.recording.read_bytes())]


def said(box: ModalBox, kind: type) -> bool:
    return box.inbox.recording.exists() and any(isinstance(fact, kind) for fact in facts(box))


@pytest.fixture
def nothing_left(emulator: Emulator) -> Iterator[None]:
    """No sandbox works on after the test, and nothing waits for a machine."""
    yield
    deadline = time.monotonic() + 60  # a busy machine ends it slowly
    while any(s.result is None for s in emulator.sandboxes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [s.name for s in emulator.sandboxes if s.result is None] == []


pytestmark = pytest.mark.usefixtures("nothing_left")


def test_no_credentials(emulator: Emulator, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    problem = problem_of(started(project))
    assert (problem.code, problem.cause) == ("blocked", "credentials")
    assert "modal token new" in problem.remedy


def test_bad_credentials(emulator: Emulator, project: Path) -> None:
    emulator.faults.reject_credentials = True
    assert problem_of(started(project)).cause == "credentials"


def test_unreachable(emulator: Emulator, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client itself would try for a minute."""
    monkeypatch.setattr(client, "HELLO_S", 1.0)
    emulator.cut()
    assert problem_of(started(project)).cause == "unreachable"


def test_silence(emulator: Emulator, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HELLO_S", 1.0)
    emulator.silence()
    assert problem_of(started(project)).cause == "unreachable"


def test_a_failing_build_shows_its_last_lines(emulator: Emulator, project: Path) -> None:
    emulator.faults.build_fails = True
    emulator.faults.build_log = ("Step 1", "ERROR: No matching distribution found for torchx")
    from pytest_megacpp.surfaces.modal.config import ImageConfig

    problem = problem_of(started(project, ModalConfig(image=ImageConfig(packages=("torchx",)))))
    assert (problem.code, problem.cause) == ("environment", "image-build")
    assert "No matching distribution found for torchx" in problem.detail


def test_no_capacity(emulator: Emulator, project: Path) -> None:
    """The order is withdrawn: a machine that comes later would cost money."""
    emulator.faults.capacity = False
    problem = problem_of(started(project, ModalConfig(capacity_s=1.0)))
    assert (problem.code, problem.cause) == ("blocked", "capacity")
    assert "capacity_s" in problem.remedy


def test_a_desk_that_leaves_the_queue(emulator: Emulator, project: Path) -> None:
    emulator.faults.capacity = False
    box = started(project)
    while not emulator.sandboxes:
        time.sleep(0.02)
    box.end()
    assert box.ended() is not None


def test_a_seed_that_is_required_and_not_there_rents_nothing(emulator: Emulator, project: Path) -> None:
    """The desk knows enough of the shape; what only the box knows is looked at there."""
    tests = (PlannedTest("test_a.py::test_a", 1, Preset.FULL, ev.Limits(), cache_seed=SeedMode.REQUIRE),)
    kind = {"devices": 0, "ranks": 1, "dry_run": True, "fsdp": False, "tests": tests, "cwd": str(project)}
    plan = Plan("r", "h200x8", "modal", "H200:8", args=("-m", "h200x8"), **kind)  # type: ignore[arg-type]
    surface = ModalSurface(ModalConfig(cache_volume=VolumeConfig("/c", "cache", made=True)), SourceConfig())
    problem = problem_of(surface.start(plan, project))
    assert (problem.code, problem.cause) == ("blocked", "seed")
    assert "no machine was rented: volume cache/seeds has no seed for lane h200x8 on cpu" in problem.detail
    assert problem.remedy == "pytest -m h200x8 --cache-seed auto"
    assert emulator.sandboxes == []


@pytest.mark.parametrize(
    ("status", "words", "cause"),
    [
        (Status.RESOURCE_EXHAUSTED, "the workspace's limit is 4 GPUs", "quota"),
        (Status.FAILED_PRECONDITION, "the spend limit is reached", "refused"),
        (Status.ALREADY_EXISTS, "a sandbox of that name runs", "duplicate-name"),
    ],
)
def test_refusals(emulator: Emulator, project: Path, status: Status, words: str, cause: str) -> None:
    emulator.faults.statuses["SandboxCreate"] = [(status, words)]
    problem = problem_of(started(project))
    assert (problem.code, problem.cause) == ("blocked", cause)
    assert words in problem.detail


def test_a_secret_that_is_not_there(emulator: Emulator, project: Path) -> None:
    assert problem_of(started(project, ModalConfig(secrets=("no-such-secret",)))).cause == "not-found"


def test_a_source_that_is_too_large(emulator: Emulator, project: Path) -> None:
    (project / "weights.bin").write_bytes(b"x" * 2048)
    plan = Plan("r", "h200x8", "modal", "H200:8", 0, 1, True, False, (), (), str(project))
    problem = problem_of(ModalSurface(ModalConfig(), SourceConfig(max_bytes=1024)).start(plan, project))
    assert (problem.code, problem.cause) == ("blocked", "source")
    assert "weights.bin" in problem.detail


@pytest.mark.parametrize("status", [Result.GENERIC_STATUS_KERNEL_OOM_KILL, Result.GENERIC_STATUS_INTERNAL_FAILURE])
def test_killed_from_outside(emulator: Emulator, project: Path, status: int) -> None:
    """Eviction, preemption, the container's memory: the client tells none of them apart."""
    box = started(project, dry_run=True)
    while not said(box, ev.RunStarted):
        assert box.ended() is None
        time.sleep(0.01)
    emulator.kill(emulator.sandboxes[0], status)
    assert (problem_of(box).code, problem_of(box).cause) == ("box-lost", "killed")


def test_the_memory_of_the_box_is_what_was_ordered(emulator: Emulator, project: Path) -> None:
    """Not what its kernel says, which in gVisor is the host's."""
    box = started(project, ModalConfig(memory_mib=900), dry_run=True)
    while not said(box, ev.BoxReady):
        assert box.ended() is None
        time.sleep(0.01)
    ready = next(fact for fact in facts(box) if isinstance(fact, ev.BoxReady))
    assert (ready.facts["memory_bytes"], ready.facts["memory_from"]) == (900 << 20, "ordered")
    emulator.expire(emulator.sandboxes[0])
    assert problem_of(box).cause == "sandbox-timeout"


def test_the_sandbox_s_own_limit(emulator: Emulator, project: Path) -> None:
    box = started(project, dry_run=True)
    while not said(box, ev.RunStarted):
        time.sleep(0.01)
    emulator.expire(emulator.sandboxes[0])
    assert problem_of(box).cause == "sandbox-timeout"


def test_credentials_that_are_withdrawn_while_it_works(emulator: Emulator, project: Path) -> None:
    """Nothing was refused before the launch, so nothing is `blocked`."""
    box = started(project, dry_run=True)
    while not said(box, ev.RunStarted):
        time.sleep(0.01)
    for rpc in ("SandboxWait", "SandboxWaitV2"):
        emulator.faults.statuses[rpc] = [(Status.UNAUTHENTICATED, "this token was revoked")]
    problem = problem_of(box)
    assert (problem.code, problem.cause) == ("box-lost", "cut-off")
    assert "this token was revoked" in problem.detail


def test_terminated_by_somebody(emulator: Emulator, project: Path) -> None:
    box = started(project, dry_run=True)
    while not said(box, ev.RunStarted):
        time.sleep(0.01)
    modal.Sandbox.from_id(emulator.sandboxes[0].id).terminate()
    assert problem_of(box).cause == "terminated"


def test_what_only_the_sandbox_s_own_output_has_is_not_lost(emulator: Emulator, project: Path) -> None:
    """No exec: the recording comes from standard output, where the box repeats it."""
    emulator.faults.no_exec = True
    box = started(project)
    problem_of_none = box.ended
    deadline = time.monotonic() + SOON_S
    while problem_of_none() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    kinds = [type(fact) for fact in facts(box)]
    assert ev.RunStarted in kinds
    assert ev.RunFinished in kinds
    assert ev.Gap not in kinds


@pytest.mark.parametrize("no_exec", [False, True])
def test_a_machine_that_starts_late_is_not_a_lost_one(emulator: Emulator, project: Path, no_exec: bool) -> None:
    """Here a lost box is looked for during 3 s; what counts is the time since it could be heard first."""
    emulator.faults.no_exec = no_exec
    emulator.faults.capacity_after_s = 4.0
    box = started(project, ModalConfig(lease_s=2.0), dry_run=True)
    deadline = time.monotonic() + SOON_S
    while not said(box, ev.RunStarted):
        assert box.ended() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    box.end()
    assert said(box, ev.RunFinished), "ended in order, not terminated"


def test_a_connection_that_comes_back(emulator: Emulator, project: Path) -> None:
    """Nothing lost, nothing twice, and it is said that there was something."""
    box = started(project, dry_run=True)
    while not said(box, ev.RunStarted):
        time.sleep(0.01)
    emulator.silence()
    time.sleep(0.3)
    emulator.cut()
    time.sleep(0.5)
    emulator.repair()
    box.stop(RunEnd.STOPPED)
    deadline = time.monotonic() + SOON_S
    while box.ended() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ended = box.ended()
    assert ended is not None
    assert ended.problem is None
    reported = facts(box)
    assert [fact for fact in reported if isinstance(fact, ev.Gap | ev.Damaged)] == []
    lines = box.inbox.recording.read_bytes().splitlines()
    assert len(lines) == len(set(lines))
    assert any(isinstance(fact, ev.RunFinished) for fact in reported)


def test_a_network_that_falls_silent_for_good(
    emulator: Emulator, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two followers that don't come, then the sandbox's own output: it has no beats, and is silent as well."""
    monkeypatch.setattr(conversation, "SILENT_S", 0.5)
    monkeypatch.setattr(conversation, "OUTPUT_SILENT_S", 1.5)
    monkeypatch.setattr(client, "POLL_S", 0.5)
    monkeypatch.setattr(client, "CALL_S", 0.5)
    box = started(project, ModalConfig(lease_s=6.0), dry_run=True)
    deadline = time.monotonic() + SOON_S
    while not said(box, ev.RunStarted):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    emulator.silence()
    problem = problem_of(box)
    emulator.repair()
    assert (problem.code, problem.cause) == ("box-lost", "connection")
    assert any(isinstance(fact, ev.Progress) and fact.phase == "fallback" for fact in facts(box))


def test_a_detached_run_is_left_and_found(emulator: Emulator, project: Path) -> None:
    """Its records outlive its sandbox, in the volume: whoever has the credentials attaches, as often as asked."""
    config = ModalConfig(runs_volume=VolumeConfig("/megacpp/runs", "records", made=True))
    box = started(project, config, detached=True)
    deadline = time.monotonic() + SOON_S
    while box.ended() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ended = box.ended()
    assert ended is not None
    assert ended.problem is None
    assert box.address().sandbox == emulator.sandboxes[0].id
    recordings = []
    for attempt in range(3):
        if attempt == 2:  # nothing but the volume is left
            assert emulator.sandboxes[0].container is not None
            while emulator.sandboxes[0].result is None:
                time.sleep(0.05)
        place = project / f"elsewhere-{attempt}"
        place.mkdir()
        there = ModalSurface(config, SourceConfig()).attach(box._run_id, place)
        while there.ended() is None:
            time.sleep(0.01)
        there.end()
        ended = there.ended()
        assert ended is not None
        assert ended.problem is None
        lines = (place / "recording.jsonl").read_bytes().splitlines(keepends=True)
        recordings.append(b"".join(line for line in lines if b'"src":"surface"' not in line))
        assert (place / "box.log").exists()
    assert b'"kind":"run-finished"' in recordings[0]
    assert recordings[0] == recordings[1] == recordings[2]


def test_why_a_sandbox_ended_is_said_also_when_its_records_can_t_be_read(emulator: Emulator, project: Path) -> None:
    box = started(project, dry_run=True)
    while not said(box, ev.RunStarted):
        time.sleep(0.01)
    emulator.faults.statuses["VolumeListFiles"] = [(Status.PERMISSION_DENIED, "not yours")] * 9
    emulator.kill(emulator.sandboxes[0], Result.GENERIC_STATUS_INTERNAL_FAILURE)
    assert problem_of(box).cause == "killed"
    reported = [fact.detail for fact in facts(box) if isinstance(fact, ev.Progress) and fact.phase == "lost"]
    assert "not yours" in reported[-1]


def test_of_a_volume_only_records_are_read_and_only_so_much(emulator: Emulator, project: Path) -> None:
    """Whatever ran in the box may have written there."""
    place = emulator.volume("records") / "run"
    for name in ("recording.jsonl", "box.log", "ranks/w1/0/stdout.log", "weights.bin", "ranks/w1/0/.bashrc"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x" * 100)
    asked: list[str] = []

    def limit_of(path: str) -> int:
        asked.append(path)
        return {"recording.jsonl": 60, "box.log": 100}.get(path, 0)

    read = dict(client.stored("records", "run", limit_of))
    assert read == {"recording.jsonl": b"x" * 60, "box.log": b"x" * 100}
    assert "weights.bin" in asked
    assert list(client.stored("records", "nowhere", limit_of)) == []


def test_a_run_that_is_nowhere(emulator: Emulator, project: Path) -> None:
    place = project / "elsewhere"
    place.mkdir()
    there = ModalSurface(ModalConfig(), SourceConfig()).attach("20200101-000000-0000", place)
    while there.ended() is None:
        time.sleep(0.01)
    assert b'"run-started"' not in (place / "recording.jsonl").read_bytes()


class _Follower:
    """A connection that is cut a moment after it was made."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._says = iter([b"", b"", None])

    def next(self, wait_s: float) -> bytes | None:
        return next(self._says)

    def say(self, line: bytes) -> None:
        self.heard.append(line)

    def leave(self) -> None:
        pass


def test_a_new_connection_begins_with_all_that_was_said(tmp_path: Path) -> None:
    """The box takes no word twice, and none may be lost with a connection."""
    words: list[Word] = [Again(0, Purpose.WARM_UP, 0), Enough(1)]
    inbox = Inbox("run-1", tmp_path)
    talk = conversation.Conversation("run-1", object(), ModalConfig(), inbox, words, lambda: False)
    for follower in (_Follower(), _Follower()):
        assert list(talk.converse(follower, lambda data: None, beats=True)) == []  # type: ignore[arg-type]
        assert follower.heard == [b"{}", *(word_line(word).rstrip() for word in words)]

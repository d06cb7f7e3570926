"""What every surface promises (`surfaces.protocol`), asked of each: one box, one recording, an end that leaves nothing.

The box is the real one. It refuses the plan at its guard (a lane that no machine here can be), or imports torch while
somebody interferes, so that one test alone waits for a rank.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.desk.commands.configured import Configured
from pytest_megacpp.desk.run.directory import new_run_id, utc_now
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Again, Enough, Plan, PlannedTest, SeedPlan
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import Preset, Purpose, RunEnd
from pytest_megacpp.recording.wire import Decoder
from pytest_megacpp.surfaces.protocol import RunningBox, Surface
from pytest_megacpp.surfaces.registry import CONFIGURED, SURFACES, provider

SOON_S = 60.0
JOINS = ["sh", "-c", 'exec sh -c "$*"', "joins"]  # its words, and has a shell take them apart, as ssh does
COMMANDS: Mapping[str, object] = {
    "apart": {"command": ["setsid", "--wait"]},
    "joined": {"command": JOINS, "shell": True},
    "again": {"command": ["env"], "attach": ["env"]},
}
"""Machines that a command reaches: this one, in sessions of their own; `tests/far` has others."""


@dataclass
class Ground:
    """A surface with a project of its own. `kill` ends every process of a run's box at once."""

    surface: Surface
    project: Path
    kill: Callable[[str], None]
    left: Callable[[str], list[int]]

    def plan(self, *, refused: bool) -> Plan:
        return Plan(
            run_id=new_run_id(utc_now()),
            lane="h200x8",
            surface="any",
            gpu="H200:8",
            devices=8 if refused else 0,
            ranks=1,
            dry_run=not refused,
            fsdp=False,
            tests=(PlannedTest("test_a.py::test_a", 1, Preset.FULL, ev.Limits()),),
            args=("test_a.py",),
            cwd=str(self.project),
            seed=SeedPlan(stores=(str(self.project / "seeds"),)),
        )

    def start(self, *, refused: bool = True) -> "Heard":
        plan = self.plan(refused=refused)
        run = self.project / "lane" / "runs" / plan.run_id
        run.mkdir(parents=True)
        return Heard(self.surface.start(plan, run), plan, run)


@dataclass
class Heard:
    """A box and what was read of it so far."""

    box: RunningBox
    plan: Plan
    run: Path
    data: bytes = b""

    def __post_init__(self) -> None:
        self.timeline = Timeline()
        self._decoder = Decoder()

    def read(self) -> bool:
        data = self.box.read()
        self.data += data
        for event in self._decoder.feed(data):
            self.timeline.add(event)
        return bool(data)

    def until(self, seen: Callable[[], object]) -> None:
        deadline = time.monotonic() + SOON_S
        while not seen():
            assert time.monotonic() < deadline, self.data[-2_000:]
            if not self.read():
                time.sleep(0.01)

    def to_the_end(self) -> None:
        self.until(lambda: self.box.ended() is not None)
        while self.read():
            pass

    @property
    def finished(self) -> str | None:
        return self.timeline.finished.reason if self.timeline.finished else None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_a.py").write_text("def test_a(): pass\n")
    return project


def _local(surface: Surface, project: Path, request: pytest.FixtureRequest) -> Ground:
    def of_run(run_id: str) -> list[int]:
        living = (p.pid for p in process.all_processes() if p.state not in "ZX" and p.pid != os.getpid())
        return [pid for pid in living if process.environment_of(pid).get("MEGACPP_RUN_ID") == run_id]

    def kill(run_id: str) -> None:
        while left := of_run(run_id):
            process.end_all(left)
            time.sleep(0.01)

    return Ground(surface, project, kill, of_run)


def _modal(surface: Surface, project: Path, request: pytest.FixtureRequest) -> Ground:
    pytest.importorskip("modal", reason="the modal client isn't installed: pip install -e '.[test]'")
    emulator = request.getfixturevalue("emulator")

    def of_run(run_id: str) -> list[int]:
        found = [s for s in emulator.sandboxes if s.name == run_id and s.container is not None]
        return [pid for sandbox in found for pid in sandbox.container.processes()]

    def kill(run_id: str) -> None:
        emulator.kill(next(s for s in emulator.sandboxes if s.name == run_id))

    return Ground(surface, project, kill, of_run)


GROUNDS: Mapping[str, Callable[[Surface, Path, pytest.FixtureRequest], Ground]] = {
    "local": _local,
    "modal": _modal,
    **dict.fromkeys(COMMANDS, _local),
}
TABLES = {"modal": {"capacity_s": 20.0, "lease_s": 20.0}, CONFIGURED: COMMANDS}


def test_every_surface_has_a_ground() -> None:
    assert GROUNDS.keys() == {*SURFACES, *COMMANDS}


@pytest.fixture(params=sorted(GROUNDS))
def ground(request: pytest.FixtureRequest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    name: str = request.param
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.parent / "cache"))  # a command's box works in there
    surface = provider(name, TABLES).surface(Configured(name, TABLES, project, project / "lane"), {})
    return GROUNDS[name](surface, project, request)


def test_a_whole_recording(ground: Ground) -> None:
    """All of it, in order, once; it lies in the run's directory as well; the box said itself why it ended."""
    heard = ground.start()
    heard.to_the_end()
    ended = heard.box.ended()
    assert ended is not None
    assert ended.problem is None
    assert heard.finished == "refused"
    assert [p.cause for _, p in heard.timeline.problems] == ["devices"]
    assert (heard.timeline.gaps, heard.timeline.damaged, heard.timeline.unknown) == ([], [], 0)
    assert (heard.run / "recording.jsonl").read_bytes() == heard.data
    assert heard.timeline.started is not None
    assert heard.timeline.started.run_id == heard.plan.run_id
    assert ground.left(heard.plan.run_id) == []


def test_its_log_comes_home(ground: Ground) -> None:
    heard = ground.start()
    heard.to_the_end()
    heard.box.end()
    assert (heard.run / "box.log").is_file()


def test_reading_never_waits(ground: Ground) -> None:
    heard = ground.start()
    began_s, reads = time.monotonic(), 0
    while heard.box.ended() is None:
        heard.read()
        reads += 1
    assert reads > 20 * (time.monotonic() - began_s)  # a read that waited for something would make them rare


def test_a_box_that_is_asked_to_stop(ground: Ground) -> None:
    heard = ground.start(refused=False)
    heard.until(lambda: heard.timeline.progress and heard.timeline.progress[-1][1].phase == "preload")
    heard.box.stop(RunEnd.STOPPED)
    heard.to_the_end()
    assert heard.finished == "stopped"
    assert ground.left(heard.plan.run_id) == []


def test_a_desk_that_ends(ground: Ground) -> None:
    """Without a word before: the box ends in order, and what it said last can be read."""
    heard = ground.start(refused=False)
    heard.until(lambda: heard.timeline.started is not None)
    heard.box.end()
    assert heard.box.ended() is not None
    assert ground.left(heard.plan.run_id) == []
    heard.to_the_end()
    assert heard.finished == "interrupted"
    heard.box.end()


def test_a_killed_box(ground: Ground) -> None:
    heard = ground.start(refused=False)
    heard.until(lambda: heard.timeline.started is not None)
    ground.kill(heard.plan.run_id)
    heard.to_the_end()
    ended = heard.box.ended()
    assert ended is not None
    assert ended.problem is not None
    assert ended.problem.code == "box-lost"
    assert heard.finished is None
    heard.box.end()


def test_two_boxes_don_t_mix(ground: Ground) -> None:
    one, other = ground.start(), ground.start()
    one.to_the_end()
    other.to_the_end()
    for heard in (one, other):
        assert heard.finished == "refused"
        assert heard.timeline.run_id == heard.plan.run_id


def test_ending_at_once(ground: Ground) -> None:
    """Before there is anything to end."""
    heard = ground.start(refused=False)
    heard.box.end()
    assert heard.box.ended() is not None
    assert ground.left(heard.plan.run_id) == []


def test_the_plan_s_secrets_stay_out_of_the_recording(ground: Ground) -> None:
    plan = replace(ground.plan(refused=True), environment={"MY_API_TOKEN": "tok-0123456789abcdef"})
    run = ground.project / "lane" / "runs" / plan.run_id
    run.mkdir(parents=True)
    heard = Heard(ground.surface.start(plan, run), plan, run)
    heard.to_the_end()
    heard.box.end()
    assert heard.finished == "refused"
    for file in run.rglob("*"):
        assert not file.is_file() or b"tok-0123456789abcdef" not in file.read_bytes()


def test_what_a_desk_says_arrives(ground: Ground) -> None:
    """In order, whatever nonsense is among it; the box hears it when it has nothing else to do."""
    plan = replace(ground.plan(refused=False), triage=True)
    run = ground.project / "lane" / "runs" / plan.run_id
    run.mkdir(parents=True)
    heard = Heard(ground.surface.start(plan, run), plan, run)
    heard.box.say(Again(7, Purpose.DETAIL, 3))
    heard.until(lambda: 0 in heard.timeline.tests and heard.timeline.tests[0].ended is not None)
    heard.box.say(Again(0, Purpose.DIAGNOSTIC, 0))
    heard.until(lambda: 1 in heard.timeline.tests and heard.timeline.tests[1].ended is not None)
    heard.box.say(Enough(0))
    heard.to_the_end()
    assert heard.timeline.attempts(0) == (0, 1)
    assert heard.timeline.tests[1].preset == "diagnostic"
    assert heard.finished == "completed"
    heard.box.end()

"""A user's project in a directory of its own, real desks started in it, and what they made of it.

A run of ranks costs seconds, so a module of tests shares one project and one run wherever it can.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.box.host import process
from tests.kernel import lacking
from tests.terminal import Terminal

LIMIT_S = 120.0
SETTLE_S = 2.0
PATIENCE = float(os.environ.get("TESTS_PATIENCE", "1"))
"""How many times longer these tests wait than on an idle machine; under gVisor a box starts slowly."""
DRY = ("--surface", "local", "--dry-run")
LANE = ("-m", "h200x8", *DRY)
ORDERED = {"PYTEST_ADDOPTS": "-p no:randomly -p no:sugar -p no:benchmark"}
"""They are there for tests/beside: uncalled, they shuffle, draw another terminal, and warn beside pytest-xdist."""
WITHOUT_NUMPY = {"PYTHONPATH": str(Path(__file__).parent / "no_numpy")}
WITHOUT_TORCH = {"PYTHONPATH": str(Path(__file__).parent / "no_torch")}  # for a desk; its box has it
_NOT_FOR_A_DESK = (
    "CI",
    "GITHUB_ACTIONS",
    "GITHUB_STEP_SUMMARY",
    "GITHUB_WORKSPACE",
    "GITLAB_CI",
    "CI_PROJECT_DIR",
    "BUILDKITE",
    "BUILDKITE_BUILD_CHECKOUT_PATH",
    "BUILD_NUMBER",
    "NO_COLOR",
    "FORCE_COLOR",
    "WITNESS",
    "COLUMNS",
    "TORCH_DISTRIBUTED_DEBUG",
)
_NEVER_INHERITED = ("PYTEST_", "MEGACPP_", "TORCHELASTIC_", "MODAL_TOKEN")

Json = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """What a desk answered. `reports` are pytest's own, in order."""

    code: int
    text: str
    reports: list[Json]
    run: Json | None
    directory: Path | None
    seconds: float

    def of(self, name: str) -> dict[str, Json]:
        """The reports of the test with this name (or end of its node id), by phase."""
        return {r["when"]: r for r in self.reports if r["nodeid"].endswith(f"::{name}")}

    def outcome(self, name: str) -> str:
        """pytest's word for a test, as its own summary counts it."""
        phases = self.of(name)
        if not phases:
            return "absent"
        call = phases.get("call", phases.get("setup"))
        if any(phases[when]["outcome"] == "failed" for when in ("setup", "teardown") if when in phases):
            return "error"
        assert call is not None
        if call["xfail"] is not None:
            return "xfailed" if call["outcome"] == "skipped" else "xpassed"
        return str(call["outcome"])

    def outcomes(self) -> dict[str, str]:
        """By test name."""
        names = dict.fromkeys(r["nodeid"].partition("::")[2] for r in self.reports)
        return {name: self.outcome(name) for name in names}

    def failure(self, name: str) -> str:
        """The text that pytest shows for a failing test."""
        return str(next(r["text"] for r in self.of(name).values() if r["outcome"] == "failed"))

    def sections(self, name: str) -> dict[str, str]:
        """Captured sections of a test, all phases together."""
        return {heading: text for r in self.of(name).values() for heading, text in r["sections"].items()}

    def test(self, name: str) -> Json:
        """The test's entry in `run.json`."""
        assert self.run is not None
        return next(t for t in self.run["tests"] if t["nodeid"].endswith(f"::{name}"))

    def receipt(self, name: str) -> Json:
        """The test's receipt."""
        assert self.directory is not None
        document: Json = json.loads((self.directory / self.test(name)["receipt"]).read_text())
        return document

    def verdict(self, name: str) -> Json:
        """The verdict in the test's receipt."""
        found: Json = self.receipt(name)["verdict"]
        return found


@dataclass
class Project:
    """`root` is where pytest runs."""

    root: Path
    lane_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.lane_dir = self.root / ".megacpp"
        self.write("pyproject.toml", '[tool.pytest.ini_options]\naddopts = ["--strict-markers"]\n')

    def write(self, name: str, text: str) -> Path:
        """A file of the project; common indentation is taken away."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def start(
        self,
        *args: str,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        module: str = "pytest",
        without: Sequence[str] = (),
        terminal: Terminal | None = None,
        script: str = "",
    ) -> "Desk":
        """A desk at work, for tests that interfere. `without`: kernel interfaces that it and its box lack. `terminal`:
        what it reads from and writes to. `script`: of a shell with jobs, which has that terminal; `"$@"` is the desk.
        """
        return Desk(self, args, cwd or self.root, env or {}, module, without, terminal, script)

    def pytest(
        self, *args: str, cwd: Path | None = None, env: dict[str, str] | None = None, without: Sequence[str] = ()
    ) -> Ran:
        """A desk from its start to its end; fails when it hangs or leaves a process behind."""
        with self.start(*args, cwd=cwd, env=env, without=without) as desk:
            return desk.ran()

    def megacpp(self, *args: str, env: dict[str, str] | None = None) -> Ran:
        """The `megacpp` command from its start to its end."""
        with self.start(*args, env=env, module="pytest_megacpp.desk.commands.cli") as desk:
            return desk.ran()

    def runs(self) -> list[Path]:
        """Run directories, oldest first."""
        return sorted(p for p in (self.lane_dir / "runs").glob("*") if p.is_dir())

    def noted(self, name: str = "noted") -> list[str]:
        """The lines that tests appended to a file of this name."""
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []

    def processes(self) -> dict[int, str]:
        """Living processes of this project's runs, with their command lines."""
        ids = {p.name for p in self.runs()}
        found = (p.pid for p in process.all_processes() if p.state not in "ZX")
        return {pid: command(pid) for pid in found if process.environment_of(pid).get("MEGACPP_RUN_ID") in ids}


class Desk:
    """A running pytest of a project; left with its whole process group ended."""

    def __init__(
        self,
        project: Project,
        args: tuple[str, ...],
        cwd: Path,
        env: dict[str, str],
        module: str = "pytest",
        without: Sequence[str] = (),
        terminal: Terminal | None = None,
        script: str = "",
    ) -> None:
        self.project = project
        self._before = set(project.runs())
        self._witness = project.root / f".witness-{len(self._before)}-{time.monotonic_ns()}"
        self._output = project.root / f"{self._witness.name}.out"
        self._started_s = time.monotonic()
        words = [*(["bash", "-m", "-c", script, "bash"] if script else []), sys.executable, "-m", module, *args]
        with self._output.open("wb") as output:
            self.child = subprocess.Popen(
                lacking.command(without, words) if without else words,
                cwd=cwd,
                env=self._environment(env),
                stdin=terminal.program if terminal else subprocess.DEVNULL,
                stdout=terminal.program if terminal else output,
                stderr=terminal.program if terminal else subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_as_a_shell if script else _hear_interrupts,
            )

    def _environment(self, given: dict[str, str]) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in _NOT_FOR_A_DESK and not name.startswith(_NEVER_INHERITED)
        }
        paths = [given.get("PYTHONPATH"), str(Path(__file__).parent / "witness"), kept.get("PYTHONPATH")]
        ours = {
            "WITNESS": str(self._witness),
            "PYTEST_PLUGINS": "megacpp_witness",
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        }
        return {**kept, **ORDERED, **given, **ours}

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        process.end_all(self.project.processes())

    @property
    def text(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def directory(self) -> Path | None:
        """Of the run that this desk made, if it made one."""
        return max(set(self.project.runs()) - self._before, default=None)

    def wait_until(self, seen: Callable[[], object], limit_s: float = 60.0) -> None:
        """Until something is there; fails when the desk ends before."""
        deadline = time.monotonic() + PATIENCE * limit_s
        while not seen():
            assert self.child.poll() is None, f"the desk ended too early:\n{self.text}"
            assert time.monotonic() < deadline, f"still waiting:\n{self.text}"
            time.sleep(0.02)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """The exit code."""
        try:
            return self.child.wait(PATIENCE * limit_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the desk hangs:\n{self.text}")

    def ran(self, limit_s: float = LIMIT_S) -> Ran:
        """Waits for the end, and for the end of every process of the run."""
        code = self.wait(limit_s)
        self.assert_nothing_left()
        return Ran(code, self.text, self._reports(), self._run_json(), self.directory, self._seconds())

    def _seconds(self) -> float:
        return time.monotonic() - self._started_s

    def _reports(self) -> list[Json]:
        if not self._witness.exists():
            return []
        return [json.loads(line) for line in self._witness.read_text().splitlines()]

    def _run_json(self) -> Json | None:
        path = self.directory / "run.json" if self.directory else None
        document: Json | None = json.loads(path.read_text()) if path and path.exists() else None
        return document

    def assert_nothing_left(self, limit_s: float = SETTLE_S) -> None:
        """No process of any run of the project is alive."""
        deadline = time.monotonic() + PATIENCE * limit_s
        while (left := self.project.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, f"left behind: {left}\n{self.text}"


def _hear_interrupts() -> None:
    """A desk started in the background of a script would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _as_a_shell() -> None:
    """A shell gives the terminal to its jobs, so that has to be the one of its session."""
    _hear_interrupts()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def files_below(directory: Path) -> Iterator[Path]:
    """Every file, hidden ones too."""
    return (p for p in directory.rglob("*") if p.is_file())

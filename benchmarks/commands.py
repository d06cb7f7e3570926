"""Owns the command lines and environments of ours and of the peers, and whether each can run here.

Every side gets the same interpreter, the same threads and no plugin but its own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from benchmarks.measure import Command, Completed

CASES = Path(__file__).parent / "cases"
OURS = "megacpp"
LANE = "h200x8"
INI = f"[pytest]\nmarkers =\n    {LANE}: runs on the lane\n"
_DROPPED = re.compile(
    r"^(PYTEST_|PYTHON(?!PATH$)|RANK$|WORLD_SIZE$|LOCAL_|MASTER_|GROUP_|ROLE_|TORCHELASTIC_|TORCH_|NCCL_)"
)


@dataclass
class Workshop:
    """A scratch directory in which every command gets a fresh folder of its own."""

    root: Path
    _made: int = field(default=0)

    def fresh(self, name: str) -> Path:
        """A new folder with a pytest.ini, so that no configuration of a parent folder applies."""
        self._made += 1
        folder = self.root / f"{self._made:03d}-{name}"
        folder.mkdir(parents=True)
        (folder / "pytest.ini").write_text(INI, encoding="utf-8")
        return folder


def write_case(folder: Path, case: str, **constants: str | int) -> Path:
    """Copy a case as a test file into the folder, with the named module constants set."""
    return write_module(folder, case, f"test_{case}", **constants)


def write_module(folder: Path, case: str, module: str, **constants: str | int) -> Path:
    """Copy a case as the module of that name into the folder, with the named module constants set."""
    text = (CASES / f"{case}.py").read_text(encoding="utf-8")
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"case {case} sets {name} {count} times, expected once")
    target = folder / f"{module}.py"
    target.write_text(text, encoding="utf-8")
    return target


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what steers Python, pytest or a launcher; one thread each."""
    kept = {name: value for name, value in os.environ.items() if not _DROPPED.match(name)}
    return {**kept, "OMP_NUM_THREADS": "1", **(extra or {})}


def pytest_arguments(keep: Iterable[str] = ()) -> list[str]:
    """Quiet, no cache, and every installed plugin blocked by name but those to keep."""
    kept = set(keep)
    blocked = sorted({entry.name for entry in metadata.entry_points(group="pytest11")} - kept)
    switches = [part for name in blocked for part in ("-p", f"no:{name}")]
    return ["-q", "-p", "no:cacheprovider", *switches]


def lane(test: Path, ranks: int, lane_dir: Path, *options: str) -> list[str]:
    """Ours: the test on N ranks of this host, as a CPU dry run."""
    shape = ["-m", LANE, "--ranks", str(ranks)]
    where = ["--surface", "local", "--dry-run", "--lane-dir", str(lane_dir), *options]
    return [sys.executable, "-m", "pytest", *pytest_arguments([OURS]), *shape, *where, str(test)]


def torchrun(test: Path, ranks: int) -> list[str]:
    """The command that a torchrun user types, on a port that is free now (the default one may be taken)."""
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    shape = ["--nproc-per-node", str(ranks), "--master-port", str(_free_port())]
    return [*launcher, *shape, "-m", "pytest", *pytest_arguments(), str(test)]


def plain_pytest(test: Path) -> list[str]:
    """A pytest that starts ranks by itself (torch's own test harnesses)."""
    return [sys.executable, "-m", "pytest", *pytest_arguments(), str(test)]


def command(
    argv: Sequence[str],
    folder: Path,
    deadline_s: float,
    extra: Mapping[str, str] | None = None,
) -> Command:
    """The argument vector as a command that runs in the folder."""
    return Command(argv, folder, environment(extra), deadline_s)


def failure_of(done: Completed, passed: int) -> str | None:
    """Why a run that should have passed that many tests doesn't count, or None."""
    if done.timed_out:
        return f"no end within its deadline ({done.wall_s:.0f} s): {done.tail()}"
    if done.rc != 0:
        return f"exit code {done.rc}: {done.tail()}"
    if not any(re.search(rf"\b{passed} passed\b", line.text) for line in done.lines):
        return f"'{passed} passed' is not in the output: {done.tail()}"
    return None


def lane_missing() -> str | None:
    """Why ours can't run."""
    if not metadata.entry_points(group="pytest11", name=OURS):
        return f"the pytest plugin {OURS!r} is not installed here (pip install -e .)"
    return torch_missing()


def plugin_missing(names: Iterable[str]) -> str | None:
    """Why a plugin with these entry points can't be loaded."""
    absent = [name for name in names if not metadata.entry_points(group="pytest11", name=name)]
    return f"no pytest plugin {', '.join(absent)} is installed here" if absent else None


def torch_missing() -> str | None:
    """Why torchrun can't run."""
    return None if util.find_spec("torch") else "torch is not installed here"


def harness_missing() -> str | None:
    """Why torch's own test harnesses can't run."""
    absent = [name for name in ("torch", "expecttest", "numpy") if not util.find_spec(name)]
    if not absent:
        return None
    return f"{', '.join(absent)} not installed here (pip install -r benchmarks/requirements.txt)"


def discard(folder: Path) -> None:
    """Remove a folder that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

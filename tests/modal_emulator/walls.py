"""Owns what encloses a sandbox: gVisor where a test asks for it, namespaces where they are allowed, else nothing.

Without walls a sandbox has the machine's own root, and `ROOT` is replaced by a directory of its own in all that the
sandbox sees.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tests.gvisor.builds import Build
from tests.gvisor.sandbox import RUNNING, Files, Job, Sandbox

LAUNCH = Path(__file__).with_name("launch.sh")
UNSHARE = ("unshare", "-rmpf", "--kill-child")
ROOT = "/megacpp"
_LOOK_S = 0.01


@functools.cache
def namespaces_allowed() -> bool:
    """Whether a process may have its own mounts and process ids here."""
    if (
        os.environ.get("MODAL_EMULATOR_NAMESPACES") == "0"
        or shutil.which("unshare") is None
        or shutil.which("nsenter") is None
    ):
        return False
    probe = ("sh", "-c", "mount -t proc proc /proc")
    return subprocess.run([*UNSHARE, *probe], capture_output=True, timeout=20).returncode == 0


@dataclass(frozen=True)
class Gvisor:
    """That sandboxes run under this build. `kept` directories are shared with this machine; volumes lie there."""

    build: Build
    kept: Sequence[Path]


class Walls(Protocol):
    """One sandbox's. Jobs come as the sandbox sees them, and leave as this machine starts them."""

    def as_seen_inside(self, text: str) -> str:
        """A text for the sandbox."""
        ...

    def first(self, job: Job, hidden: Sequence[Path]) -> Job:
        """The first process, whose end is the sandbox's; it must not see `hidden`."""
        ...

    async def further(self, job: Job, main: asyncio.subprocess.Process) -> Job:
        """One more process beside the first; raises ProcessLookupError when that has ended."""
        ...

    def processes(self) -> list[int]:
        """Processes of this machine that carry the sandbox, beside those with its mark."""
        ...


def walls(directory: Path, overlay: Path, gvisor: Gvisor | None) -> Walls:
    """The walls of a new sandbox with a directory of its own on this machine."""
    if gvisor is not None:
        return GvisorWalls(Sandbox(gvisor.build, directory / "runsc"), gvisor.kept, overlay)
    return NamespaceWalls(directory, overlay) if namespaces_allowed() else NoWalls(overlay)


class NoWalls:
    """The machine as it is."""

    def __init__(self, overlay: Path) -> None:
        self._overlay = overlay

    def as_seen_inside(self, text: str) -> str:
        return re.sub(rf"(?<![\w.-]){ROOT}(?![\w-])", f"{self._overlay}{ROOT}", text)

    def first(self, job: Job, hidden: Sequence[Path]) -> Job:
        environment = {name: self.as_seen_inside(value) for name, value in job.environment.items()}
        return Job([self.as_seen_inside(word) for word in job.command], environment, self.as_seen_inside(job.cwd))

    async def further(self, job: Job, main: asyncio.subprocess.Process) -> Job:
        return self.first(job, ())

    def processes(self) -> list[int]:
        return []


class NamespaceWalls:
    """Mounts and process ids of its own, by `launch.sh`."""

    def __init__(self, directory: Path, overlay: Path) -> None:
        self._overlay = overlay
        self._newroot = directory / "newroot"
        self._hidden = directory / "hidden"
        self._newroot.mkdir()

    def as_seen_inside(self, text: str) -> str:
        return text

    def first(self, job: Job, hidden: Sequence[Path]) -> Job:
        self._hidden.write_text("".join(f"{path}\n" for path in hidden), encoding="utf-8")
        inside = ("sh", str(LAUNCH), str(self._newroot), str(self._overlay), str(self._hidden), job.cwd, *job.command)
        return Job([*UNSHARE, *inside], job.environment, "/")

    async def further(self, job: Job, main: asyncio.subprocess.Process) -> Job:
        first = await self._first_process(main)
        enter = ("nsenter", "-t", str(first), "-U", "-m", "-p", "-r", "-w", "--preserve-credentials")
        inside = ("sh", "-c", 'cd "$0" && exec "$@"', job.cwd, *job.command)
        return Job([*enter, *inside], job.environment, "/")

    async def _first_process(self, main: asyncio.subprocess.Process) -> int:
        """The sandbox's first process by this machine's numbers, once it stands on its own root."""
        while main.returncode is None:
            with contextlib.suppress(OSError, IndexError):
                first = int(Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()[0])
                if os.readlink(f"/proc/{first}/root") != "/":
                    return first
            await asyncio.sleep(_LOOK_S)
        raise ProcessLookupError("the sandbox has ended")

    def processes(self) -> list[int]:
        return []


class GvisorWalls:
    """A kernel of its own, as on Modal."""

    def __init__(self, sandbox: Sandbox, kept: Sequence[Path], overlay: Path) -> None:
        self._sandbox = sandbox
        self._kept = kept
        self._overlay = overlay
        self._numbers = itertools.count()

    def as_seen_inside(self, text: str) -> str:
        return text

    def first(self, job: Job, hidden: Sequence[Path]) -> Job:
        placed = {f"/{path.name}": path for path in self._overlay.iterdir()}
        files = Files(self._kept, placed, hidden)
        self._sandbox.describe(job, files)
        return replace(job, command=self._sandbox.run(files), cwd="/")

    async def further(self, job: Job, main: asyncio.subprocess.Process) -> Job:
        while not await self._is_running():
            if main.returncode is not None:
                raise ProcessLookupError("the sandbox has ended")
            await asyncio.sleep(_LOOK_S)
        return replace(job, command=self._sandbox.exec(job, next(self._numbers)), cwd="/")

    async def _is_running(self) -> bool:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*self._sandbox.state(), stdout=pipe, stderr=pipe)
        said, _ = await child.communicate()
        return child.returncode == 0 and json.loads(said)["status"] == RUNNING

    def processes(self) -> list[int]:
        return self._sandbox.processes()

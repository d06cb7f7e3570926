"""Owns sandboxes as local processes: namespaces where allowed, streams by offset, an end for all of them.

Where namespaces are not allowed a sandbox has the machine's own root, and `ROOT` is replaced by a directory of its own
in all that the sandbox is told.
"""

import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from pytest_megacpp.box import process

LAUNCH = Path(__file__).with_name("launch.sh")
UNSHARE = ("unshare", "-rmpf", "--kill-child")
MARK = "MODAL_SANDBOX_ID"
ROOT = "/megacpp"


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


class Output:
    """What a process wrote to one stream, readable from any offset while it grows."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = False
        self._changed = asyncio.Condition()

    async def fill(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(1 << 16):
            async with self._changed:
                self.data += data
                self._changed.notify_all()
        await self.close()

    async def close(self) -> None:
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    async def read(self, offset: int) -> AsyncIterator[bytes]:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda at=offset: len(self.data) > at or self.closed)  # type: ignore[misc]
                data = bytes(self.data[offset:])
            if not data:
                return
            offset += len(data)
            yield data


class Running:
    """A process with its streams."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.stdout, self.stderr = Output(), Output()
        self.written = 0
        self.ended = asyncio.Event()
        self._tasks = [asyncio.create_task(self._watch())]

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], cwd: str | None = None) -> "Running":
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), cwd=cwd, start_new_session=True
        )
        return cls(child)

    async def _watch(self) -> None:
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        fills = [
            asyncio.create_task(self.stdout.fill(self.child.stdout)),
            asyncio.create_task(self.stderr.fill(self.child.stderr)),
        ]
        await self.child.wait()
        await asyncio.wait(fills, timeout=1.0)  # a child of its own may keep the pipe
        for fill in fills:
            fill.cancel()
        await self.stdout.close()
        await self.stderr.close()
        self.ended.set()

    async def write(self, offset: int, data: bytes, eof: bool) -> None:
        """Takes what is new of `data`, which begins at `offset` of everything written: clients repeat themselves."""
        stdin = self.child.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, RuntimeError):
            stdin.write(data[self.written - offset :])
            self.written = max(self.written, offset + len(data))
            await stdin.drain()
            if eof:
                stdin.close()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.child.pid, signal.SIGKILL)


class Container:
    """The processes of one sandbox. `overlay` holds its own top-level directories."""

    def __init__(self, sandbox_id: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.id = sandbox_id
        self.overlay = directory / "overlay"
        self._newroot = directory / "newroot"
        self._hidden = directory / "hidden"
        for place in (self.overlay, self._newroot):
            place.mkdir(parents=True)
        self._environment = {**environment, MARK: sandbox_id}
        self.main: Running | None = None
        self.execs: dict[str, Running] = {}

    def place(self, absolute: str) -> Path:
        """Where a path of the sandbox lies on this machine."""
        top = "/" + absolute.strip("/").partition("/")[0]
        if os.path.lexists(top):
            raise ValueError(f"{absolute}: the emulator can only add top-level directories that this machine lacks")
        return self.overlay / absolute.strip("/")

    def told(self, text: str) -> str:
        """A text for the sandbox, such as an argument."""
        return text if namespaces_allowed() else re.sub(rf"(?<![\w.-]){ROOT}(?![\w-])", f"{self.overlay}{ROOT}", text)

    def _told(self, command: Sequence[str]) -> list[str]:
        return [self.told(word) for word in command]

    def _told_all(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {name: self.told(value) for name, value in environment.items()}

    async def start(self, command: Sequence[str], workdir: str, hidden: Sequence[Path]) -> None:
        if not namespaces_allowed():
            self.main = await Running.start(self._told(command), self._told_all(self._environment), self.told(workdir))
            return
        self._hidden.write_text("".join(f"{path}\n" for path in hidden), encoding="utf-8")
        inside = ("sh", str(LAUNCH), str(self._newroot), str(self.overlay), str(self._hidden), workdir, *command)
        self.main = await Running.start([*UNSHARE, *inside], self._environment)

    async def exec(self, exec_id: str, command: Sequence[str], workdir: str, environment: Mapping[str, str]) -> None:
        theirs = {**self._environment, **environment}
        if not namespaces_allowed():
            self.execs[exec_id] = await Running.start(self._told(command), self._told_all(theirs), self.told(workdir))
            return
        assert self.main is not None
        first = await self._first_process()
        enter = ("nsenter", "-t", str(first), "-U", "-m", "-p", "-r", "-w", "--preserve-credentials")
        inside = ("sh", "-c", 'cd "$0" && exec "$@"', workdir, *command)
        self.execs[exec_id] = await Running.start([*enter, *inside], theirs)

    async def _first_process(self) -> int:
        """The sandbox's first process by this machine's numbers, once it stands on its own root."""
        assert self.main is not None
        pid = self.main.child.pid
        while self.main.child.returncode is None:
            with contextlib.suppress(OSError, IndexError):
                first = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
                if os.readlink(f"/proc/{first}/root") != "/":
                    return first
            await asyncio.sleep(0.01)
        raise ProcessLookupError("the sandbox has ended")

    async def kill(self) -> None:
        """Every process of the sandbox, at once."""
        for running in (self.main, *self.execs.values()):
            if running is not None:
                running.kill()
        process.end_all(self.processes())
        for running in (self.main, *self.execs.values()):
            if running is not None:
                await running.ended.wait()

    def processes(self) -> list[int]:
        """Living processes of the sandbox, by this machine's numbers."""
        living = (p.pid for p in process.all_processes() if p.state not in "ZX")
        return [pid for pid in living if process.environment_of(pid).get(MARK) == self.id]


def base_environment(home: Path) -> dict[str, str]:
    """What a container has before anything is configured: an interpreter on the path and a home."""
    own = os.path.dirname(sys.executable)
    path = os.pathsep.join((own, "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"))
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}

"""Owns sandboxes as local processes: streams by offset, an end for all of them; must not know what encloses them."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from pytest_megacpp.box.host import process
from tests.gvisor.sandbox import Job
from tests.modal_emulator.walls import Gvisor, walls

MARK = "MODAL_SANDBOX_ID"


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
    async def start(cls, job: Job) -> "Running":
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *job.command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=dict(job.environment),
            cwd=job.cwd,
            start_new_session=True,
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

    def __init__(self, sandbox_id: str, directory: Path, environment: Mapping[str, str], gvisor: Gvisor | None) -> None:
        self.id = sandbox_id
        self.overlay = directory / "overlay"
        self.overlay.mkdir(parents=True)
        self._walls = walls(directory, self.overlay, gvisor)
        self._environment = {**environment, MARK: sandbox_id}
        self.main: Running | None = None
        self.execs: dict[str, Running] = {}

    def place(self, absolute: str) -> Path:
        """Where a path of the sandbox lies on this machine."""
        top = "/" + absolute.strip("/").partition("/")[0]
        if os.path.lexists(top):
            raise ValueError(f"{absolute}: the emulator can only add top-level directories that this machine lacks")
        return self.overlay / absolute.strip("/")

    def as_seen_inside(self, text: str) -> str:
        """A text for the sandbox, such as an argument."""
        return self._walls.as_seen_inside(text)

    async def start(self, command: Sequence[str], workdir: str, hidden: Sequence[Path]) -> None:
        job = Job(command, self._environment, workdir)
        self.main = await Running.start(self._walls.first(job, hidden))

    async def exec(self, exec_id: str, command: Sequence[str], workdir: str, environment: Mapping[str, str]) -> None:
        assert self.main is not None
        job = Job(command, {**self._environment, **environment}, workdir)
        self.execs[exec_id] = await Running.start(await self._walls.further(job, self.main.child))

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
        marked = (pid for pid in living if process.environment_of(pid).get(MARK) == self.id)
        return sorted({*marked, *self._walls.processes()})


def base_environment(home: Path) -> dict[str, str]:
    """What a container has before anything is configured: an interpreter on the path and a home."""
    own = os.path.dirname(sys.executable)
    path = os.pathsep.join((own, "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"))
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}

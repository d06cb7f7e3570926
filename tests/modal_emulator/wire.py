"""Owns the network between client and server: a TCP proxy that can be cut, silenced, repaired; must not know gRPC."""

import asyncio
import contextlib


class Wire:
    """Passes bytes from a port of its own on loopback to `target`. Cut: connections are reset, new ones refused.
    Silent: connections stay, nothing passes.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sound = asyncio.Event()
        self._sound.set()

    async def repair(self) -> None:
        """Listens (again), lets bytes pass (again)."""
        self._sound.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    def silence(self) -> None:
        self._sound.clear()

    async def close(self) -> None:
        await self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(onward)
            try:
                await asyncio.gather(self._pass(reader, onward), self._pass(onward_reader, writer))
            finally:
                self._writers.discard(onward)
                onward.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # a task of asyncio's own would tell of either
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._sound.wait()
                writer.write(data)
                await writer.drain()
            writer.transport.abort()

"""Owns an emulator's life: servers on loopback in a thread of their own, and what tests do to them."""

import asyncio
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from aiohttp import web
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_pb2, task_command_router_pb2

from tests.gvisor.builds import Build
from tests.modal_emulator.control import KILLED, ControlPlane, Result, Sandbox
from tests.modal_emulator.faults import Faults
from tests.modal_emulator.router import Router
from tests.modal_emulator.rpc import Service
from tests.modal_emulator.store import Store, blob_application
from tests.modal_emulator.walls import ROOT, Gvisor
from tests.modal_emulator.wire import Wire

T = TypeVar("T")
CREDENTIALS = {"MODAL_TOKEN_ID": "ak-emulated", "MODAL_TOKEN_SECRET": "as-emulated"}
CALL_S = 30.0


class Emulator:
    """A control plane, a worker's router and a blob store. A context manager; at its end no process is left.

    `hide` are places of this machine that sandboxes must not see (the desk's project), where namespaces are allowed.
    With `runsc` they run under gVisor, and share only `shared` directories with this machine.
    """

    def __init__(self, hide: Iterable[Path] = (), runsc: Build | None = None, shared: Iterable[Path] = ()) -> None:
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self._directory = Path(tempfile.mkdtemp(prefix="megacpp-emulator-"))
        self._store = Store(self._directory)
        gvisor = None if runsc is None else Gvisor(runsc, (self._directory, *shared))
        self.control = ControlPlane(self._store, self.faults, self._directory / "sandboxes", tuple(hide), gvisor)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modal-emulator", daemon=True)

    # -- what a desk needs to know -------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What points the client here; no configuration file of the machine is read."""
        url = f"http://127.0.0.1:{self._control_wire.port}"
        config = str(self._directory / "modal.toml")
        return {"MODAL_SERVER_URL": url, "MODAL_CONFIG_PATH": config, "MODAL_ENVIRONMENT": "main", **CREDENTIALS}

    @property
    def root(self) -> str:
        """The directory in sandboxes under which files may be put."""
        return ROOT

    # -- what a test does ----------------------------------------------------------------------------------

    @property
    def sandboxes(self) -> list[Sandbox]:
        return list(self.control.sandboxes.values())

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        secret_id = self._store.named("st", name, create=True)
        assert secret_id is not None
        self._store.secrets[secret_id] = dict(values)

    def bucket(self, name: str) -> Path:
        """Where a bucket's objects lie."""
        return self._store.bucket(name)

    def volume(self, name: str) -> Path:
        """Where a volume's files lie."""
        volume_id = self._store.named("vo", name, create=True)
        assert volume_id is not None
        return self._store.volume(volume_id)

    def app_tags(self, app_id: str) -> Mapping[str, str]:
        return self._store.app_tags.get(app_id, {})

    def kill(self, sandbox: Sandbox, status: int = Result.GENERIC_STATUS_FAILURE) -> None:
        """Every process at once, as an eviction, a preemption or the kernel does."""
        self._do(self.control.end(sandbox, status, KILLED))

    def expire(self, sandbox: Sandbox) -> None:
        """The sandbox's own time limit."""
        self._do(self.control.end(sandbox, Result.GENERIC_STATUS_TIMEOUT, 124))

    def cut(self) -> None:
        """Resets every connection and refuses new ones."""
        self._do(self._control_wire.cut())
        self._do(self._router_wire.cut())

    def silence(self) -> None:
        """Connections stay, nothing passes any more."""
        self._loop.call_soon_threadsafe(self._control_wire.silence)
        self._loop.call_soon_threadsafe(self._router_wire.silence)

    def repair(self) -> None:
        self._do(self._control_wire.repair())
        self._do(self._router_wire.repair())

    def reset(self) -> None:
        """No faults, no sandboxes, calls counted from 0; what is stored stays."""
        self.repair()
        self.faults.__init__()  # type: ignore[misc]
        self.calls.clear()
        self._do(self._end_sandboxes())

    async def _end_sandboxes(self) -> None:
        for sandbox in self.sandboxes:
            await settled(sandbox.tasks)
            await self.control.end(sandbox, Result.GENERIC_STATUS_TERMINATED, KILLED)
        self.control.sandboxes.clear()

    # -- life ----------------------------------------------------------------------------------------------

    def __enter__(self) -> "Emulator":
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _start(self) -> None:
        control = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
        router = task_command_router_pb2.DESCRIPTOR.services_by_name["TaskCommandRouter"]
        self._servers = [
            Server([Service(control, self.control, self._gate, self.calls)]),
            Server([Service(router, Router(self.control), lambda name, metadata: None, self.calls)]),
        ]
        self._control_wire, self._router_wire = [await self._serve(server) for server in self._servers]
        self.control.router_url = lambda: f"http://127.0.0.1:{self._router_wire.port}"
        self._blobs = web.AppRunner(blob_application(self._store))
        await self._blobs.setup()
        site = web.TCPSite(self._blobs, "127.0.0.1", 0)
        await site.start()
        self.control.blob_url = lambda: f"http://127.0.0.1:{self._blobs.addresses[0][1]}"

    async def _serve(self, server: Server) -> Wire:
        await server.start("127.0.0.1", 0)
        assert server._server is not None
        listening: Any = server._server
        wire = Wire(listening.sockets[0].getsockname()[1])
        await wire.repair()
        return wire

    async def _stop(self) -> None:
        await self._end_sandboxes()
        for wire in (self._control_wire, self._router_wire):
            await wire.close()
        for server in self._servers:
            server.close()
        await self._blobs.cleanup()
        await settled([t for t in asyncio.all_tasks() if t is not asyncio.current_task()])

    def _gate(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Credentials first, then what a test wants to go wrong."""
        known = metadata.get("x-modal-token-id") == CREDENTIALS["MODAL_TOKEN_ID"]
        if self.faults.reject_credentials or not known:
            raise GRPCError(Status.UNAUTHENTICATED, "Token missing or invalid")
        if waiting := self.faults.statuses.get(name):
            raise GRPCError(*waiting.pop(0))


async def settled(tasks: list["asyncio.Task[None]"]) -> None:
    """Cancels tasks and waits for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Owns the RPCs that go straight to a sandbox's worker: exec and its streams."""

from collections.abc import AsyncIterator
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import task_command_router_pb2 as sr_pb2

from tests.modal_emulator.control import ControlPlane
from tests.modal_emulator.processes import Running


class Router:
    """See the module. A method has its RPC's name."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def TaskExecStart(self, request: Any) -> Any:
        sandbox = self._control.of_task(request.task_id)
        await sandbox.started.wait()
        if sandbox.result is not None or self._control.faults.no_exec:
            raise GRPCError(Status.FAILED_PRECONDITION, "the sandbox has ended")
        assert sandbox.container is not None
        if request.exec_id not in sandbox.container.execs:
            environment = {k: v for s in request.secret_sources for k, v in s.env.contents.items()}
            workdir = request.workdir or sandbox.definition.workdir or "/"
            try:
                await sandbox.container.exec(request.exec_id, request.command_args, workdir, environment)
            except ProcessLookupError as e:
                raise GRPCError(Status.FAILED_PRECONDITION, str(e)) from None
        return sr_pb2.TaskExecStartResponse()

    async def TaskExecStdioRead(self, request: Any) -> AsyncIterator[Any]:
        running = self._running(request)
        stdout = request.file_descriptor == sr_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT
        output = running.stdout if stdout else running.stderr
        async for data in output.read(request.offset):
            yield sr_pb2.TaskExecStdioReadResponse(data=data)

    async def TaskExecStdinWrite(self, request: Any) -> Any:
        await self._running(request).write(request.offset, request.data, request.eof)
        return sr_pb2.TaskExecStdinWriteResponse()

    async def TaskExecWait(self, request: Any) -> Any:
        running = self._running(request)
        await running.ended.wait()
        code = running.child.returncode or 0
        return sr_pb2.TaskExecWaitResponse(code=code) if code >= 0 else sr_pb2.TaskExecWaitResponse(signal=-code)

    async def TaskExecPoll(self, request: Any) -> Any:
        code = self._running(request).child.returncode
        if code is None:
            return sr_pb2.TaskExecPollResponse()
        return sr_pb2.TaskExecPollResponse(code=code) if code >= 0 else sr_pb2.TaskExecPollResponse(signal=-code)

    async def SandboxStdinWriteV2(self, request: Any) -> Any:
        main = await self._control.main_of(self._control.of_task(request.task_id))
        await main.write(request.offset, request.data, request.eof)
        return sr_pb2.SandboxStdinWriteV2Response()

    async def SandboxStdioReadV2(self, request: Any) -> AsyncIterator[Any]:
        main = await self._control.main_of(self._control.of_task(request.task_id))
        stdout = request.file_descriptor == sr_pb2.SANDBOX_STDIO_FILE_DESCRIPTOR_STDOUT
        output, offset = main.stdout if stdout else main.stderr, request.offset
        async for data in output.read(offset):
            yield sr_pb2.SandboxStdioReadV2Response(data=data, starting_offset=offset)
            offset += len(data)

    def _running(self, request: Any) -> Running:
        container = self._control.of_task(request.task_id).container
        running = container.execs.get(request.exec_id) if container is not None else None
        if running is None:
            raise GRPCError(Status.NOT_FOUND, f"exec {request.exec_id!r} not found")
        return running

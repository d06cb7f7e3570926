"""Owns the control plane's RPCs, for sandboxes of both generations; must not know processes from the inside.

A method has its RPC's name. What the first generation (GPU) and the second (CPU only) share is written once.
"""

import asyncio
import base64
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_emulator.faults import Faults
from tests.modal_emulator.processes import Container, Running, base_environment
from tests.modal_emulator.store import Image, MountedFile, Store, new_id
from tests.modal_emulator.walls import Gvisor

Result = api_pb2.GenericResult
SUCCESS, FAILURE = Result.GENERIC_STATUS_SUCCESS, Result.GENERIC_STATUS_FAILURE
KILLED = 137
T = TypeVar("T")


def token(valid_s: float = 3600.0) -> str:
    """A JWT as clients parse one; its signature is nobody's."""
    parts = ({"alg": "none"}, {"exp": time.time() + valid_s})
    return ".".join([base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts] + ["x"])


@dataclass
class Sandbox:
    """One sandbox. `result` when it has ended; `task_id` when it got a machine."""

    id: str
    app_id: str
    definition: Any
    environment: dict[str, str]
    tags: dict[str, str]
    created_at: float
    task_id: str = ""
    container: Container | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    result: Any = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.definition.name)

    @property
    def gpu(self) -> str:
        config = self.definition.resources.gpu_config
        return f"{config.gpu_type}:{config.count}" if config.gpu_type else ""

    def finish(self, result: Any) -> None:
        """The first end counts."""
        if self.result is None:
            self.result = result
            self.ended.set()
            self.started.set()


class ControlPlane:
    """See the module. `hidden` are places of this machine that no sandbox may see; `gvisor` is what runs them."""

    def __init__(
        self, store: Store, faults: Faults, directory: Path, hidden: Sequence[Path], gvisor: Gvisor | None
    ) -> None:
        self.store = store
        self.faults = faults
        self.sandboxes: dict[str, Sandbox] = {}
        self.rates: dict[str, str] = {}
        self.blob_url: Callable[[], str] = str
        self.router_url: Callable[[], str] = str
        self._directory = directory
        self._hidden = hidden
        self._gvisor = gvisor

    # -- the account ---------------------------------------------------------------------------------------

    async def ClientHello(self, request: Any) -> Any:
        return api_pb2.ClientHelloResponse(image_builder_version="2025.06")

    async def AuthTokenGet(self, request: Any) -> Any:
        return api_pb2.AuthTokenGetResponse(token=token())

    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api_pb2.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id=new_id("en"), metadata=metadata)

    async def WorkspaceNameLookup(self, request: Any) -> Any:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="emulated", username="emulated")

    async def WorkspaceBillingRates(self, request: Any) -> Any:
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.rates)

    async def AppGetOrCreate(self, request: Any) -> Any:
        create = request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
        app_id = _found(self.store.named("ap", request.app_name, create=create), f"app {request.app_name!r}")
        return api_pb2.AppGetOrCreateResponse(app_id=app_id)

    async def AppSetTags(self, request: Any) -> Any:
        self.store.app_tags[request.app_id] = dict(request.tags)
        return Empty()

    async def AppGetTags(self, request: Any) -> Any:
        return api_pb2.AppGetTagsResponse(tags=self.store.app_tags.get(request.app_id, {}))

    # -- files, images, secrets, volumes -------------------------------------------------------------------

    async def BlobCreate(self, request: Any) -> Any:
        blob = new_id("bl")
        urls = api_pb2.UploadUrlList(items=[f"{self.blob_url()}/blob/{blob}"])
        return api_pb2.BlobCreateResponse(blob_id=blob, blob_ids=[blob], upload_urls=urls)

    async def BlobGet(self, request: Any) -> Any:
        return api_pb2.BlobGetResponse(download_url=f"{self.blob_url()}/blob/{request.blob_id}")

    async def MountBatchedCheckExistence(self, request: Any) -> Any:
        missing = [sha for sha in request.sha256_hex_hashes if sha not in self.store.files]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Any) -> Any:
        if request.WhichOneof("data_oneof") is not None:
            data = self.store.blobs[request.data_blob_id] if request.data_blob_id else request.data
            self.store.put_file(request.sha256_hex, data)
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self.store.files)

    async def MountGetOrCreate(self, request: Any) -> Any:
        mount_id = new_id("mo")
        self.store.mounts[mount_id] = tuple(MountedFile(f.filename, f.sha256_hex, f.mode) for f in request.files)
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id)

    async def ImageGetOrCreate(self, request: Any) -> Any:
        spec = request.image
        key = spec.SerializeToString(deterministic=True).hex()
        image_id = self.store.named("im", key, create=True)
        assert image_id is not None
        bases = tuple(base.image_id for base in spec.base_images)
        image = self.store.images.setdefault(image_id, Image(image_id, tuple(spec.dockerfile_commands), bases))
        result = Result(status=SUCCESS) if image.built and not request.force_build else None
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=result)

    async def ImageJoinStreaming(self, request: Any) -> AsyncIterator[Any]:
        for line in self.faults.build_log:
            yield api_pb2.ImageJoinStreamingResponse(task_logs=[api_pb2.TaskLogs(data=f"{line}\n")], entry_id="1")
        await asyncio.sleep(self.faults.build_s)
        self.store.images[request.image_id].built = not self.faults.build_fails
        result = Result(status=FAILURE if self.faults.build_fails else SUCCESS)
        yield api_pb2.ImageJoinStreamingResponse(result=result, eof=True)

    async def ImageBuildChainGet(self, request: Any) -> Any:
        now = Timestamp()
        now.GetCurrentTime()
        step = api_pb2.ImageBuildStep(
            image_id=request.image_id, started_at=now, finished_at=now, builder_app_id="ap-builder"
        )
        return api_pb2.ImageBuildChainGetResponse(build_steps=[step])

    async def AppFetchLogs(self, request: Any) -> Any:
        logs = [api_pb2.TaskLogs(data=f"{line}\n") for line in self.faults.build_log]
        return api_pb2.AppFetchLogsResponse(batches=[api_pb2.TaskLogsBatch(items=logs[-request.limit :])])

    async def ImageFromId(self, request: Any) -> Any:
        _found(self.store.images.get(request.image_id), f"image {request.image_id!r}")
        return api_pb2.ImageFromIdResponse(image_id=request.image_id)

    async def SecretGetOrCreate(self, request: Any) -> Any:
        creation = request.object_creation_type
        if creation == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            secret_id = _found(self.store.named("st", request.deployment_name, create=False), "the secret")
            lacking = [k for k in request.required_keys if k not in self.store.secrets[secret_id]]
            _found(not lacking, f"key {lacking} of secret {request.deployment_name!r}")
        else:
            secret_id = new_id("st")
            self.store.secrets[secret_id] = dict(request.env_dict)
        metadata = api_pb2.SecretMetadata(name=request.deployment_name, keys=list(self.store.secrets[secret_id]))
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)

    async def SecretGetInfo(self, request: Any) -> Any:
        keys = list(_found(self.store.secrets.get(request.secret_id), "the secret"))
        return api_pb2.SecretGetInfoResponse(metadata=api_pb2.SecretMetadata(keys=keys))

    async def VolumeGetOrCreate(self, request: Any) -> Any:
        create = request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
        name = request.deployment_name
        volume_id = _found(self.store.named("vo", name, create=create), f"volume {name!r}")
        version = api_pb2.VOLUME_FS_VERSION_V1
        metadata = api_pb2.VolumeMetadata(name=name, version=version)
        return api_pb2.VolumeGetOrCreateResponse(volume_id=volume_id, version=version, metadata=metadata)

    async def VolumeListFiles(self, request: Any) -> AsyncIterator[Any]:
        volume = self.store.volume(request.volume_id)
        place = volume / request.path.strip("/")
        _found(place.exists(), f"{request.path} in the volume")
        paths = sorted(place.rglob("*") if request.recursive else place.iterdir()) if place.is_dir() else [place]
        yield api_pb2.VolumeListFilesResponse(entries=[_entry(volume, path) for path in paths])

    async def VolumeGetFile2(self, request: Any) -> Any:
        path = self.store.volume(request.volume_id) / request.path.strip("/")
        _found(path.is_file(), f"{request.path} in the volume")
        blob, data = new_id("bl"), path.read_bytes()
        self.store.blobs[blob] = data
        url = f"{self.blob_url()}/blob/{blob}"
        return api_pb2.VolumeGetFile2Response(get_urls=[url] if data else [], size=len(data), start=0, len=len(data))

    async def VolumePutFiles(self, request: Any) -> Any:
        for file in request.files:
            path = self.store.volume(request.volume_id) / file.filename.strip("/")
            if path.exists() and request.disallow_overwrite_existing_files:
                raise GRPCError(Status.ALREADY_EXISTS, f"{file.filename} already exists")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.store.files[file.sha256_hex])
        return Empty()

    async def VolumeRemoveFile(self, request: Any) -> Any:
        path = self.store.volume(request.volume_id) / request.path.strip("/")
        _found(path.exists(), f"{request.path} in the volume")
        if path.is_dir():
            if not request.recursive:
                raise GRPCError(Status.INVALID_ARGUMENT, f"{request.path} is a directory")
            shutil.rmtree(path)
        else:
            path.unlink()
        return Empty()

    # -- sandboxes -----------------------------------------------------------------------------------------

    async def SandboxCreate(self, request: Any) -> Any:
        theirs = [self.store.secrets[secret] for secret in request.definition.secret_ids]
        sandbox = self._create(request, theirs, new_id("sb"), new_id("ta"))
        return api_pb2.SandboxCreateResponse(sandbox_id=sandbox.id)

    async def SandboxCreateV2(self, request: Any) -> Any:
        sources = [
            self.store.secrets[s.secret_id] if s.secret_id else dict(s.env.contents) for s in request.secret_sources
        ]
        sandbox = self._create(request, sources, new_id("sb", 26), new_id("ta") + "V")
        return api_pb2.SandboxCreateV2Response(sandbox_id=sandbox.id)

    def _create(self, request: Any, theirs: Sequence[dict[str, str]], sandbox_id: str, task_id: str) -> Sandbox:
        wanted = request.definition
        if wanted.name and any(s.name == wanted.name and s.result is None for s in self.sandboxes.values()):
            raise GRPCError(Status.ALREADY_EXISTS, f"Sandbox with name {wanted.name} already exists")
        environment = self.store.environment_of(wanted.image_id)
        for secret in theirs:
            environment |= secret
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        sandbox = Sandbox(sandbox_id, request.app_id, wanted, environment, tags, time.time())
        self.sandboxes[sandbox.id] = sandbox
        sandbox.tasks.append(asyncio.create_task(self._run(sandbox, task_id)))
        return sandbox

    async def _run(self, sandbox: Sandbox, task_id: str) -> None:
        """From the queue to the end of the first process, or of the time."""
        await asyncio.sleep(self.faults.capacity_after_s)
        while not self.faults.capacity:
            await asyncio.sleep(0.02)
        if sandbox.result is not None:
            return
        sandbox.task_id = task_id
        wanted, directory = sandbox.definition, self._directory / sandbox.id
        home = directory / "home"
        home.mkdir(parents=True)
        environment = {**base_environment(home), **sandbox.environment, **_set_in_containers(sandbox)}
        container = Container(sandbox.id, directory, environment, self._gvisor)
        for mount in wanted.mount_ids:
            await asyncio.to_thread(self._write_mount, container, mount)
        for volume in wanted.volume_mounts:
            place = container.place(volume.mount_path)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_symlink():
                place.unlink()
            target = self.store.volume(volume.volume_id) / volume.sub_path.strip("/")
            target.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)
        for bucket in wanted.cloud_bucket_mounts:
            place = container.place(bucket.mount_path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self.store.bucket(bucket.bucket_name) / bucket.key_prefix.strip("/"))
        sandbox.container = container
        await container.start(wanted.entrypoint_args, wanted.workdir or "/", self._hidden)
        sandbox.started.set()
        assert container.main is not None
        try:
            await asyncio.wait_for(container.main.ended.wait(), wanted.timeout_secs)
        except TimeoutError:
            await self.end(sandbox, Result.GENERIC_STATUS_TIMEOUT, 124)
            return
        code = container.main.child.returncode or 0
        await self.end(sandbox, FAILURE if code else SUCCESS, code if code >= 0 else 128 - code)

    def _write_mount(self, container: Container, mount: str) -> None:
        for file in self.store.mounts[mount]:
            target = container.place(file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            data = self.store.files[file.sha256]
            target.write_bytes(container.as_seen_inside(data.decode()).encode() if target.suffix == ".json" else data)
            target.chmod(file.mode & 0o777 or 0o644)

    async def end(self, sandbox: Sandbox, status: int, code: int) -> None:
        """Kills what is left and says how it ended; the first end counts."""
        sandbox.finish(Result(status=status, exitcode=code))  # type: ignore[arg-type]
        if sandbox.container is not None:
            await sandbox.container.kill()

    def of(self, sandbox_id: str) -> Sandbox:
        return _found(self.sandboxes.get(sandbox_id), f"sandbox {sandbox_id!r}")

    def of_task(self, task_id: str) -> Sandbox:
        return _found(next((s for s in self.sandboxes.values() if s.task_id == task_id), None), f"task {task_id!r}")

    async def SandboxGetTaskId(self, request: Any) -> Any:
        sandbox = self.of(request.sandbox_id)
        result = sandbox.result if not sandbox.task_id else None
        return api_pb2.SandboxGetTaskIdResponse(task_id=sandbox.task_id, task_result=result)

    async def SandboxWait(self, request: Any) -> Any:
        sandbox = self.of(request.sandbox_id)
        if request.timeout:
            await asyncio.wait({asyncio.ensure_future(sandbox.ended.wait())}, timeout=request.timeout)
        return api_pb2.SandboxWaitResponse(result=sandbox.result)

    async def SandboxTerminate(self, request: Any) -> Any:
        """Answers at once, as Modal does; only a wait for the end knows when its volumes are complete."""
        sandbox = self.of(request.sandbox_id)
        if self.faults.end_s:
            sandbox.tasks.append(asyncio.create_task(self._end_later(sandbox)))
        else:
            await self.end(sandbox, Result.GENERIC_STATUS_TERMINATED, KILLED)
        return api_pb2.SandboxTerminateResponse()

    async def _end_later(self, sandbox: Sandbox) -> None:
        await asyncio.sleep(self.faults.end_s)
        await self.end(sandbox, Result.GENERIC_STATUS_TERMINATED, KILLED)

    async def SandboxGetLogs(self, request: Any) -> AsyncIterator[Any]:
        """Text, resumable by an entry id, which here is the byte offset."""
        sandbox = self.of(request.sandbox_id)
        await sandbox.started.wait()
        container = sandbox.container
        if container is None or container.main is None:
            yield api_pb2.TaskLogsBatch(eof=True, entry_id="0")
            return
        main = container.main
        output = main.stdout if request.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDOUT else main.stderr
        offset = int(request.last_entry_id or 0)
        async for data in output.read(offset):
            offset += len(data)
            logs = [api_pb2.TaskLogs(data=data.decode(errors="replace"))]
            yield api_pb2.TaskLogsBatch(items=logs, entry_id=str(offset))
        yield api_pb2.TaskLogsBatch(eof=True, entry_id=str(offset))

    async def SandboxStdinWrite(self, request: Any) -> Any:
        main = await self.main_of(self.of(request.sandbox_id))
        await main.write(main.written, request.input, request.eof)
        return api_pb2.SandboxStdinWriteResponse()

    async def main_of(self, sandbox: Sandbox) -> Running:
        """The first process, once it is started."""
        await sandbox.started.wait()
        return _found(sandbox.container.main if sandbox.container else None, "the sandbox's process")

    async def SandboxGetFromName(self, request: Any) -> Any:
        return self._from_name(request, second=False)

    async def SandboxGetFromNameV2(self, request: Any) -> Any:
        return self._from_name(request, second=True)

    def _from_name(self, request: Any, *, second: bool) -> Any:
        app_id = self.store.named("ap", request.app_name, create=False)
        alike = [
            s
            for s in self.sandboxes.values()
            if s.app_id == app_id and s.name == request.sandbox_name and (len(s.id) > 25) == second
        ]
        alive = [s for s in alike if s.result is None or (request.include_terminated and second)]
        sandbox = _found(alive[-1] if alive else None, f"sandbox {request.sandbox_name!r}")
        return api_pb2.SandboxGetFromNameResponse(sandbox_id=sandbox.id)

    async def SandboxList(self, request: Any) -> Any:
        return self._list(request, second=False)

    async def SandboxListV2(self, request: Any) -> Any:
        return self._list(request, second=True)

    def _list(self, request: Any, *, second: bool) -> Any:
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags}
        found = [
            api_pb2.SandboxInfo(id=s.id, created_at=s.created_at, app_id=s.app_id, name=s.name)
            for s in self.sandboxes.values()
            if s.result is None
            and (second or len(s.id) <= 25)
            and (not request.app_id or s.app_id == request.app_id)
            and wanted.items() <= s.tags.items()
            and (not request.before_timestamp or s.created_at < request.before_timestamp)
        ]
        return api_pb2.SandboxListResponse(sandboxes=sorted(found, key=lambda s: -s.created_at))

    async def SandboxTagsGet(self, request: Any) -> Any:
        tags = self.of(request.sandbox_id).tags
        protos = [api_pb2.SandboxTag(tag_name=k, tag_value=v) for k, v in tags.items()]
        return api_pb2.SandboxTagsGetResponse(tags=protos)

    async def SandboxTagsSet(self, request: Any) -> Any:
        self.of(request.sandbox_id).tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        return Empty()

    async def TaskGetCommandRouterAccess(self, request: Any) -> Any:
        self.of_task(request.task_id)
        return api_pb2.TaskGetCommandRouterAccessResponse(jwt=token(), url=self.router_url())

    async def SandboxGetCommandRouterAccess(self, request: Any) -> Any:
        if request.sandbox_id:
            self.of(request.sandbox_id)
        return api_pb2.SandboxGetCommandRouterAccessResponse(jwt=token(), url=self.router_url())

    SandboxGetTaskIdV2 = SandboxGetTaskId
    SandboxWaitV2 = SandboxWait
    SandboxTerminateV2 = SandboxTerminate
    SandboxTagsGetV2 = SandboxTagsGet
    SandboxTagsSetV2 = SandboxTagsSet


def _set_in_containers(sandbox: Sandbox) -> dict[str, str]:
    """The variables that Modal sets in every container, beside its id."""
    wanted = sandbox.definition
    regions = list(wanted.scheduler_placement.regions)
    return {
        "MODAL_TASK_ID": sandbox.task_id,
        "MODAL_IMAGE_ID": wanted.image_id,
        "MODAL_CLOUD_PROVIDER": wanted.cloud_provider_str or "CLOUD_PROVIDER_EMULATED",
        "MODAL_REGION": regions[0] if regions else "here",
        "MODAL_FUNCTION_RUNTIME": wanted.runtime or "gvisor",
    }


def _entry(volume: Path, path: Path) -> Any:
    kind = api_pb2.FileEntry.FileType.DIRECTORY if path.is_dir() else api_pb2.FileEntry.FileType.FILE
    return api_pb2.FileEntry(path=str(path.relative_to(volume)), type=kind, size=path.stat().st_size)


def _found(value: T | None, what: str) -> T:
    if not value:
        raise GRPCError(Status.NOT_FOUND, f"{what} not found")
    return value

"""The emulator is what the client takes for Modal: these tests drive it by the client's public functions alone."""

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import modal
import pytest
from grpclib import Status

from pytest_megacpp.box.host import process
from tests.modal_emulator import Emulator

BOTH = pytest.mark.parametrize("gpu", ["H200:8", None], ids=["first-generation", "second-generation"])


@pytest.fixture
def app(emulator: Emulator) -> Any:
    return modal.App.lookup("suite", create_if_missing=True)


def image(**environment: str) -> Any:
    return modal.Image.debian_slim(python_version="3.11").env(environment)


def read(process_: Any) -> str:
    return b"".join(process_.stdout).decode()


@BOTH
def test_a_sandbox_runs_its_command_with_what_it_was_given(
    emulator: Emulator, app: Any, gpu: str | None, tmp_path: Path
) -> None:
    emulator.secret("pull", {"FROM_SECRET": "s"})
    (tmp_path / "hello.py").write_text("print('hello')")
    (tmp_path / "big").write_bytes(os.urandom(5 << 20))  # by way of the blob store
    there = f"{emulator.root}/source"
    sandbox = modal.Sandbox.create(
        *("sh", "-c", "echo $FROM_IMAGE $FROM_SECRET $FROM_ENV; python hello.py; wc -c < big; pwd"),
        app=app,
        image=image(FROM_IMAGE="i").add_local_dir(tmp_path, there),
        secrets=[modal.Secret.from_name("pull")],
        env={"FROM_ENV": "e"},
        workdir=there,
        gpu=gpu,
    )
    *said, where = sandbox.stdout.read().splitlines()
    assert said == ["i s e", "hello", str(5 << 20)]
    assert where.endswith(there)
    sandbox.wait()
    assert sandbox.returncode == 0
    assert emulator.control.sandboxes[sandbox.object_id].gpu == (gpu or "")


@BOTH
def test_exec_has_streams_of_its_own(emulator: Emulator, app: Any, gpu: str | None) -> None:
    sandbox = modal.Sandbox.create("sleep", "60", app=app, image=image(), gpu=gpu)
    child = sandbox.exec("sh", "-c", "read a; echo got $a; echo wrong >&2; exit 3", text=False)
    child.stdin.write(b"this\n")
    child.stdin.drain()
    assert (read(child), child.wait(), child.stderr.read()) == ("got this\n", 3, b"wrong\n")
    assert sandbox.terminate(wait=True) == 137


@BOTH
def test_lookups(emulator: Emulator, app: Any, gpu: str | None) -> None:
    tags = {"run": "r1"}
    made = modal.Sandbox.create("sleep", "60", app=app, image=image(), gpu=gpu, name="r1", tags=tags)
    assert modal.Sandbox.from_name("suite", "r1").object_id == made.object_id
    assert modal.Sandbox.from_id(made.object_id).poll() is None
    assert [s.object_id for s in modal.Sandbox.list(app_id=app.app_id, tags=tags)] == [made.object_id]
    assert made.get_tags() == tags
    with pytest.raises(modal.exception.AlreadyExistsError):
        modal.Sandbox.create("true", app=app, image=image(), gpu=gpu, name="r1")
    made.terminate(wait=True)
    with pytest.raises(modal.exception.NotFoundError):
        modal.Sandbox.from_name("suite", "r1")
    again = modal.Sandbox.create("true", app=app, image=image(), gpu=gpu, name="r1")
    again.wait()


@BOTH
def test_output_replays_after_the_end(emulator: Emulator, app: Any, gpu: str | None) -> None:
    made = modal.Sandbox.create("echo", "still here", app=app, image=image(), gpu=gpu)
    made.wait()
    assert modal.Sandbox.from_id(made.object_id).stdout.read() == "still here\n"


def test_every_process_of_a_killed_sandbox_is_gone(emulator: Emulator, app: Any) -> None:
    hidden = f"sleep 300; : {emulator.root}"
    script = f"setsid sh -c '{hidden}' & sleep 300"
    made = modal.Sandbox.create("sh", "-c", script, app=app, image=image(), gpu="H200:8")
    made.exec("sleep", "300")
    sandbox = emulator.control.sandboxes[made.object_id]
    assert sandbox.container is not None
    while len(sandbox.container.processes()) < 3:
        time.sleep(0.02)
    emulator.kill(sandbox)
    assert sandbox.container.processes() == []
    made.wait()
    assert made.returncode == 137


def test_a_time_limit_of_its_own(emulator: Emulator, app: Any) -> None:
    made = modal.Sandbox.create("sleep", "60", app=app, image=image(), gpu="H200:8", timeout=1)
    with pytest.raises(modal.exception.SandboxTimeoutError):
        made.wait()


def test_a_volume_outlives_its_sandbox(emulator: Emulator, app: Any) -> None:
    volume = modal.Volume.from_name("outlives", create_if_missing=True)
    script = f"mkdir -p {emulator.root}/kept/r1 && echo data > {emulator.root}/kept/r1/file"
    mounted: dict[Any, Any] = {f"{emulator.root}/kept": volume}
    modal.Sandbox.create("sh", "-c", script, app=app, image=image(), volumes=mounted).wait()
    assert b"".join(volume.read_file("r1/file")) == b"data\n"
    assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["r1", "r1/file"]


def test_a_built_image_is_not_built_again(emulator: Emulator, app: Any) -> None:
    image().build(app)
    emulator.calls.clear()
    for _ in range(2):
        image(ONLY="here").build(app)
    assert emulator.calls["ImageJoinStreaming"] == 1


def test_a_failing_build(emulator: Emulator, app: Any) -> None:
    emulator.faults.build_fails = True
    with pytest.raises(modal.exception.ImageBuildError):
        image(BROKEN="1").build(app)


def test_no_capacity(emulator: Emulator, app: Any) -> None:
    """The client waits for 21 minutes; who doesn't want to finds the sandbox by its name."""
    emulator.faults.capacity = False

    def create() -> None:
        with pytest.raises(modal.exception.ConflictError):
            modal.Sandbox.create("sleep", "60", app=app, image=image(), gpu="H200:8", name="late")

    waiting = threading.Thread(target=create)
    waiting.start()
    while not emulator.sandboxes:
        time.sleep(0.02)
    modal.Sandbox.from_name("suite", "late").terminate()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_connection_that_is_cut_and_back(emulator: Emulator, app: Any) -> None:
    made = modal.Sandbox.create("sleep", "60", app=app, image=image(), gpu="H200:8")
    child = made.exec("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done", text=False)
    got = iter(child.stdout)
    first = next(got)
    emulator.cut()
    threading.Timer(0.5, emulator.repair).start()
    assert (first + b"".join(got)).split() == [b"%d" % n for n in range(1, 9)]


def test_bad_credentials(emulator: Emulator) -> None:
    emulator.faults.reject_credentials = True
    with pytest.raises(modal.exception.AuthError):
        modal.Client.from_env().hello()


def test_a_status_for_the_next_call(emulator: Emulator, app: Any) -> None:
    emulator.faults.statuses["SandboxCreate"] = [(Status.RESOURCE_EXHAUSTED, "the workspace's limit is 4 GPUs")]
    with pytest.raises(modal.exception.ResourceExhaustedError, match="4 GPUs"):
        modal.Sandbox.create("true", app=app, image=image(), gpu="H200:8")


def test_what_it_does_not_know_it_names(emulator: Emulator) -> None:
    with pytest.raises(modal.exception.UnimplementedError, match="QueueGetOrCreate"):
        modal.Queue.from_name("no-such-queue").hydrate()


def test_everything_listens_on_loopback_only(emulator: Emulator) -> None:
    """By the kernel's own table of this process's listening sockets."""
    own = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_socket(fd)}
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]
    loopback = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}"
    assert set(listening) == {loopback}


def _is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


def test_nothing_is_left_of_an_emulator() -> None:
    with Emulator() as own:
        directory = own._directory
        assert directory.is_dir()
    assert not directory.exists()
    assert not [p for p in process.descendants(os.getpid()) if "unshare" in Path(f"/proc/{p.pid}/comm").read_text()]

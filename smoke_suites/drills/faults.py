"""Ways for a rank to go wrong, and for its peers to wait for it. Which verdict follows is not known here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.fx import GraphModule

    from pytest_megacpp.rank.lane import Lane

LONG_S = 600
"""Longer than any limit of a drill; nothing ever waits it out."""

HOLD_LOCKS = """
import fcntl, sys, time
files = [open(path, "w") for path in sys.argv[2:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(float(sys.argv[1]))
"""

LAYERS_TO_COMPILE = {"cpu": 20, "cuda": 80}
"""Several seconds of cold compile: on a CPU a layer takes 0.2 to 0.5 s, mostly in the C++ compiler."""


def line_up(lane: Lane) -> None:
    """Bring every rank to this line, so that a fault meets peers that are past their set-up."""
    wait_for_everyone(lane)


def wait_for_everyone(lane: Lane) -> None:
    """An all_reduce whose result is read, for on CUDA a rank only waits where it reads."""
    assert reduce_elements(lane, 8).tolist() == [lane.ranks] * 8


def wait_for(lane: Lane, group: ProcessGroup) -> None:
    """The same among the members of a group."""
    reduce_elements(lane, 8, group=group)


def world_and_rank() -> tuple[int, int]:
    """What torchrun's environment says; zeros at the desk, which has none."""
    return int(os.environ.get("WORLD_SIZE", "0")), int(os.environ.get("RANK", "0"))


def join_a_world_of_two() -> None:
    """Ranks 0 and 1, 2 and 3 … have default groups of their own, whose members don't wait for each other's store."""
    import torch.distributed as dist

    _, rank = world_and_rank()
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    mine = dist.PrefixStore(f"world-{rank // 2}", store)
    dist.init_process_group("gloo", store=mine, rank=rank % 2, world_size=2)


def let_peers_wait() -> None:
    """Give the peers time to enter their collective before this rank fails."""
    time.sleep(0.5)


def kill_self(number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(LONG_S)  # the kernel delivers a signal when it likes


def abort_natively() -> None:
    """What a failed assertion of a C++ library does."""
    ctypes.CDLL(None).abort()


def run_out_of_device_memory() -> NoReturn:
    """What torch raises when the device is full, in its own words."""
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which "
        "4.12 GiB is free. Including non-PyTorch memory, this process has 135.68 GiB memory in use."
    )


def fail_in_backward(lane: Lane) -> None:
    """A gradient hook that raises, deep inside autograd's engine."""
    import torch

    def broken_hook(gradient: Tensor) -> Tensor:
        raise FloatingPointError(f"gradient of {len(gradient)} elements is not finite, on purpose")

    weights = torch.ones(8, device=lane.device, requires_grad=True)
    weights.register_hook(broken_hook)
    weights.square().sum().backward()


class BrokenShards:
    """A data set in which the reader process meets a bad sample, or is killed by it."""

    def __init__(self, *, kills: bool = False) -> None:
        self.kills = kills

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 3 and self.kills:
            kill_self()
        if index == 3:
            raise ValueError("sample 3 can't be decoded, on purpose")
        return index


def read_everything(shards: object, workers: int = 1) -> list[int]:
    """All samples of a data set, in order, read by so many processes."""
    from torch.utils.data import DataLoader

    return [int(sample) for batch in DataLoader(shards, batch_size=2, num_workers=workers) for sample in batch]  # type: ignore[arg-type]


def shorten_patience(seconds: float) -> None:
    """A time-out of the default group that is shorter than any limit, as some users set it."""
    from datetime import timedelta

    from torch.distributed import distributed_c10d as c10d

    c10d._set_pg_timeout(timedelta(seconds=seconds), c10d._get_default_group())


CGROUPS = Path("/sys/fs/cgroup")
LITTLE_MEMORY_BYTES = 64 << 20  # beyond what the rank has already: memory stays charged where it was first used


def _confinement() -> tuple[Path, str] | None:
    """Where a group with little memory can be made, and the file that limits it: cgroup v1, v2 or nowhere."""
    v1, v2 = CGROUPS / "memory", CGROUPS / "cgroup.subtree_control"
    if os.geteuid() != 0:
        return None
    if (v1 / "memory.limit_in_bytes").exists():
        return v1, "memory.limit_in_bytes"
    return (CGROUPS, "memory.max") if v2.exists() and "memory" in v2.read_text().split() else None


def can_confine_memory() -> bool:
    return _confinement() is not None


def run_out_of_host_memory() -> None:
    """Use more than the kernel allows, in a group of its own that goes when this process has gone."""
    place = _confinement()
    assert place is not None
    group = place[0] / f"drill-{os.getpid()}"
    group.mkdir()
    remove = f"while [ -d /proc/{os.getpid()} ]; do sleep 0.01; done; until rmdir {group}; do sleep 0.01; done"
    subprocess.Popen(["sh", "-c", remove], stderr=subprocess.DEVNULL)
    (group / place[1]).write_text(str(LITTLE_MEMORY_BYTES))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    kept = [b"x" * (1 << 20) for _ in range(2 * (LITTLE_MEMORY_BYTES >> 20))]
    raise AssertionError(f"{len(kept)} MiB were to be had")


class Unspeakable(Exception):
    """An exception that can't be turned into text."""

    def __str__(self) -> str:
        raise SystemExit("there are no words for it, on purpose")


def wait_for_a_result_of_a_broken_thread() -> None:
    """A loader thread dies, and the queue stays empty."""
    results: queue.Queue[int] = queue.Queue()

    def load() -> None:
        raise ValueError("the loader thread can't read its shard, on purpose")

    threading.Thread(target=load, name="loader").start()
    results.get()


def terminate_natively() -> None:
    """What a C++ exception does that nobody catches."""
    ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev()


def read_null_pointer() -> None:
    ctypes.string_at(0)


def freeze() -> None:
    """Stop the whole process as a debugger would: no thread of it answers any more."""
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_with_the_gil(seconds: int = LONG_S) -> None:
    """Block in native code that keeps the interpreter lock: no other Python thread of this rank runs."""
    ctypes.PyDLL(None).sleep(seconds)


def spin(seconds: int = LONG_S) -> None:
    """Compute without communicating, always making progress."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def match_a_hostile_pattern() -> None:
    """Backtracking that outlasts the universe: native code that computes and keeps the GIL."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def take_a_lock_twice() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def read_an_empty_pipe() -> None:
    reading, _writing = os.pipe()
    os.read(reading, 1)


def wait_for_a_file_lock(directory: Path) -> None:
    """Somebody else has it and doesn't let go."""
    path = directory / "shared.lock"
    with path.open("w") as theirs, path.open("w") as ours:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        fcntl.flock(ours, fcntl.LOCK_EX)


def wait_for_a_child() -> None:
    """A tool that doesn't come back."""
    subprocess.run(["sleep", str(LONG_S)], check=True)


def wait_for_a_tool_in_a_session_of_its_own(seconds: int) -> None:
    code = f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True, start_new_session=True)


def wait_for_a_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(LONG_S,), daemon=True)
    thread.start()
    thread.join()


def wait_for_a_loader() -> None:
    """A worker of a DataLoader that doesn't get its sample."""

    class LostShard(list[int]):
        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            time.sleep(LONG_S)
            return index

    read_everything(LostShard(range(8)))


def run_an_event_loop() -> None:
    asyncio.run(asyncio.sleep(LONG_S))


def sleep_deep_down(depth: int = 150) -> None:
    """Below more frames than a dump shows."""
    if depth:
        sleep_deep_down(depth - 1)
    else:
        time.sleep(LONG_S)


def fail_to_serve() -> None:
    """Ask a server that took the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.recv(1)


def sleep_in_backward() -> None:
    """A gradient hook that doesn't return, on a stack that autograd's engine began."""
    import torch

    weights = torch.ones(8, requires_grad=True)
    weights.register_hook(lambda gradient: time.sleep(LONG_S))
    weights.square().sum().backward()


def receive_only(lane: Lane, source: int | None = None) -> None:
    """Wait for a rank that sends nothing; by default the one before in the ring, which waits likewise."""
    import torch
    import torch.distributed as dist

    mailbox = torch.zeros(1, device=lane.device)
    dist.recv(mailbox, src=(lane.rank - 1) % lane.ranks if source is None else source)
    mailbox.tolist()


def reduce_elements(lane: Lane, elements: int, dtype: str = "float32", group: ProcessGroup | None = None) -> Tensor:
    """An all_reduce of so many ones, read back; peers that reduce another size or dtype disagree with it."""
    import torch
    import torch.distributed as dist

    values = torch.ones(elements, dtype=getattr(torch, dtype), device=lane.device)
    dist.all_reduce(values, group=group)
    return values.cpu()


def broadcast_from(lane: Lane, source: int) -> None:
    import torch
    import torch.distributed as dist

    values = torch.ones(8, device=lane.device)
    dist.broadcast(values, src=source)
    values.tolist()


def new_salt() -> float:
    """A number that no compile cache has seen."""
    return uuid.uuid4().int % 10**9 / 10**9


def compile_and_run(lane: Lane, *, times: int = 1, salt: float = 0.0) -> None:
    """Compile a long function: seconds when cold, next to nothing when warm.

    ``times`` makes it longer; ``salt`` is a constant of the graph, so a new one makes every cache miss.
    """
    import torch
    import torch.nn.functional as F

    depth = times * LAYERS_TO_COMPILE[lane.device.type]

    def layers(hidden: Tensor) -> Tensor:
        for layer in range(1, depth + 1):
            normed = F.layer_norm(hidden, hidden.shape[-1:])
            hidden = F.gelu(normed + salt).roll(layer, 0) + torch.tanh(hidden)
        return hidden

    torch.compile(layers)(torch.ones(64, 64, device=lane.device))


def compile_with_a_cold_cache(lane: Lane) -> None:
    """The same as if this rank had come without the seed: with an empty Inductor cache directory."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        compile_and_run(lane)


def forget_compiled_code() -> None:
    """Make the next call of a compiled function compile anew, from whatever cache there is on disk."""
    import torch

    torch.compiler.reset()


Backend: TypeAlias = "Callable[[GraphModule, list[Tensor]], Callable[..., object]]"


def backend_that(delays: Callable[[], None]) -> Backend:
    """A compiler for which a graph takes as long as the function does; then it runs as it is."""

    def compile_graph(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        delays()
        return graph.forward

    return compile_graph


def compile_with(backend: Backend, lane: Lane, elements: int = 8) -> None:
    """The first forward of a small function."""
    import torch

    torch.compile(torch.sin, backend=backend, dynamic=False)(torch.ones(elements, device=lane.device))


def forward_with_a_late_backward(lane: Lane, delays: Callable[[], None]) -> Tensor:
    """The loss of a compiled function; its backward is compiled when it is first needed."""
    import torch
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    def forward_compiler(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        return make_boxed_func(graph.forward)  # type: ignore[no-any-return]

    def backward_compiler(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        delays()
        return make_boxed_func(graph.forward)  # type: ignore[no-any-return]

    backend = aot_autograd(fw_compiler=forward_compiler, bw_compiler=backward_compiler)
    weights = torch.ones(8, device=lane.device, requires_grad=True)
    return torch.compile(lambda w: w.sin().sum(), backend=backend)(weights)  # type: ignore[no-any-return]


def wait_for_a_lost_result() -> None:
    """As when the worker of a compiler's pool died without a word."""
    Future[None]().result()


def compile_one_after_the_other(lane: Lane, delays: Callable[[], None], graphs: int) -> None:
    """Many small compiles: none of them takes long."""
    for elements in range(1, graphs + 1):
        forget_compiled_code()
        compile_with(backend_that(delays), lane, elements)


def give_up_on_the_graph() -> None:
    raise NotImplementedError("no kernel for this graph, on purpose")


def compile_on_the_host() -> None:
    """A small function through Inductor's C++ compiler; a new one each time."""
    import torch

    salt = new_salt()
    torch.compile(lambda hidden: torch.tanh(hidden) + salt)(torch.ones(64))


@contextlib.contextmanager
def cpp_compiler(directory: Path, command: str) -> Iterator[None]:
    """In place of the C++ compiler a script that knows its version and then runs ``command``."""
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    script = directory / "c++"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\n{command}\n')
    script.chmod(0o755)
    with fresh_cache(), config.patch({"cpp.cxx": (str(script),)}):
        yield


def wait_for_a_lock_of_inductor(seconds: float = LONG_S) -> None:
    """Compile what another process is compiling, by its lock, and takes so long for."""
    import torch
    from torch._inductor.codecache import get_lock_dir
    from torch._inductor.utils import fresh_cache

    function = torch.compile(lambda hidden: torch.tanh(hidden) + 0.25)
    with fresh_cache():
        function(torch.ones(64))
        names = [path.name for path in Path(get_lock_dir()).iterdir()]
    forget_compiled_code()
    with fresh_cache(), somebody_holding([Path(get_lock_dir()) / name for name in names], seconds):
        function(torch.ones(64))


@contextlib.contextmanager
def somebody_holding(locks: Iterable[Path], seconds: float) -> Iterator[None]:
    """Another process that has these file locks."""
    command = [sys.executable, "-c", HOLD_LOCKS, str(seconds), *map(str, locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.kill()

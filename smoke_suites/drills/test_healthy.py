"""Unusual, but nothing is wrong: every test here passes. `stall` is shorter than most of what they do."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane

pytestmark = pytest.mark.h200x8(stall=2, skew=20, test=60)


# Nobody waits for anybody.


@pytest.mark.h200x8(ranks=2)
def test_everybody_computes_for_long(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.spin(6)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_waiting_for_a_child_is_waiting_for_no_peer() -> None:
    """`os.wait()` has no frame of its own; nobody communicates here."""
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    assert os.wait()[1] == 0


@pytest.mark.h200x8(ranks=4)
def test_two_worlds_in_one_launch() -> None:
    """Trainers and inference workers: group names and numbers are the same, and what they issue isn't."""
    import torch
    import torch.distributed as dist

    _, rank = faults.world_and_rank()
    faults.join_a_world_of_two()
    for size in (4, 8) if rank < 2 else (3, 5, 7):
        if rank < 2:
            dist.all_reduce(torch.ones(size))
        else:
            dist.broadcast(torch.ones(size), 0)
    dist.destroy_process_group()


@pytest.mark.h200x8(ranks=4, stall=3)
@pytest.mark.parametrize("away", [time.sleep, faults.spin])
def test_a_world_of_two_that_one_comes_late_to(away: Callable[[int], object]) -> None:
    """The other pair has long begun, and takes longer than a rank may be waited for."""
    import torch
    import torch.distributed as dist

    _, rank = faults.world_and_rank()
    if rank == 3:
        away(2)
    faults.join_a_world_of_two()
    if rank < 2:
        away(5)
    dist.all_reduce(torch.ones(4))
    dist.destroy_process_group()


@pytest.mark.h200x8(ranks=4, stall=2)
@pytest.mark.parametrize("away", [time.sleep, faults.spin])
def test_ranks_that_make_no_group(away: Callable[[int], object]) -> None:
    away(4 if faults.world_and_rank()[1] == 2 else 3)


@pytest.mark.h200x8(ranks=4)
def test_a_world_of_one_in_every_process() -> None:
    import torch
    import torch.distributed as dist

    _, rank = faults.world_and_rank()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.all_reduce(torch.ones(rank + 1))
    dist.destroy_process_group()


@pytest.mark.h200x8(ranks=4)
def test_everybody_is_slow_alike(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    time.sleep(3)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4)
def test_one_rank_computes_when_all_communication_is_done(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.spin(3)


@pytest.mark.h200x8(ranks=4)
def test_a_pair_goes_on_when_the_others_have_left(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    group = dist.new_group([0, 1])
    faults.line_up(modal_h200x8)
    for _ in range(3 if modal_h200x8.rank < 2 else 0):
        time.sleep(1)
        faults.wait_for(modal_h200x8, group)


@pytest.mark.h200x8(ranks=2)
def test_import_is_slow(modal_h200x8: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.line_up(modal_h200x8)
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("slow_to_import")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_everybody_compiles_for_longer_than_a_stall(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.compile_with(faults.backend_that(lambda: faults.spin(4)), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


# Waits below their limits.


@pytest.mark.h200x8
def test_long_healthy_waits(modal_h200x8: Lane) -> None:
    for _ in range(3):
        if modal_h200x8.rank == 3:
            time.sleep(1.2)
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_waiting_for_a_compiling_rank(modal_h200x8: Lane) -> None:
    """Longer than ``stall``, far below ``skew``."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_with(faults.backend_that(lambda: faults.spin(4)), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
@pytest.mark.parametrize(
    "compiler",
    [lambda: time.sleep(5), lambda: faults.wait_for_a_tool_in_a_session_of_its_own(5)],
    ids=["sleeps", "works elsewhere"],
)
def test_waiting_for_a_rank_whose_compiler_is_idle_itself(modal_h200x8: Lane, compiler: Callable[[], None]) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.compile_with(faults.backend_that(compiler), modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4)
def test_the_last_to_come_sleeps_when_the_others_have_left(modal_h200x8: Lane) -> None:
    """It was seen waiting a moment before; now nobody waits for anybody."""
    for _ in range(3):
        time.sleep(0.4 if modal_h200x8.rank else 0.8)
        faults.wait_for_everyone(modal_h200x8)
    if modal_h200x8.rank == 1:
        time.sleep(3)


@pytest.mark.h200x8(ranks=2, skew=120, test=240)
def test_waiting_for_a_rank_that_waits_for_a_lock_of_inductor(modal_h200x8: Lane) -> None:
    """Two cold compiles with the lock between them: half a minute where every processor is taken twice over."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.wait_for_a_lock_of_inductor(seconds=4)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=4)
def test_messages_come_late(modal_h200x8: Lane) -> None:
    """A pipeline in which every stage waits for the one before."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    batch = torch.zeros(4, device=lane.device)
    for _ in range(2):
        if lane.rank > 0:
            dist.recv(batch, src=lane.rank - 1)
        time.sleep(0.4)
        if lane.rank < lane.ranks - 1:
            dist.send(batch + 1, dst=lane.rank + 1)
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=2)
def test_one_message_after_the_other(modal_h200x8: Lane) -> None:
    """Each is waited for less than ``stall``, all together longer, and rank 1 hardly computes in between."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    batch = torch.zeros(4, device=lane.device)
    for _ in range(4):
        if lane.rank == 0:
            time.sleep(1.4)
            dist.send(batch, dst=1)
        else:
            dist.recv(batch, src=0)
            batch.tolist()


@pytest.mark.h200x8(ranks=2)
@pytest.mark.parametrize("busy", [lambda: faults.spin(3), lambda: time.sleep(3)], ids=["computes", "sleeps"])
def test_collective_overlapped_by_long_work(modal_h200x8: Lane, busy: Callable[[], None]) -> None:
    """Rank 0 has asked for the sum and does something else meanwhile: it doesn't wait for rank 1."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    faults.line_up(lane)
    values = torch.ones(8, device=lane.device)
    if lane.rank == 1:
        busy()
    work = dist.all_reduce(values, async_op=True)
    if lane.rank == 0:
        busy()
    work.wait()
    assert values.tolist() == [2.0] * 8


# Many and various collectives.


@pytest.mark.h200x8(ranks=2)
def test_thousands_of_collectives(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    values = torch.ones(8, device=modal_h200x8.device)
    for _ in range(4000):
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    assert values.tolist() == [1.0] * 8


@pytest.mark.h200x8
@pytest.mark.parametrize("repetition", range(5))
def test_sub_second(modal_h200x8: Lane, repetition: int) -> None:
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4)
def test_ranks_differ_where_they_may(modal_h200x8: Lane) -> None:
    """Roots give and take what others don't, objects and uneven shards have other sizes on each rank."""
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    mine = torch.full((2,), float(lane.rank), device=lane.device)
    gathered = [torch.zeros(2, device=lane.device) for _ in range(lane.ranks)] if lane.rank == 1 else None
    dist.gather(mine, gathered, dst=1)
    shards = [torch.ones(3, device=lane.device)] * lane.ranks if lane.rank == 2 else None
    dist.scatter(torch.zeros(3, device=lane.device), shards, src=2)
    objects: list[object] = [None] * lane.ranks
    dist.all_gather_object(objects, "x" * lane.rank)
    assert objects == ["x" * r for r in range(lane.ranks)]
    box: list[object] = [list(range(100 if lane.rank == 0 else 0))]
    dist.broadcast_object_list(box, src=0)
    rows = torch.ones(sum(lane.rank + r for r in range(lane.ranks)), device=lane.device)
    taken = torch.zeros_like(rows)
    splits = [lane.rank + r for r in range(lane.ranks)]
    dist.all_to_all_single(taken, rows, splits, splits)
    assert taken.tolist() == rows.tolist()


@pytest.mark.h200x8(ranks=4)
def test_groups_do_different_things(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    mesh = lane.mesh((2, 2), ("data", "model"))
    rows, columns = mesh.get_group("data"), mesh.get_group("model")
    for step in range(20):
        size = 8 if lane.rank < 2 else 12
        dist.all_reduce(torch.ones(size + step, device=lane.device), group=columns)
        if lane.rank % 2:
            dist.broadcast(torch.ones(step + 1, device=lane.device), group=rows, group_src=0)
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=2)
def test_collectives_in_a_background_thread(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)

    def reduce_slowly() -> None:
        for _ in range(6):
            time.sleep(0.5)
            faults.wait_for_everyone(modal_h200x8)

    thread = threading.Thread(target=reduce_slowly)
    thread.start()
    thread.join()


# Process groups of the test's own.


@pytest.mark.h200x8(ranks=4)
def test_own_process_group_twice() -> None:
    """Destroyed and made again, with other collectives under the same numbers."""
    import torch
    import torch.distributed as dist

    world, rank = faults.world_and_rank()
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, world, is_master=False)
    dist.init_process_group("gloo", store=dist.PrefixStore("once", store), rank=rank, world_size=world)
    for _ in range(3):
        dist.all_reduce(torch.ones(8))
    dist.destroy_process_group()
    time.sleep(0.1 * rank)
    dist.init_process_group("gloo", store=dist.PrefixStore("twice", store), rank=rank, world_size=world)
    for _ in range(4):
        dist.broadcast(torch.ones(5, dtype=torch.int64), src=1)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.h200x8(ranks=4)
def test_own_process_group_is_left_to_the_interpreter() -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(8))


@pytest.mark.h200x8(ranks=4)
def test_own_process_group_after_one_that_was_left() -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        dist.all_reduce(torch.ones(3))
    finally:
        dist.destroy_process_group()


# Processes, threads and streams of the test's own.


def child_of_a_rank() -> None:
    sum(range(1_000_000))


@pytest.mark.h200x8(ranks=2)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children_are_started(modal_h200x8: Lane, method: str) -> None:
    context = multiprocessing.get_context(method)
    children = [context.Process(target=child_of_a_rank) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_child_dies_and_the_rank_does_not_mind(modal_h200x8: Lane) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=False)
    assert child.returncode == -9
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_child_is_left_behind(modal_h200x8: Lane) -> None:
    subprocess.Popen(["sleep", str(faults.LONG_S)])
    threading.Thread(target=time.sleep, args=(faults.LONG_S,), daemon=True).start()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_loader_with_workers(modal_h200x8: Lane) -> None:
    class LocalShards(list[int]):
        """Not to be pickled, as under torchrun nothing needs to be."""

    assert faults.read_everything(LocalShards(range(20)), workers=2) == list(range(20))
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4)
def test_only_rank_zero_prints(modal_h200x8: Lane) -> None:
    if modal_h200x8.rank == 0:
        for line in range(20_000):
            print(f"step {line}: loss {1 / (line + 1):.6f}")
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2)
def test_machine_is_busy(modal_h200x8: Lane) -> None:
    """Four times as many computing processes as there are processors."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        until_s = time.monotonic() + 3
        more = True
        while more:
            faults.wait_for_everyone(modal_h200x8)
            more = _agreed(modal_h200x8, time.monotonic() < until_s)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _agreed(lane: Lane, more: bool) -> bool:
    """What rank 0 says."""
    import torch
    import torch.distributed as dist

    said = torch.tensor([int(more)], device=lane.device)
    dist.broadcast(said, src=0)
    return bool(said.item())


@pytest.mark.h200x8(ranks=2)
def test_native_code_holds_the_gil_for_a_moment(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.sleep_with_the_gil(1)
    faults.wait_for_everyone(modal_h200x8)

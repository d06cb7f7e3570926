"""Ranks wait for a peer that lives and doesn't come, or for nobody at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import faults

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane


# A rank is elsewhere.


@pytest.mark.h200x8(stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_sleep_before_a_collective(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        time.sleep(faults.LONG_S)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2])
def test_endless_loop(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.spin()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0])
@pytest.mark.parametrize(
    "block",
    [
        faults.take_a_lock_twice,
        faults.read_an_empty_pipe,
        faults.wait_for_a_child,
        faults.wait_for_a_thread,
        faults.wait_for_a_loader,
        faults.run_an_event_loop,
        faults.sleep_deep_down,
        faults.fail_to_serve,
        faults.sleep_in_backward,
    ],
    ids=["lock", "pipe", "child", "thread", "loader", "event loop", "deep stack", "server", "backward"],
)
def test_blocked_elsewhere(modal_h200x8: Lane, block: Callable[[], None]) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        block()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_file_lock_of_the_test(modal_h200x8: Lane, tmp_path: Path) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 3:
        faults.wait_for_a_file_lock(tmp_path)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0, 2])
def test_two_ranks_are_elsewhere(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.spin()
    if modal_h200x8.rank == 2:
        time.sleep(faults.LONG_S)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3], cause="frozen")
def test_frozen_process(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 3:
        faults.freeze()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0], cause="gil-held")
def test_native_code_keeps_the_gil(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.sleep_with_the_gil()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1], cause="gil-held")
def test_native_code_computes_with_the_gil(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.match_a_hostile_pattern()
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def endless_set_up_on_rank_1(modal_h200x8: Lane) -> Lane:
    if modal_h200x8.rank == 1:
        faults.spin()
    return modal_h200x8


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_set_up_does_not_end(endless_set_up_on_rank_1: Lane) -> None:
    faults.wait_for_everyone(endless_set_up_on_rank_1)


@pytest.fixture
def slow_before_the_group_on_rank_3() -> None:
    if faults.world_and_rank()[1] == 3:
        time.sleep(faults.LONG_S)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_does_not_come_to_the_rendezvous(slow_before_the_group_on_rank_3: None, modal_h200x8: Lane) -> None:
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
@pytest.mark.parametrize("pair", ["computes", "has left"])
def test_does_not_come_to_a_world_of_two(pair: str) -> None:
    """Its peer is through with the store, and waits in the making of the group."""
    _, rank = faults.world_and_rank()
    if rank == 3:
        time.sleep(faults.LONG_S)
    faults.join_a_world_of_two()
    if pair == "computes":
        faults.spin(30)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_others_give_up_waiting(modal_h200x8: Lane) -> None:
    """Their own time-out is the shorter one, and then nobody waits any more."""
    faults.line_up(modal_h200x8)
    faults.shorten_patience(1)
    if modal_h200x8.rank == 1:
        faults.spin()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_comes_when_the_others_have_given_up(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.shorten_patience(1)
    if modal_h200x8.rank == 3:
        time.sleep(1.7)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0], cause="left-early")
def test_a_key_that_nobody_sets(modal_h200x8: Lane) -> None:
    from torch.distributed.distributed_c10d import _get_default_store

    faults.line_up(modal_h200x8)
    if modal_h200x8.rank != 0:
        _get_default_store().get("checkpoint-is-complete")


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1], cause="left-early")
def test_a_rank_does_not_shut_rpc_down(modal_h200x8: Lane) -> None:
    from torch.distributed import rpc

    rpc.init_rpc(f"worker{modal_h200x8.rank}", rank=modal_h200x8.rank, world_size=modal_h200x8.ranks)
    if modal_h200x8.rank == 0:
        rpc.shutdown()


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0], cause="left-early")
def test_pipeline_stages_disagree(modal_h200x8: Lane) -> None:
    """The last stage expects more microbatches than the first one sends."""
    import torch
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    lane = modal_h200x8
    stage = PipelineStage(torch.nn.Linear(8, 8).to(lane.device), lane.rank, lane.ranks, torch.device(lane.device))
    pipe = ScheduleGPipe(stage, n_microbatches=2 if lane.rank == 0 else 4)
    with torch.no_grad():
        pipe.step(*([torch.randn(8, 8, device=lane.device)] if lane.rank == 0 else []))


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2])
def test_monitored_barrier_without_a_rank(modal_h200x8: Lane) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    group = dist.new_group(backend="gloo")
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        time.sleep(faults.LONG_S)
    dist.monitored_barrier(group, timeout=timedelta(seconds=1))


@pytest.mark.h200x8(stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[4, 6])
def test_two_of_four_pairs_lack_a_rank(modal_h200x8: Lane) -> None:
    """Each for a reason of its own, in groups of their own; the other pairs are well and wait for all."""
    import torch.distributed as dist

    lane = modal_h200x8
    pairs = [dist.new_group([first, first + 1]) for first in range(0, lane.ranks, 2)]
    faults.line_up(lane)
    if lane.rank == 4:
        time.sleep(faults.LONG_S)
    if lane.rank == 6:
        faults.spin()
    faults.wait_for(lane, pairs[lane.rank // 2])
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2])
def test_one_of_a_mesh_of_two_by_two(modal_h200x8: Lane) -> None:
    """Its row lacks it, and its column lacks its row."""
    lane = modal_h200x8
    mesh = lane.mesh((2, 2), ("data", "model"))
    for step in range(4):
        if (lane.rank, step) == (2, 2):
            time.sleep(faults.LONG_S)
        faults.wait_for(lane, mesh.get_group("model"))
        faults.wait_for(lane, mesh.get_group("data"))


@pytest.mark.h200x8(ranks=2, stall=3, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_stuck_between_forward_and_backward_of_a_sharded_model(modal_h200x8: Lane) -> None:
    import torch
    from torch.distributed.fsdp import fully_shard

    lane = modal_h200x8
    model = torch.nn.Linear(16, 16, device=lane.device)
    fully_shard(model, mesh=lane.mesh((lane.ranks,), ("data",)))
    for step in range(3):
        loss = model(torch.ones(4, 16, device=lane.device)).sum()
        if (lane.rank, step) == (1, 1):
            faults.take_a_lock_twice()
        loss.backward()


# A rank left.


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2], cause="left-early")
def test_one_rank_returns_early(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        return
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[7], cause="left-early")
def test_one_loader_is_shorter(modal_h200x8: Lane) -> None:
    for _ in range(9 if modal_h200x8.rank == 7 else 10):
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0, 2, 3], cause="left-early")
def test_one_loader_is_longer(modal_h200x8: Lane) -> None:
    """Rank 1 waits, the others are missing: who of them is right only the data can tell."""
    for _ in range(6 if modal_h200x8.rank == 1 else 5):
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1], cause="left-early")
def test_only_rank_zero_reduces_its_metrics(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0], cause="left-early")
def test_nobody_sends_what_rank_1_receives(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.receive_only(modal_h200x8, source=0)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2], cause="left-early")
def test_subgroup_with_a_member_too_few(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    faults.line_up(modal_h200x8)
    group = dist.new_group([0, 1, 2])
    if modal_h200x8.rank in (0, 1):
        faults.wait_for(modal_h200x8, group)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1], cause="left-early")
def test_process_group_is_destroyed_on_one_rank(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 1:
        faults.let_peers_wait()
        dist.destroy_process_group()
        return
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=5)
@pytest.mark.expect_verdict("straggler", ranks=[0])
def test_process_group_is_destroyed_and_the_rank_goes_on(modal_h200x8: Lane) -> None:
    import torch.distributed as dist

    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.let_peers_wait()
        dist.destroy_process_group()
        faults.spin()
    faults.wait_for_everyone(modal_h200x8)


@pytest.fixture
def barrier_in_teardown_of_rank_0(modal_h200x8: Lane) -> Iterator[Lane]:
    yield modal_h200x8
    if modal_h200x8.rank == 0:
        faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1], cause="left-early")
def test_teardown_waits_for_who_has_left(barrier_in_teardown_of_rank_0: Lane) -> None:
    faults.line_up(barrier_in_teardown_of_rank_0)


@pytest.fixture
def endless_teardown_on_rank_3(modal_h200x8: Lane) -> Iterator[Lane]:
    yield modal_h200x8
    if modal_h200x8.rank == 3:
        faults.take_a_lock_twice()
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_teardown_does_not_end(endless_teardown_on_rank_3: Lane) -> None:
    faults.line_up(endless_teardown_on_rank_3)


# Who waits for whom.


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2])
def test_chain_of_waits(modal_h200x8: Lane) -> None:
    """Rank 3 waits for 0, 0 for 1, 1 for 2; only rank 2 waits for nobody."""
    import torch.distributed as dist

    lane = modal_h200x8
    pairs = [dist.new_group([0, 1]), dist.new_group([1, 2])]
    faults.line_up(lane)
    if lane.rank == 2:
        faults.spin()
    if lane.rank in (1, 2):
        faults.wait_for(lane, pairs[1])
    if lane.rank in (0, 1):
        faults.wait_for(lane, pairs[0])
    faults.wait_for_everyone(lane)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0])
def test_pipeline_starves(modal_h200x8: Lane) -> None:
    """Each stage receives from the one before; the first one never sends."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        time.sleep(faults.LONG_S)
    faults.receive_only(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[1])
def test_asynchronous_collective_lacks_a_rank(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    faults.line_up(lane)
    if lane.rank == 1:
        faults.spin()
    values = [torch.ones(8, device=lane.device) for _ in range(3)]
    works = [dist.all_reduce(v, async_op=True) for v in values]
    for work in works:
        work.wait()
    assert values[0].tolist() == [4.0] * 8


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[3])
def test_ring_of_messages_lacks_a_rank(modal_h200x8: Lane) -> None:
    import torch
    import torch.distributed as dist

    lane = modal_h200x8
    faults.line_up(lane)
    if lane.rank == 3:
        time.sleep(faults.LONG_S)
    mine, theirs = (torch.ones(8, device=lane.device) for _ in range(2))
    messages = [
        dist.P2POp(dist.isend, mine, (lane.rank + 1) % lane.ranks),
        dist.P2POp(dist.irecv, theirs, (lane.rank - 1) % lane.ranks),
    ]
    for work in dist.batch_isend_irecv(messages):
        work.wait()
    theirs.tolist()


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("hang", ranks=[0, 1, 2, 3])
def test_ranks_do_not_agree_on_the_root(modal_h200x8: Lane) -> None:
    """Rank 1 thinks that it broadcasts, as does rank 0; no recorder shows roots."""
    faults.line_up(modal_h200x8)
    faults.broadcast_from(modal_h200x8, source=1 if modal_h200x8.rank == 1 else 0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("hang", ranks=[0, 1, 2, 3])
def test_everybody_receives_and_nobody_sends(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    faults.receive_only(modal_h200x8)


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("hang", ranks=[0, 1])
def test_everybody_waits_for_a_key_of_the_store(modal_h200x8: Lane) -> None:
    from torch.distributed import distributed_c10d as c10d

    faults.line_up(modal_h200x8)
    c10d._get_default_store().wait(["never-set"])


@pytest.mark.h200x8(ranks=2, stall=2, test=60)
@pytest.mark.expect_verdict("hang", ranks=[0, 1])
def test_receiving_from_a_rank_that_waits_for_everyone(modal_h200x8: Lane) -> None:
    """Rank 0 waits for a message of rank 1, rank 1 for rank 0 in an all_reduce: both wait, none is missing."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 0:
        faults.receive_only(modal_h200x8, source=1)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[2])
def test_receiving_while_all_others_reduce(modal_h200x8: Lane) -> None:
    """Everybody waits, and three agree on what they wait in: rank 2 is missing there."""
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank == 2:
        faults.receive_only(modal_h200x8, source=0)
    faults.wait_for_everyone(modal_h200x8)


@pytest.mark.h200x8(ranks=4, stall=2, test=60)
@pytest.mark.expect_verdict("straggler", ranks=[0])
def test_reducing_while_all_others_receive(modal_h200x8: Lane) -> None:
    faults.line_up(modal_h200x8)
    if modal_h200x8.rank > 0:
        faults.receive_only(modal_h200x8)
    faults.wait_for_everyone(modal_h200x8)


# The test's own limit.


@pytest.mark.h200x8(ranks=2, stall=2, test=5)
@pytest.mark.expect_verdict("overtime", ranks=[])
def test_busy_beyond_the_limit(modal_h200x8: Lane) -> None:
    faults.spin()


@pytest.mark.h200x8(ranks=2, stall=2, test=5)
@pytest.mark.expect_verdict("hang", ranks=[0, 1])
def test_everybody_sleeps(modal_h200x8: Lane) -> None:
    time.sleep(faults.LONG_S)

"""What `lane.assert_same` compares: every bit, the shape and the dtype of one tensor, without numpy and fast."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from pytest_megacpp.rank.lane import SIGNATURE_BYTES, _signature

LARGE_BYTES = 64 << 20


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


DIFFERENT = [
    torch.arange(6),
    torch.arange(6).flip(0),
    torch.arange(6).reshape(2, 3),
    torch.arange(6, dtype=torch.int32),
    torch.zeros(6),
    -torch.zeros(6),
    torch.zeros(6, dtype=torch.bool),
    torch.tensor(3),
    torch.tensor([3]),
    torch.zeros(0),
    torch.zeros(0, 5),
    torch.full((6,), float("nan"), dtype=torch.bfloat16),
    torch.ones(3, dtype=torch.complex64),
]


def test_each_of_these_differs_from_each_other() -> None:
    assert len({_signature(tensor) for tensor in DIFFERENT}) == len(DIFFERENT)


def test_it_is_the_elements_that_count_not_how_they_lie() -> None:
    whole = torch.arange(24.0, requires_grad=True).reshape(4, 6)
    for view in (whole.t(), whole[1:3, ::2], whole[2]):
        assert _signature(view) == _signature(view.detach().clone())


def test_a_signature_has_room_for_many_dimensions_and_never_more() -> None:
    shapes = [(1,) * n for n in (1, 20, 60)]
    signatures = {_signature(torch.ones(shape)) for shape in shapes}
    assert len(signatures) == len(shapes)
    assert all(len(signature) <= SIGNATURE_BYTES for signature in signatures)


def test_a_large_tensor_takes_no_minutes() -> None:
    """It is read at once: byte by byte it took three thousand times as long as the digest."""
    tensor, data = torch.ones(LARGE_BYTES, dtype=torch.uint8), bytes(LARGE_BYTES)
    digest_s = min(seconds(lambda: hashlib.blake2b(data).digest()) for _ in range(3))
    assert min(seconds(lambda: _signature(tensor)) for _ in range(3)) < 30 * digest_s


def seconds(work: Callable[[], object]) -> float:
    started_s = time.monotonic()
    work()
    return time.monotonic() - started_s


def test_a_sharded_tensor_is_refused_with_what_to_give(alone: None) -> None:
    sharded = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
    with pytest.raises(TypeError, match=r"to_local\(\) or full_tensor\(\) of a DTensor"):
        _signature(sharded)
    assert _signature(sharded.to_local()) == _signature(torch.ones(4, 4))

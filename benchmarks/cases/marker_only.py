"""One test that carries the marker and nothing else of ours: it runs the same under torchrun."""

import pytest
import torch
import torch.distributed as dist


@pytest.mark.h200x8
def test_all_reduce() -> None:
    dist.init_process_group("gloo")
    value = torch.ones(1)
    dist.all_reduce(value)
    assert value.item() == dist.get_world_size()
    dist.destroy_process_group()

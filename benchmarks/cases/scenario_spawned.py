"""A scenario on torch's MultiProcessTestCase. Its processes live for one test, so there is no next one."""

import torch.distributed as dist
from scenarios import RANKS, first_test
from torch._C._distributed_c10d import FileStore
from torch.testing._internal.common_distributed import MultiProcessTestCase


class TestSpawned(MultiProcessTestCase):
    @property
    def world_size(self) -> int:
        return RANKS

    def setUp(self) -> None:
        super().setUp()
        self._spawn_processes()

    def test_first(self) -> None:
        store = FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)
        first_test(self.rank)

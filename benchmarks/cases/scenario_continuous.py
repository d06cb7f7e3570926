"""A scenario on torch's MultiProcContinuousTest: processes and group kept for the class."""

from datetime import timedelta

from scenarios import RANKS, first_test, next_test
from torch.testing._internal.common_distributed import MultiProcContinuousTest

LIMIT_S = 0


class TestContinuous(MultiProcContinuousTest):
    world_size = RANKS
    timeout = timedelta(seconds=LIMIT_S)

    @classmethod
    def backend_str(cls) -> str:
        return "gloo"

    def test_first(self) -> None:
        first_test(self.rank)

    def test_next(self) -> None:
        next_test(self.rank)

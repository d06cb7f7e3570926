"""Neither desk nor ranks need numpy: everything that a lane has to offer works where there is none.

Seeds and warm-ups without it are in test_seed.py, what `megacpp init` writes in test_guide.py.
"""

from tests.plugin.project import LANE, WITHOUT_NUMPY, Project

TESTS = """
    import importlib.util
    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2, test=100)

    def test_there_is_none(modal_h200x8):
        assert importlib.util.find_spec("numpy") is None
        with pytest.raises(RuntimeError, match="Numpy is not available"):
            torch.ones(1).numpy()
        with pytest.raises(RuntimeError, match="Numpy is not available"):
            dist.all_gather_object([None] * 2, "x")

    def test_the_handle(modal_h200x8):
        lane = modal_h200x8
        model = torch.nn.Linear(4, 4)
        assert lane.warmup(lambda: model(torch.ones(2, 4))).shape == (2, 4)
        with lane.first_forward(), lane.phase("thinking"):
            model(torch.ones(2, 4)).sum().backward()
        lane.record("rank", lane.rank)
        lane.assert_same(torch.arange(12).reshape(3, 4).t())
        lane.assert_same(torch.zeros(0))
        assert lane.mesh((2,), ("data",)).size() == 2

    def test_not_the_same(modal_h200x8):
        modal_h200x8.assert_same(torch.tensor([modal_h200x8.rank]))

    def test_a_group_of_the_test_s_own():
        dist.init_process_group("gloo")
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == 2
"""


def test_a_lane_without_numpy(project: Project) -> None:
    project.write("test_step.py", TESTS)
    ran = project.pytest(*LANE, env=WITHOUT_NUMPY)
    expected = dict.fromkeys(ran.outcomes(), "passed") | {"test_not_the_same": "failed"}
    assert len(expected) == 4
    assert ran.outcomes() == expected
    assert "AssertionError: tensor differs between ranks:" in ran.failure("test_not_the_same")
    assert "rank 1: digest " in ran.failure("test_not_the_same")
    assert ran.verdict("test_not_the_same")["code"] == "test-failed"

"""Code of one rank never serves another, whatever torch's keys leave out: the rank is part of every key.

A pass that runs after torch has computed the key compiles the rank into the code, as bucketed all-gathers do
(pytorch #188332). It uses matmuls only, so that no C++ compiler is needed.
"""

from pathlib import Path

import pytest

from pytest_megacpp.box.seed.store import SeedStore
from tests.plugin.project import LANE, Project, Ran

SUITE = """
    import pytest
    import torch
    from torch._inductor import config
    from torch._inductor.custom_graph_pass import CustomGraphPass

    pytestmark = pytest.mark.h200x8(ranks=2)


    class TheRankIsInTheCode(CustomGraphPass):
        def __init__(self, rank):
            self.rank = rank

        def __call__(self, graph):
            if self.rank == 0:
                return
            (product,) = [n for n in graph.nodes if n.target is torch.ops.aten.mm.default]
            with graph.inserting_after(product):
                twice = graph.call_function(torch.ops.aten.mm.default, (product, product.args[1]))
                twice.meta.update(product.meta)
            product.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)

        def uuid(self):
            return "the same on every rank"


    def test_code_of_its_own(modal_h200x8):
        ones = torch.ones(4, 4)
        with config.patch(post_grad_custom_post_pass=TheRankIsInTheCode(modal_h200x8.rank)):
            got = torch.compile(torch.mm)(ones, ones)[0, 0].item()
        assert got == (4, 16)[modal_h200x8.rank]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("ranks"))
    made.write("test_suite.py", SUITE)
    table = "[tool.pytest_megacpp]\npreload = ['torch._inductor.compile_fx']\nseed = {dir = 'seeds'}\n"
    pyproject = made.root / "pyproject.toml"
    pyproject.write_text(f"{pyproject.read_text()}{table}")
    return made


@pytest.fixture(scope="module")
def warmed(project: Project) -> Ran:
    return project.pytest(*LANE, "--cache-seed", "auto")


def misses(ran: Ran) -> list[int]:
    return [rank["cache"]["misses"] for rank in ran.receipt("test_code_of_its_own")["ranks"]]


def test_code_that_a_warm_up_left_serves_its_own_rank(warmed: Ran) -> None:
    """The warm-up's processes are gone, so the measured attempt takes its code from the cache."""
    assert warmed.outcomes() == {"test_code_of_its_own": "passed"}, warmed.text
    assert misses(warmed) == [0, 0]


def test_code_of_a_seed_serves_its_own_rank(project: Project, warmed: Ran) -> None:
    ran = project.pytest(*LANE, "--cache-seed", "require")
    assert ran.outcomes() == {"test_code_of_its_own": "passed"}, ran.text
    assert misses(ran) == [0, 0]


def test_the_ranks_of_a_seed_share_no_key(project: Project, warmed: Ran) -> None:
    manifest = next(seed.manifest for seed in SeedStore(Path(project.root, "seeds")).seeds() if seed.good)
    assert manifest is not None
    first, second = ({key for keys in rank.keys.values() for key in keys} for rank in manifest.tests[0].ranks)
    assert first
    assert second
    assert first.isdisjoint(second)

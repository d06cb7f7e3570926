"""What a rank tells of warming up: the warm-up itself, time-outs of groups, cache keys; two real ranks on gloo."""

import pytest

from pytest_megacpp.recording.events import Compiled
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import read_all
from tests.plugin.project import LANE, Json, Project, Ran

WARM_UP = """
    import time
    from datetime import timedelta

    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2)


    def seconds(*groups):
        backends = [(group or dist.group.WORLD)._get_backend(torch.device("cpu")) for group in groups]
        return [round(backend.options._timeout.total_seconds()) for backend in backends]  # 2.14: 8999.999 of 9000


    @pytest.mark.h200x8(test=3000, compile=5000)
    def test_time_outs(modal_h200x8):
        lane = modal_h200x8
        short, long = timedelta(seconds=40), timedelta(seconds=9000)
        groups = [None, dist.new_group(), dist.new_group(timeout=short), dist.new_group(timeout=long)]

        def step():
            groups.extend([dist.new_group(), dist.new_group(timeout=short), dist.new_group(timeout=long)])
            lane.warmup(lambda: groups.append(dist.new_group()))
            for group in groups:
                dist.all_reduce(torch.ones(1), group=group)
            return seconds(*groups)

        lane.record("before", seconds(*groups))
        lane.record("meanwhile", lane.warmup(step))
        lane.record("afterwards", seconds(*groups, dist.new_group()))

    @pytest.mark.h200x8(test=4000)
    def test_time_outs_follow_the_test(modal_h200x8):
        modal_h200x8.record("world", seconds(None))

    @pytest.mark.h200x8(test=5000)
    def test_time_outs_of_a_group_that_stays(modal_h200x8):
        modal_h200x8.record("world", seconds(None))

    @pytest.mark.h200x8(skew=0.4)
    def test_compiles_unevenly(modal_h200x8):
        lane = modal_h200x8

        def slow(graph, inputs):
            time.sleep(1.2 * lane.rank)
            return graph.forward

        step = torch.compile(torch.sin, backend=slow)
        lane.warmup(lambda: step(torch.ones(2)))

    def test_is_not_warmed_up(modal_h200x8):
        with pytest.raises(ValueError, match="skip='user_disabled'"):
            modal_h200x8.warmup(dist.barrier, skip="no, thanks")
        before = dist.group.WORLD._get_sequence_number_for_group()
        assert modal_h200x8.warmup(lambda: 3, skip="non_cuda_lane") == 3
        assert dist.group.WORLD._get_sequence_number_for_group() == before

    class Net(torch.nn.Linear):
        pass

    def test_forwards(modal_h200x8):
        from torch.distributed.fsdp import fully_shard

        net = fully_shard(Net(4, 4), mesh=modal_h200x8.mesh((2,), ("dp",)))
        for _ in range(2):
            net(torch.ones(2, 4)).sum().backward()
        torch.nn.Identity()(1)

    def compiles():
        torch._dynamo.reset()
        torch.compile(lambda x: (x @ x).t() @ x)(torch.ones(4, 4, requires_grad=True)).sum().backward()

    @pytest.mark.h200x8(fresh=True)
    def test_compile_in_one_process():
        compiles()

    @pytest.mark.h200x8(fresh=True)
    def test_compile_in_the_next_process():
        compiles()

    def test_compile_again():
        compiles()

    def test_compile_nothing():
        pass
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("warm-up"))
    project.write(
        "pyproject.toml", '[tool.pytest_megacpp]\npreload = ["torch.distributed.fsdp", "torch._inductor.compile_fx"]\n'
    )
    project.write("test_warm_up.py", WARM_UP)
    return project.pytest(*LANE, env={"TORCHINDUCTOR_CACHE_DIR": str(project.root / "cache")})


def ranks(ran: Ran, name: str) -> list[Json]:
    found: list[Json] = ran.receipt(name)["ranks"]
    return found


def test_all_pass(ran: Ran) -> None:
    assert {name: o for name, o in ran.outcomes().items() if o != "passed"} == {}


def test_groups_wait_longer_in_a_warm_up_and_get_back_what_they_had(ran: Ran) -> None:
    steady, warm, short, long = 3600.0, 5600.0, 40.0, 9000.0
    for rank in ranks(ran, "test_time_outs"):
        before = [steady, steady, short, long]
        assert rank["records"]["before"] == before
        assert rank["records"]["meanwhile"] == [warm, warm, warm, long, warm, warm, long, warm]
        assert rank["records"]["afterwards"] == [*before, steady, short, long, steady, steady]


def test_a_group_that_stays_has_the_patience_of_each_test(ran: Ran) -> None:
    worlds = [ranks(ran, f"test_time_outs_{which}") for which in ("follow_the_test", "of_a_group_that_stays")]
    assert [[r["records"]["world"] for r in world] for world in worlds] == [[[4600.0]] * 2, [[5600.0]] * 2]


def test_a_warm_up_may_compile_longer_than_the_skew_limit(ran: Ran) -> None:
    document = ran.receipt("test_compiles_unevenly")
    first, second = document["ranks"]
    assert first["first_forward_s"] == first["warmup"]["seconds"] < second["first_forward_s"]
    assert document["skew"]["first_forward_s"] > document["limits"]["skew"] < document["skew"]["worst_wait_s"]
    assert second["warmup"] == {"reason": "explicit_warmup_allowed", "seconds": second["first_forward_s"]}


def test_a_warm_up_that_was_skipped_says_why(ran: Ran) -> None:
    found = ranks(ran, "test_is_not_warmed_up")
    assert [rank["warmup"] for rank in found] == [{"reason": "non_cuda_lane", "seconds": None}] * 2


def test_first_forwards_are_said_without_the_test_s_help(ran: Ran) -> None:
    document = ran.receipt("test_forwards")
    took_s = []
    for rank in document["ranks"]:
        said = [(f["name"], f["origin"]) for f in rank["first_forwards"]]
        assert said == [("Net", "automatic"), ("Identity", "automatic")]
        took_s.append(max(f["seconds"] for f in rank["first_forwards"]))
    assert [rank["first_forward_s"] for rank in document["ranks"]] == took_s
    assert document["skew"]["first_forward_s"] == round(max(took_s) - min(took_s), 6)


def test_the_keys_of_what_was_compiled_are_said_whether_found_or_not(ran: Ran) -> None:
    """Another process finds what the first one stored, and the next test in that process uses the same."""
    first, found, again = [
        compiled(ran, f"test_compile_{name}") for name in ("in_one_process", "in_the_next_process", "again")
    ]
    assert [c.cache_misses for c in (*found.values(), *again.values())] == [0] * 4
    assert max(c.cache_misses for c in first.values()) > 0
    for rank, said in first.items():
        assert {cache: len(keys) for cache, keys in said.keys.items()} == {"aot_autograd": 1, "inductor": 2}
        for later in (found[rank], again[rank]):
            assert {cache: set(keys) for cache, keys in later.keys.items()} == {c: set(k) for c, k in said.keys.items()}
    assert compiled(ran, "test_compile_nothing") == {}


def compiled(ran: Ran, name: str) -> dict[int, Compiled]:
    """By rank."""
    assert ran.directory is not None
    timeline = fold(read_all((ran.directory / "recording.jsonl").read_bytes()))
    test = next(t for t in timeline.tests.values() if t.nodeid.endswith(f"::{name}"))
    return {rank: view.compiled for rank, view in test.ranks.items() if view.compiled is not None}

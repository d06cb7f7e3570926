"""What a test finds around it in a rank: torchrun's environment, process groups, the lane handle."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.project import LANE, Json, Project, Ran, files_below

CHOSEN_ANEW_BY_EVERY_LAUNCH = {"MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE"}
DUMP = """
    import json, os, sys
    with open(f"{sys.argv[1]}.{os.environ['WORLD_SIZE']}.{os.environ['RANK']}", "w") as file:
        json.dump(dict(os.environ), file)
"""
WORLDS = """
    import os
    import random
    import socket
    import subprocess
    import sys
    import pytest
    import torch
    import torch.distributed as dist

    @pytest.mark.parametrize("size", [
        pytest.param(n, marks=pytest.mark.h200x8(ranks=n)) for n in (1, 2, 4)
    ])
    def test_environment(size):
        assert os.environ["WORLD_SIZE"] == str(size)
        subprocess.run([sys.executable, "dump.py", "ours"], check=True)

    @pytest.mark.h200x8(ranks=2)
    class TestOwnGroup:
        def test_init(self):
            assert not dist.is_initialized()
            dist.init_process_group("gloo")
            ones = torch.ones(1)
            dist.all_reduce(ones)
            assert ones.item() == 2

        def test_init_again_without_destroying(self):
            assert not dist.is_initialized()
            dist.init_process_group()
            ones = torch.ones(1)
            dist.all_reduce(ones)
            assert ones.item() == 2

        def test_handle_after_a_group_of_the_test(self, modal_h200x8):
            assert dist.get_world_size() == 2
            dist.barrier()

        def test_handle_again(self, modal_h200x8):
            dist.barrier()
            dist.destroy_process_group()

        def test_a_store_of_the_users(self):
            port = int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(os.environ["MASTER_ADDR"], port, is_master=False)
            store.set(f"rank{os.environ['RANK']}", "here")
            store.wait(["rank0", "rank1"])

        def test_subgroups(self, modal_h200x8):
            group = dist.new_group([0])
            if modal_h200x8.rank == 0:
                dist.all_reduce(torch.ones(1), group=group)
            dist.barrier()

    @pytest.mark.h200x8(ranks=4)
    def test_four(modal_h200x8):
        mesh = modal_h200x8.mesh((2, 2), ("dp", "tp"))
        assert mesh["tp"].size() == 2

    @pytest.mark.h200x8(ranks=4)
    def test_chance(modal_h200x8):
        import numpy
        drawn = {"hash": hash("forces"), "torch": torch.rand(1).item(), "variable": os.environ.get("PYTHONHASHSEED")}
        drawn |= {"python": random.getrandbits(60), "numpy": int(numpy.random.randint(1 << 60))}
        modal_h200x8.record("drawn", drawn)

    @pytest.mark.h200x8(ranks=1)
    def test_one_that_starts_its_own(tmp_path):
        script = tmp_path / "child.py"
        line = "os.environ['RANK'] + ' ' + os.environ['WORLD_SIZE'] + os.linesep"
        script.write_text(f"import os; os.write(1, ({line}).encode())")  # whole: both write to one pipe
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        assert sorted(out.split("\\n")) == ["", "0 2", "1 2"]
"""
FIXTURE = """
    import os
    import pytest
    import torch
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2)

    @pytest.fixture(scope="module")
    def group():
        dist.init_process_group("gloo")
        yield dist.group.WORLD
        dist.destroy_process_group()
        with open(f"destroyed.{os.environ['RANK']}", "a") as file:
            file.write("once\\n")

    @pytest.mark.parametrize("n", range(3))
    def test_group_of_the_module(group, n):
        value = torch.full((1,), float(n))
        dist.all_reduce(value, group=group)
        assert value.item() == 2 * n

    def test_handle_beside_it(group, modal_h200x8):
        dist.barrier()
"""
AFTER = """
    import pytest
    import torch
    import torch.distributed as dist

    @pytest.mark.h200x8(ranks=2)
    def test_handle_after_a_group_of_a_module(modal_h200x8):
        lane = modal_h200x8
        ones = torch.ones(1)
        dist.all_reduce(ones)
        assert ones.item() == 2
        assert (lane.local_rank, lane.device, lane.surface, lane.preset) == (
            lane.rank, torch.device("cpu"), "local", "diagnostic"
        )
        assert lane.pick(full=1, diagnostic=2) == 2
        assert lane.warmup(lambda: 3) == 3
        with lane.first_forward("model"), lane.phase("thinking"):
            pass
        lane.record("answer", {"rank": lane.rank, "nan": float("nan")})
        lane.assert_same(torch.arange(3))

    @pytest.mark.h200x8(ranks=2, preset="full")
    def test_not_the_same(modal_h200x8):
        assert modal_h200x8.preset == "full"
        modal_h200x8.assert_same(torch.tensor([modal_h200x8.rank]))

    @pytest.mark.h200x8(ranks=2)
    def test_record_of_what_is_no_json(modal_h200x8):
        with pytest.raises(TypeError):
            modal_h200x8.record("object", object())
        with pytest.raises(LookupError, match="no data set 'corpus'. Configured: none"):
            modal_h200x8.data("corpus")

    @pytest.mark.h200x8(ranks=2, fresh=True)
    def test_fresh(modal_h200x8):
        global SEEN
        assert "SEEN" not in globals()
        SEEN = True

    @pytest.mark.h200x8(ranks=2)
    def test_fresh_is_over():
        assert "SEEN" not in globals()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("environment"))
    with (project.root / "pyproject.toml").open("a") as settings:
        settings.write('[tool.pytest_megacpp]\npreload = ["numpy.random"]\n')
    project.write("dump.py", DUMP)
    project.write("test_a_worlds.py", WORLDS)
    project.write("test_b_fixture.py", FIXTURE)
    project.write("test_c_after.py", AFTER)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONHASHSEED", raising=False)  # ranks from two interpreters, as by default
        return project.pytest(*LANE, "--preset", "diagnostic")


def dumped(project: Project, name: str, size: int) -> list[dict[str, str]]:
    return [json.loads((project.root / f"{name}.{size}.{rank}").read_text()) for rank in range(size)]


def test_all_is_as_under_torchrun(ran: Ran) -> None:
    assert {name: o for name, o in ran.outcomes().items() if o != "passed"} == {"test_not_the_same": "failed"}, ran.text
    assert len(ran.outcomes()) == 21


def test_a_rank_sees_what_torchrun_shows(ran: Ran, project: Project) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {n: v for n, v in os.environ.items() if n in ("PATH", "HOME", "LANG", "TMPDIR")}
    subprocess.run([*torchrun, "dump.py", "theirs"], cwd=project.root, check=True, env=environment, timeout=120)
    for ours, theirs in zip(dumped(project, "ours", 2), dumped(project, "theirs", 2), strict=True):
        launch = {n: v for n, v in theirs.items() if n not in environment and not n.startswith(("LC_", "PYTHON"))}
        assert launch.keys() <= ours.keys()
        same = launch.keys() - CHOSEN_ANEW_BY_EVERY_LAUNCH - {"MASTER_ADDR"}
        assert {n: ours[n] for n in same} == {n: launch[n] for n in same}
        assert ours["MASTER_ADDR"] == "127.0.0.1"
        assert int(ours["MASTER_PORT"]) > 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_of_each_world_know_their_place(ran: Ran, project: Project, size: int) -> None:
    for rank, environment in enumerate(dumped(project, "ours", size)):
        for name in ("RANK", "LOCAL_RANK", "ROLE_RANK"):
            assert environment[name] == str(rank)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"):
            assert environment[name] == str(size)
        assert environment["TORCHELASTIC_USE_AGENT_STORE"] == "True"
        assert environment["TRITON_INTERPRET"] == "1"
        assert ran.run is not None
        assert environment["TORCHELASTIC_RUN_ID"] == ran.run["run_id"]


def test_a_fixture_s_group_lives_as_long_as_its_module(ran: Ran, project: Project) -> None:
    assert project.noted("destroyed.0") == project.noted("destroyed.1") == ["once"]


def ranks(ran: Ran, name: str) -> list[Json]:
    found: list[Json] = ran.receipt(name)["ranks"]
    return found


def test_the_receipt_has_what_the_handle_recorded(ran: Ran) -> None:
    for rank, seen in enumerate(ranks(ran, "test_handle_after_a_group_of_a_module")):
        assert seen["records"] == {"answer": {"rank": rank, "nan": "NaN"}}
        assert [f["name"] for f in seen["first_forwards"]] == ["warmup", "model"]
        names = [p["name"] for p in seen["phases"]]
        assert names[:2] == ["setup", "call"]
        assert {"warmup", "thinking", "teardown"} <= set(names)
        assert seen["collectives"]["entered"] == seen["collectives"]["completed"] >= 4


def test_chance_is_each_rank_s_own_as_under_torchrun(ran: Ran) -> None:
    drawn = [seen["records"]["drawn"] for seen in ranks(ran, "test_chance")]
    for generator in ("python", "numpy", "torch"):
        assert len({one[generator] for one in drawn}) == 4, f"{generator} was imported once for all"
    assert {one["variable"] for one in drawn} == {None}


def test_the_receipt_says_how_strings_were_hashed(ran: Ran) -> None:
    seen = ranks(ran, "test_chance")
    seeds = [one["hash_seed"] for one in seen]
    assert [seed == seeds[0] for seed in seeds] == [True, False, False, True]
    for one in seen[:2]:
        alike = [sys.executable, "-c", "print(hash('forces'))"]
        printed = subprocess.check_output(alike, env={**os.environ, "PYTHONHASHSEED": one["hash_seed"]}, text=True)
        assert int(printed) == one["records"]["drawn"]["hash"]
    assert int(seeds[1]) == int(seeds[0]) + 1, "so that --hash-seed with the first reproduces both"


def test_a_tensor_that_differs_fails_on_every_rank(ran: Ran) -> None:
    text = ran.failure("test_not_the_same")
    assert "tensor differs between ranks" in text
    assert re.search(r"rank 1: digest [0-9a-f]{16} torch.int64 shape \(1,\)", text)


def test_worlds_of_each_size_are_shared(ran: Ran) -> None:
    """One world of 1 and of 4; of 2 the first, one after the failure, the fresh one and the one after it."""
    assert ran.directory is not None
    worlds = sorted(p.name for p in (ran.directory / "ranks").iterdir())
    sizes = [len(list((ran.directory / "ranks" / world).iterdir())) for world in worlds]
    assert sorted(sizes) == [1, 2, 2, 2, 2, 4]


def test_ranks_leave_no_files_behind(ran: Ran, project: Project) -> None:
    unknown = [
        p
        for p in files_below(project.root)
        if not p.is_relative_to(project.lane_dir)
        and p.suffix != ".py"
        and not p.name.startswith((".witness", "ours.", "theirs.", "destroyed."))
        and not {".pytest_cache", "__pycache__"} & {*p.parts}
    ]
    assert [p.name for p in unknown] == ["pyproject.toml"]


def test_scratch_is_removed(ran: Ran) -> None:
    assert ran.run is not None
    here = Path(os.environ.get("TMPDIR", "/tmp"))
    plans = [p for p in here.glob("megacpp-*/plan.json") if ran.run["run_id"] in p.read_text()]
    assert plans == []


def test_a_preloaded_module_that_starts_cuda_costs_time_only(tmp_path: Path) -> None:
    """A fork of a process that started CUDA can't use it: every rank imports for itself then, and it is said why."""
    project = Project(tmp_path / "project")
    project.write("pyproject.toml", '[tool.pytest_megacpp]\npreload = ["starts_cuda"]\n')
    project.write(
        "starts_cuda.py",
        """
        import os

        import torch

        PID = os.getpid()
        torch._C._cuda_isInBadFork = lambda: os.getpid() != PID  # as a CUDA build answers after a fork
        """,
    )
    project.write(
        "test_it.py",
        """
        import pytest


        @pytest.mark.h200x8(ranks=2)
        def test_ranks_start(modal_h200x8):
            import sys

            assert "starts_cuda" not in sys.modules
        """,
    )
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_ranks_start": "passed"}
    assert ran.directory is not None
    recording = (ran.directory / "recording.jsonl").read_text()
    assert "importing starts_cuda starts CUDA" in recording

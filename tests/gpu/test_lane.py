"""A lane of one GPU, run as a user would: NCCL, real kernels, real compiles, and faults that only a device has."""

import json
import subprocess
from pathlib import Path

import pytest

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.wire import read_all
from tests.plugin.project import Project, Ran

pytestmark = pytest.mark.gpu

CONFIGURATION = """
    [tool.pytest_megacpp]
    preload = ["torch.distributed.fsdp", "torch.distributed.tensor", "torch._inductor.compile_fx"]

    [tool.pytest_megacpp.lanes.one]
    gpu = "any:1"
    ranks = 1

    [tool.pytest.ini_options]
    addopts = ["--strict-markers"]
"""
SUITE = """
    import os
    import time

    import pytest

    pytestmark = pytest.mark.one


    def test_collectives(modal_one):
        import torch
        import torch.distributed as dist

        assert (modal_one.backend, str(modal_one.device), dist.get_world_size()) == ("nccl", "cuda:0", 1)
        values = torch.ones(8, device=modal_one.device)
        for _ in range(5):
            dist.all_reduce(values)
        gloo = dist.new_group(backend="gloo")
        dist.barrier(group=gloo)
        sent, got = torch.ones(4, device=modal_one.device), torch.zeros(4, device=modal_one.device)
        for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, 0), dist.P2POp(dist.irecv, got, 0)]):
            work.wait()
        dist.all_reduce(values)
        assert values.tolist() == [1.0] * 8 and got.tolist() == [1.0] * 4
        modal_one.assert_same(values)


    def test_own_group_outlasts_every_limit():
        import torch
        import torch.distributed as dist

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
        group = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cuda"))
        assert group.options._timeout.total_seconds() > 1800
        dist.all_reduce(torch.ones(1, device="cuda"))
        dist.destroy_process_group()


    def test_triton_kernel(modal_one):
        import torch
        import triton
        import triton.language as tl

        from kernels import double

        values = torch.arange(1000, device=modal_one.device, dtype=torch.float32)
        assert torch.equal(double(values), 2 * values)


    def test_compile_forward_and_backward(modal_one):
        import torch

        def layers(x, w):
            for _ in range(4):
                x = torch.nn.functional.gelu(x @ w)
            return x

        x, w = (torch.randn(64, 64, device=modal_one.device, requires_grad=True) for _ in range(2))
        with modal_one.first_forward():
            out = torch.compile(layers)(x, w)
        out.sum().backward()
        torch.testing.assert_close(out, layers(x, w), rtol=1e-2, atol=1e-2)


    def test_fsdp2(modal_one):
        import torch
        from torch.distributed.fsdp import fully_shard

        model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(3))).to(modal_one.device)
        mesh = modal_one.mesh((1,), ("dp",))
        for block in model:
            block.compile()
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            model(torch.ones(4, 32, device=modal_one.device)).sum().backward()
            optimizer.step()


    @pytest.mark.expect_verdict("test-failed", ranks=[0], cause="cuda-oom")
    def test_memory_is_full(modal_one):
        import torch

        torch.empty(1 << 42, device=modal_one.device)


    @pytest.mark.expect_verdict("test-failed", ranks=[0], cause="cuda-error")
    def test_illegal_address(modal_one):
        import torch

        from kernels import store_far_away

        store_far_away(torch.zeros(128, device=modal_one.device))
        torch.cuda.synchronize()


    def test_the_next_one_has_a_context_that_works(modal_one):
        import torch

        assert torch.ones(3, device=modal_one.device).sum().item() == 3.0


    @pytest.mark.expect_verdict("test-failed", ranks=[0], cause="cuda-error")
    def test_device_side_assertion(modal_one):
        import torch

        torch.zeros(4, device=modal_one.device)[torch.tensor([9], device=modal_one.device)]
        torch.cuda.synchronize()


    @pytest.mark.expect_verdict("rank-death", ranks=[0], cause="signal:SIGSEGV")
    def test_native_crash(modal_one):
        import ctypes

        ctypes.string_at(0)


    @pytest.mark.expect_verdict("hang", ranks=[0], cause="device-busy")
    @pytest.mark.one(test=6, stall=2)
    def test_kernel_that_does_not_end(modal_one):
        import torch
        import torch.distributed as dist

        values = torch.ones(8, device=modal_one.device)
        torch.cuda._sleep(60 * 2_000_000_000)
        dist.all_reduce(values)
        torch.cuda.synchronize()
"""
KERNELS = """
    import torch
    import triton
    import triton.language as tl


    @triton.jit
    def _double(source, target, count, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(target + at, 2 * tl.load(source + at, mask=at < count), mask=at < count)


    @triton.jit
    def _far_away(target, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)
        tl.store(target + at + 1_000_000_000_000, at.to(tl.float32))


    def double(values):
        out = torch.empty_like(values)
        _double[(triton.cdiv(values.numel(), 256),)](values, out, values.numel(), BLOCK=256)
        return out


    def store_far_away(values):
        _far_away[(1,)](values, 128)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("gpu"))
    project.write("pyproject.toml", CONFIGURATION)
    project.write("kernels.py", KERNELS)
    project.write("test_on_device.py", SUITE)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    with project.start("-m", "one", "--surface", "local", "-p", "no:cacheprovider") as desk:
        return desk.ran(limit_s=400)


@pytest.fixture(scope="module")
def events(ran: Ran) -> list[ev.Event]:
    assert ran.directory is not None
    return read_all((ran.directory / "recording.jsonl").read_bytes())


def test_everything_is_as_expected(ran: Ran) -> None:
    assert set(ran.outcomes().values()) == {"passed"}, ran.text
    assert ran.run is not None
    assert ran.run["dry_run"] is False
    assert "says nothing about GPUs" not in ran.text


def test_ranks_are_forked_from_the_process_that_imported_for_all(events: list[ev.Event]) -> None:
    """Importing the preloaded modules must not start CUDA."""
    said = [e.fact.detail for e in events if isinstance(e.fact, ev.Progress)]
    assert not [detail for detail in said if "starts CUDA" in detail or "doesn't import" in detail]


def test_the_receipt_names_the_device(ran: Ran) -> None:
    receipt = ran.receipt("test_collectives")
    device = receipt["ranks"][0]["device"]
    assert device["index"] == 0
    assert device["uuid"].startswith("GPU-")
    assert device["uuid"] in json.dumps(receipt["devices"])
    assert "nccl" in receipt["backend"]


def test_collectives_of_both_recorders_are_counted(ran: Ran) -> None:
    seen = ran.receipt("test_collectives")["ranks"][0]["collectives"]
    assert seen["entered"] == seen["completed"] >= 8


def test_a_clean_group_serves_the_next_test(events: list[ev.Event]) -> None:
    """NCCL's counters lag behind its collectives; a group that looked unfinished was made anew for every test."""
    clean = {e.fact.test: e.fact.group_clean for e in events if isinstance(e.fact, ev.Finished)}
    assert clean[3]
    assert clean[4]


def test_the_first_forward_and_what_it_compiled_are_in_the_receipt(ran: Ran) -> None:
    rank = ran.receipt("test_compile_forward_and_backward")["ranks"][0]
    assert rank["first_forward_s"] > 0
    assert rank["compile_s"] > 0
    assert rank["graphs"] >= 1


def test_an_illegal_address_shows_what_the_driver_reported(ran: Ran, events: list[ev.Event]) -> None:
    listens = {e.fact.available for e in events if isinstance(e.fact, ev.Capability) and e.fact.name == "device_faults"}
    if listens != {True}:
        pytest.skip("neither the kernel log nor NVML's events can be had here")
    said = [e for e in ran.verdict("test_illegal_address")["evidence"] if e["source"] == "device"]
    assert [e["rank"] for e in said] == [0]
    assert "Xid 31" in said[0]["text"]


def test_an_unfinished_kernel_is_told_from_a_wait(ran: Ran) -> None:
    """The collective was queued, and the device never began it: nobody waits for a peer."""
    receipt = ran.receipt("test_kernel_that_does_not_end")
    assert receipt["ranks"][0]["collectives"]["last"]["done"] is False


def test_no_process_stays_on_the_device(ran: Ran) -> None:
    query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    left = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert not [pid for pid in left if (Path("/proc") / pid).exists()]

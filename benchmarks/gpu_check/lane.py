"""Owns what is checked through a lane of one GPU, run as a user would: a seed that serves the next run, and tuned
kernels whose configurations exceed a block's shared memory.

Without a GPU the seed is checked in a dry run, and the other says so.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.gpu.conftest import gpu_name
from tests.plugin.project import Project, Ran

LIMIT_S = 95.0  # of a run; on a CPU that others use, too, compiling takes minutes
DRY_LIMIT_S = 900.0
CONFIGURATION = """
    [tool.pytest_megacpp]
    preload = ["torch._inductor.compile_fx"]
    seed = {dir = "seeds", min_bytes = 1}

    [tool.pytest_megacpp.lanes.one]
    gpu = "any:1"
    ranks = 1

    [tool.pytest.ini_options]
    addopts = ["--strict-markers"]
"""
COMPILING = """
    import pytest
    import torch

    pytestmark = pytest.mark.one

    def block(x, w):
        for _ in range(4):  # on a CPU nothing that needs a C++ compiler
            x = torch.nn.functional.gelu(x @ w) if x.is_cuda else x @ w
        return x

    def test_step(modal_one):
        x, w = (torch.randn(64, 64, device=modal_one.device, requires_grad=True) for _ in range(2))
        out = torch.compile(block)(x, w)
        out.sum().backward()
        torch.testing.assert_close(out, block(x, w), rtol=1e-2, atol=1e-2)
"""
TUNED = """
    import pytest
    import torch
    import triton
    import triton.language as tl

    pytestmark = pytest.mark.one


    def config(stages):
        return triton.Config({"M": 64, "N": 64, "K": 128}, num_warps=4, num_stages=stages)


    def tuned(configs):
        @triton.autotune(configs=configs, key=["size"])
        @triton.jit
        def matmul(a, b, c, size, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
            rows = tl.program_id(0) * M + tl.arange(0, M)
            columns = tl.program_id(1) * N + tl.arange(0, N)
            inner = tl.arange(0, K)
            total = tl.zeros((M, N), dtype=tl.float32)
            for k in range(0, size, K):
                left = tl.load(a + rows[:, None] * size + (k + inner)[None, :])
                right = tl.load(b + (k + inner)[:, None] * size + columns[None, :])
                total = tl.dot(left, right, total)
            tl.store(c + rows[:, None] * size + columns[None, :], total)

        return matmul


    def product(kernel, device):
        size = 512
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        c = torch.empty(size, size, device=device)
        kernel[lambda meta: (size // meta["M"], size // meta["N"])](a, b, c, size)
        torch.testing.assert_close(c, a.float() @ b.float(), rtol=2e-2, atol=2e-1)


    def test_some_exceed(modal_one):
        product(tuned([config(2), config(3), config(9)]), modal_one.device)


    def test_all_fit(modal_one):
        product(tuned([config(2), config(3)]), modal_one.device)


    def test_all_exceed(modal_one):
        with pytest.raises(Exception) as caught:
            product(tuned([config(9), config(10)]), modal_one.device)
        modal_one.record("triton_says", f"{type(caught.value).__name__}: {caught.value}"[:300])
"""


def project(name: str, suite: str) -> Project:
    made = Project(Path(tempfile.mkdtemp(prefix=f"{name}-")))
    made.write("pyproject.toml", CONFIGURATION)
    made.write("test_suite.py", suite)
    return made


def ran(of: Project, *args: str) -> Ran:
    dry = () if gpu_name() else ("--dry-run",)
    command = ("-m", "one", "--surface", "local", *dry, "-p", "no:cacheprovider", *args)
    with of.start(*command) as desk:
        done = desk.ran(limit_s=DRY_LIMIT_S if dry else LIMIT_S)
    print(done.text, flush=True)
    return done


def seed() -> dict[str, Any]:
    """A first run with an empty store, which warms up, and a second one that the first one's seed serves."""
    of = project("seed", COMPILING)
    told = {name: seeded(ran(of, "--cache-seed", mode)) for name, mode in (("first", "auto"), ("second", "require"))}
    told["device"] = gpu_name() or "no GPU: a dry run"
    assert told["first"]["state_end"] == "warm", told
    assert (told["second"]["state"], told["second"]["misses"], told["second"]["helped"]) == ("warm", [0], True), told
    return told


def seeded(done: Ran) -> dict[str, Any]:
    assert done.code == 0, f"exit code {done.code}"
    receipt = done.receipt("test_step")
    of = receipt["seed"]
    attempts = receipt["attempts"] or [receipt]
    kept = {name: of[name] for name in ("state", "coverage", "state_end", "bytes_end", "helped")}
    return {
        **kept,
        "attempts": [[(r["compile_s"], r["cache"]) for r in attempt["ranks"]] for attempt in attempts],
        "misses": [rank["cache"]["misses"] for rank in receipt["ranks"]],
        "compile_s": [rank["compile_s"] for rank in receipt["ranks"]],
        "run_s": round(done.seconds, 1),
    }


def pruning() -> dict[str, Any]:
    """What is dropped of the configurations of real kernels."""
    if not gpu_name():
        return {"pruning": "no GPU"}
    done = ran(project("pruning", TUNED))
    told: dict[str, Any] = {"outcomes": done.outcomes()}
    for name in told["outcomes"]:
        rank = done.receipt(name)["ranks"][0]
        told[name] = {"dropped": rank["dropped_configs"], "records": rank["records"]}
    assert set(told["outcomes"].values()) == {"passed"}, told
    (some,) = told["test_some_exceed"]["dropped"]
    assert (len(some["dropped"]), some["kept"]) == (1, False), told
    assert told["test_all_fit"]["dropped"] == [], told
    (none,) = told["test_all_exceed"]["dropped"]
    assert (len(none["dropped"]), none["kept"]) == (2, True), told
    return told


def main() -> int:
    check = {"seed": seed, "pruning": pruning}[sys.argv[1]]
    print(json.dumps(check()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

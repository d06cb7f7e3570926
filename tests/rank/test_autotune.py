"""Configurations of a real matmul kernel, compiled for an H200 as a rank there would: those too large aren't tried."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.rank.autotune import AUTOTUNER, Staging, fitting, when_imported
from pytest_megacpp.rank.observers import Observers
from pytest_megacpp.recording.events import ConfigsDropped

triton = pytest.importorskip("triton")
import torch  # noqa: E402
import triton.language as tl  # noqa: E402

H200_BYTES = 232_448
SMALL, LARGE, LARGER = 2, 8, 9  # stages of 32 KiB: both operands in bfloat16


class H200:
    """What triton asks a driver for when it compiles."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@triton.jit  # type: ignore[untyped-decorator]
def matmul(a, b, c, size, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    rows = tl.program_id(0) * M + tl.arange(0, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    total = tl.zeros((M, N), dtype=tl.float32)
    for k in range(0, size, K):
        left = tl.load(a + rows[:, None] * size + (k + inner)[None, :])
        right = tl.load(b + (k + inner)[:, None] * size + columns[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + rows[:, None] * size + columns[None, :], total)


def config(stages: int, pre_hook: Callable[[Any], None] | None = None) -> Any:
    return triton.Config({"M": 64, "N": 64, "K": 128}, num_warps=4, num_stages=stages, pre_hook=pre_hook)


class Said(list[object]):
    rank = 3

    def send(self, fact: object) -> None:
        self.append(fact)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Said:
    """What a rank tells while it tunes on an H200."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    monkeypatch.setattr(triton.runtime.driver, "_active", H200())
    module = sys.modules[AUTOTUNER]
    monkeypatch.setattr(module.Autotuner, "prune_configs", module.Autotuner.prune_configs)
    said = Said()
    agent: Any = said
    observers = Observers(agent)
    observers.test = 7
    Staging(observers._dropped, said.append, lambda: H200_BYTES).install(module)
    return said


def tried(*configs: Any) -> list[int]:
    """The stages of those that would be benchmarked."""
    tuner = triton.autotune(configs=list(configs), key=["size"])(matmul)
    x = torch.ones(16, dtype=torch.bfloat16)
    tuner.nargs = dict(zip(tuner.arg_names, (x, x, x.float(), 1024), strict=False))
    return [c.num_stages for c in tuner.prune_configs({"grid": (1, 1), "warmup": False})]


def dropped_of(said: Said) -> tuple[ConfigsDropped, list[int]]:
    """What was reported, and the bytes that it names."""
    (fact,) = said
    assert isinstance(fact, ConfigsDropped)
    return fact, [int(text.split()[-2]) for text in fact.dropped]


def test_what_a_block_can_not_hold_is_not_tried(said: Said) -> None:
    assert tried(config(SMALL), config(LARGE)) == [SMALL]
    fact, needs = dropped_of(said)
    assert (fact.rank, fact.test, fact.kernel, fact.limit_bytes, fact.kept) == (3, 7, "matmul", H200_BYTES, False)
    assert fact.dropped == (f"M=64, N=64, K=128, num_warps=4, num_ctas=1, num_stages={LARGE}: {needs[0]} bytes",)
    assert H200_BYTES < needs[0] < 2 * H200_BYTES


def test_where_none_fits_all_are_tried_and_triton_says_why(said: Said) -> None:
    assert tried(config(LARGE), config(LARGER)) == [LARGE, LARGER]
    fact, needs = dropped_of(said)
    assert fact.kept
    assert H200_BYTES < needs[0] < needs[1]


def test_what_needs_can_not_be_learnt_is_tried(said: Said) -> None:
    def fails(arguments: object) -> None:
        raise RuntimeError("no descriptor")

    assert tried(config(SMALL), config(LARGE, fails)) == [SMALL, LARGE]
    assert tried(config(LARGE)) == [LARGE]  # the only one
    assert said == []


def test_a_device_that_does_not_say_its_limit_keeps_everything(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sys.modules[AUTOTUNER]
    monkeypatch.undo()
    failed: list[Exception] = []
    monkeypatch.setattr(module.Autotuner, "prune_configs", module.Autotuner.prune_configs)
    Staging(lambda *_: None, failed.append, lambda: SimpleNamespace().shared_memory_per_block_optin).install(module)
    assert tried(config(SMALL), config(LARGE)) == [SMALL, LARGE]
    assert [type(e) for e in failed] == [AttributeError]


def test_the_limit_itself_fits() -> None:
    a, b, c = config(1), config(2), config(3)
    kept, dropped = fitting([(a, 101), (b, 100), (c, None)], 100)
    assert kept == [b, c]
    assert dropped == ("M=64, N=64, K=128, num_warps=4, num_ctas=1, num_stages=1: 101 bytes",)


def test_a_module_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "awaited_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    before, seen = list(sys.meta_path), list[object]()
    when_imported("awaited_package.inner", lambda module: seen.append(module.VALUE))
    import_module("awaited_package")
    assert seen == []
    import_module("awaited_package.inner")
    assert seen == [3]
    assert sys.meta_path == before
    when_imported("awaited_package.inner", seen.append)
    assert seen == [3, sys.modules["awaited_package.inner"]]

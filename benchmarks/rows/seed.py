"""Owns the row ``seed``: the FSDP2 suite on 8 ranks with a cold compile cache, and with the seed that run left.

In each round the cold run publishes a seed, and a checkout of the suite in another directory begins with it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.commands import Workshop, command, failure_of, lane, lane_missing
from benchmarks.measure import Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS = 8
DEADLINE_S = 1_200.0
SUITE = Path("smoke_suites/fsdp2")
TESTS, TRAINING = 4, "test_training_equals_the_eager_reference"
PRELOAD = '[tool.pytest_megacpp]\npreload = ["torch.distributed.fsdp", "torch._inductor.compile_fx"]\n'
_METRICS = (
    Metric("wall_s", "whole command", "s", Relation.BASE_OVER_THIS),
    Metric("cpu_s", "CPU of the whole command", "s", Relation.BASE_OVER_THIS),
    Metric("compile_s", "compiling, of the slowest rank", "s", Relation.BASE_OVER_THIS),
    Metric("first_forward_s", "first forward of training, slowest rank", "s", Relation.BASE_OVER_THIS),
    Metric("misses", "cache misses, all ranks", "", Relation.NONE),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table: cold, then warm."""
    store = workshop.fresh("seeds")
    cold = Variant("cold", "cold", lambda _: _cold(workshop, store), missing=lane_missing())
    warm = Variant("warm", "its seed, elsewhere", lambda _: _warm(workshop, store), missing=lane_missing())
    return [
        Table("seed", f"FSDP2 and compile on {RANKS} CPU ranks", "warm well below cold", "cold", _METRICS, (cold, warm))
    ]


def _cold(workshop: Workshop, store: Path) -> Outcome:
    shutil.rmtree(store / "pytest-megacpp", ignore_errors=True)
    return _measure(workshop, store, "cold")


def _warm(workshop: Workshop, store: Path) -> Outcome:
    return _measure(workshop, store, "require")


def _measure(workshop: Workshop, store: Path, mode: str) -> Outcome:
    folder = workshop.fresh(f"fsdp2-{mode}")
    shutil.copytree(SUITE, folder / "suite" / "fsdp2")
    (folder / "pyproject.toml").write_text(PRELOAD, encoding="utf-8")
    asked = lane(folder / "suite", RANKS, folder / "lane", "--cache-seed", mode, "--import-mode=importlib")
    done = run(command(asked, folder, DEADLINE_S, {"XDG_CACHE_HOME": str(store)}))
    failure = failure_of(done, passed=TESTS)
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("lane/runs/*/receipts/*.json")]
    if failure is not None or not receipts:
        return Outcome(failure=failure or "no receipts")
    ranks = [rank for receipt in receipts for rank in receipt["ranks"]]
    by_rank = [sum(r["compile_s"] or 0.0 for r in ranks if r["rank"] == rank) for rank in range(RANKS)]
    training = next(receipt for receipt in receipts if receipt["nodeid"].endswith(f"::{TRAINING}"))
    seed = receipts[0]["seed"]
    return Outcome(
        {
            "wall_s": done.wall_s,
            "cpu_s": done.cpu_s,
            "compile_s": max(by_rank),
            "first_forward_s": max(rank["first_forward_s"] for rank in training["ranks"]),
            "misses": sum(rank["cache"]["misses"] or 0 for rank in ranks),
        },
        {"seed": f"{seed['state']} -> {seed['state_end']}, {seed['bytes_end']} bytes"},
    )

"""Owns the row ``watch``: what being watched costs a training step.

One test runs blocks of FSDP2 steps, in turns watched and with the box frozen by SIGSTOP. The shares are CPU time
of the threads that watch, over CPU time of the ranks; the ratios set neighbouring blocks against each other.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.commands import Workshop, command, failure_of, lane, lane_missing, write_case
from benchmarks.measure import Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

RANKS = 2
DEADLINE_S = 300.0
_METRICS = (
    Metric("server_share", "worker servers ÷ ranks, CPU while watched", "%", Relation.NONE, scale=1e2),
    Metric("box_share", "box ÷ ranks, CPU while watched", "%", Relation.NONE, scale=1e2),
    Metric("box_core", "box, of one core while watched", "%", Relation.NONE, scale=1e2),
    Metric("rank_core", "a rank, of one core while watched", "%", Relation.NONE, scale=1e2),
    Metric("idle_share", "worker servers ÷ ranks, CPU while not watched", "%", Relation.NONE, scale=1e2),
    Metric("cpu_ratio", "CPU of a step, watched ÷ not, median of pairs", "", Relation.NONE),
    Metric("wall_ratio", "time of a step, watched ÷ not, median of pairs", "", Relation.NONE),
)

Block = dict[str, float]


def tables(workshop: Workshop) -> list[Table]:
    """One table; what is not watched is the same process a moment later."""
    ours = Variant("ours", "ours", lambda _: _measure(workshop.fresh("watch")), missing=lane_missing())
    title = f"FSDP2 steps on {RANKS} CPU ranks, watched and not, in turns"
    return [Table("watch", title, "≤ 1 % of a step", "ours", _METRICS, (ours,))]


def _measure(folder: Path) -> Outcome:
    test = write_case(folder, "watched_steps", FOLDER=str(folder))
    done = run(command(lane(test, RANKS, folder / "lane"), folder, DEADLINE_S))
    failure = failure_of(done, passed=1)
    if failure is not None:
        return Outcome(failure=failure)
    return Outcome(_figures([json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]))


def _figures(ranks: list[list[Block]]) -> dict[str, float]:
    watched = [block for blocks in ranks for block in blocks if block["watched"]]
    unwatched = [block for blocks in ranks for block in blocks if not block["watched"]]
    first = [block for block in ranks[0] if block["watched"]]  # the box is the same for every rank
    return {
        "server_share": _total(watched, "server_cpu_s") / _total(watched, "rank_cpu_s"),
        "box_share": _total(first, "box_cpu_s") / _total(watched, "rank_cpu_s"),
        "box_core": _total(first, "box_cpu_s") / _total(first, "wall_s"),
        "rank_core": _total(first, "rank_cpu_s") / _total(first, "wall_s"),
        "idle_share": _total(unwatched, "server_cpu_s") / _total(unwatched, "rank_cpu_s"),
        "cpu_ratio": _paired(ranks, "rank_cpu_s"),
        "wall_ratio": _paired(ranks, "wall_s"),
    }


def _total(blocks: list[Block], name: str) -> float:
    return sum(block[name] for block in blocks)


def _paired(ranks: list[list[Block]], name: str) -> float:
    """Each watched block over the mean of the unwatched ones beside it."""
    ratios = [
        2 * blocks[number][name] / (blocks[number - 1][name] + blocks[number + 1][name])
        for blocks in ranks
        for number in range(2, len(blocks) - 1, 2)
    ]
    return statistics.median(ratios)

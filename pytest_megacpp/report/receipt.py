"""Owns receipts (`megacpp.receipt/1`): all that is known of one test on one run; must not know a clock or a file.

Times are seconds on the box's clock since the run began. Every field is there for every rank; what isn't known is
null or empty, and nothing is guessed.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from pytest_megacpp.judge.verdicts import Attempt, TestResult, Verdict
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.collectives import RankCollectives
from pytest_megacpp.recording.events import LIMIT_NAMES, ConfigsDropped, Json
from pytest_megacpp.recording.operations import describe
from pytest_megacpp.recording.texts import cut_middle
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import Phase, RankView, TestView
from pytest_megacpp.recording.vocabulary import WARM_UP_PHASE, ForwardOrigin, WarmUp
from pytest_megacpp.recording.waits import Moment, Wait, wait_graph
from pytest_megacpp.report.rank_output import Raised, raised
from pytest_megacpp.report.run_json import Redact, RunMeta, circumstances, cost_of_test, redacted
from pytest_megacpp.report.states import Scene, last_line, scene

SCHEMA = "megacpp.receipt/1"
MAX_SLUG_CHARS = 80
TEXT_CHARS = 4_000_000  # of the stacks and tracebacks of all ranks together; those of the blamed are never cut
LEAST_TEXT_CHARS = 2_000


def receipt_names(nodeids: Iterable[str]) -> list[str]:
    """The names of the receipts of a run's tests, all different: of equal node ids (pytest --keep-duplicates) later
    ones are numbered. An id can hold a secret (a parameter): give them redacted.
    """
    before: Counter[str] = Counter()
    names = []
    for nodeid in nodeids:
        names.append(receipt_name(nodeid, before[nodeid]))
        before[nodeid] += 1
    return names


def receipt_name(nodeid: str, nth: int = 0) -> str:
    """`a/test_b.py::test_c[x]` → `a-test_b.py-test_c-x-1f0c9a2b.json`: readable, unique, safe on any file system.

    `nth`: how many tests before it have this id.
    """
    text = f"{nodeid}\0{nth}" if nth else nodeid
    digest = hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", nodeid)[-MAX_SLUG_CHARS:].strip(".-")
    return f"{slug or 'test'}-{digest}.json"


def receipt(
    result: TestResult, timeline: Timeline, run: RunMeta, flights: Mapping[int, str] | None = None, *, redact: Redact
) -> dict[str, Json]:
    """The whole document of one test. `flights`: by number of an attempt, the directory with its ranks' flight records,
    relative to the run's.
    """
    flights = flights or {}
    where = scene(result, timeline)
    planned = timeline.planned.get(result.number)
    size = where.size or (planned.ranks if planned else 0)
    blamed, brief = set(result.verdict.blamed_ranks), _brief(size, redact)
    document: dict[str, Json] = {
        "schema": SCHEMA,
        "run_id": run.plan.run_id,
        "nodeid": result.nodeid,
        "outcome": str(result.outcome),
        "verdict": _verdict(result.verdict),
        "distributed_mode": _distributed_mode(where, size),
        "preset": where.test.preset if where.test else planned.preset if planned else None,
        "warmup": _why_warmed(timeline.tests.get(result.index)),
        "attempts": [_attempt(attempt, timeline, flights.get(attempt.number)) for attempt in result.attempts],
        "world_size": size or None,
        "backend": _backend(where, run),
        "dry_run": run.plan.dry_run,
        "limits": _limits(where.test, timeline.limit_s(run.plan.run_s)),
        "durations_s": to_json(result.durations),
        "ranks": [_rank(where, rank, str if rank in blamed else brief) for rank in range(size)],
        "skew": _skew_of(where.test, timeline.last_s),
        "flight_record": flights.get(result.number),
        "cost": to_json(cost_of_test(run, timeline, result.index)),
        "lane": run.plan.lane,
        "surface": run.plan.surface,
        "started_at": run.started_at,
        **circumstances(run, timeline, redact, result.index),
    }
    return redacted(document, redact)


def _verdict(verdict: Verdict) -> Json:
    fields: dict[str, Json] = to_json(verdict)
    return fields


def _why_warmed(first: TestView | None) -> str | None:
    """Why the first attempt was a warm-up, or was none; whatever attempt decided."""
    return first.warmup if first is not None else None


def _attempt(attempt: Attempt, timeline: Timeline, flight_record: str | None) -> Json:
    view = timeline.tests.get(attempt.number)
    return {
        "purpose": attempt.purpose,
        "preset": view.preset if view else None,
        "outcome": str(attempt.outcome),
        "verdict": _verdict(attempt.verdict),
        "limits": to_json(view.limits) if view else None,
        "start_s": view.started_s if view else None,
        "end_s": view.ended_s if view else None,
        "skew": _skew_of(view, timeline.last_s),
        "flight_record": flight_record,
        "ranks": [
            {
                "rank": rank.rank,
                "first_forward_s": rank.first_forward_s,
                **_compiled(rank),
                "collectives": _collectives(rank),
            }
            for _, rank in sorted(view.ranks.items())
        ]
        if view
        else [],
    }


def _distributed_mode(where: Scene, size: int) -> str | None:
    """What the ranks recorded under this name, if they agree; one rank alone is `single`."""
    views = where.test.ranks.values() if where.test else ()
    modes = {str(view.records["distributed_mode"]) for view in views if view.records.get("distributed_mode")}
    if modes:
        return modes.pop() if len(modes) == 1 else None
    return "single" if size == 1 else None


def _backend(where: Scene, run: RunMeta) -> str:
    """Of the collectives that ran (`gloo:all_reduce`), several joined; without any, what the launch provides."""
    views = where.test.ranks.values() if where.test else ()
    ops = {entry.op for view in views for entry in view.collectives.entries.values()}
    used = ",".join(sorted({op.partition(":")[0] for op in ops if ":" in op}))
    return used or ("gloo" if run.plan.dry_run else "nccl")


def _limits(test: TestView | None, run_s: float) -> dict[str, Json]:
    known: dict[str, Json] = to_json(test.limits) if test else {}
    return {name: (run_s or None) if name == "run" else known.get(name) for name in LIMIT_NAMES}


def _brief(size: int, redact: Redact) -> Redact:
    """Cuts what one of `size` ranks wrote, so that a receipt stays of a size to work with; redacts first."""
    chars = max(LEAST_TEXT_CHARS, TEXT_CHARS // max(size, 1))
    return lambda text: cut_middle(redact(text), chars)


def _rank(where: Scene, rank: int, brief: Redact) -> Json:
    view = where.test.ranks.get(rank) if where.test else None
    view = view or RankView(rank)
    return {
        "rank": rank,
        "hash_seed": where.world.hash_seeds.get(rank) if where.world else None,
        "phases": [{"name": p.name, "start_s": p.start_s, "end_s": _end_s(p, view)} for p in view.phases],
        "first_forward_s": view.first_forward_s,
        "first_forwards": [{"name": f.name, "seconds": f.seconds, "origin": f.origin} for _, f in view.first_forwards],
        "warmup": _warmup(view),
        **_compiled(view),
        "dropped_configs": [_dropped(fact) for fact in view.dropped],
        "collectives": _collectives(view),
        "device": _device(where, rank),
        "exit": _exit(where, view),
        "error": _error(raised(where, rank), brief),
        "stack": _stack(where, view, brief),
        "last_line": last_line(where, rank),
        "records": dict(view.records),
        "bucket_reads": [
            {"data": fact.name, "path": fact.path, "reads": fact.reads} for _, fact in view.bucket_reads.values()
        ],
    }


def _device(where: Scene, rank: int) -> Json:
    """The GPU that the rank reported, null on a CPU."""
    used = where.world.devices.get(rank) if where.world else None
    return {"index": used.index, "name": used.name, "uuid": used.uuid} if used else None


def _end_s(phase: Phase, view: RankView) -> float | None:
    """A phase of pytest ends with its report."""
    reported_s = next((time_s for when, (time_s, _) in view.reports.items() if when == phase.name), None)
    return phase.end_s if phase.end_s is not None else reported_s


def _warmup(view: RankView) -> Json:
    """Null where the test never spoke of one. One that ran counts, whatever else was skipped."""
    if any(p.name == WARM_UP_PHASE for p in view.phases):
        took_s = [f.seconds for _, f in view.first_forwards if f.origin is ForwardOrigin.WARM_UP]
        return {"reason": WarmUp.RUNS, "seconds": round(sum(took_s), 6) if took_s else None}
    return {"reason": view.warmup_skipped, "seconds": None} if view.warmup_skipped else None


def _compiled(view: RankView) -> dict[str, Json]:
    """The rank's own totals; for a rank that never reported them, what the box saw of its compile time."""
    if view.compiled is not None:
        totals = view.compiled
        cache: dict[str, Json] = {"hits": totals.cache_hits, "misses": totals.cache_misses}
        return {"compile_s": totals.seconds, "graphs": totals.graphs, "cache": cache}
    seen_s = None
    if view.sample is not None and view.first_sample is not None:
        seen_s = round(view.sample.compile_s - view.first_sample.compile_s, 6)
    return {"compile_s": seen_s, "graphs": None, "cache": {"hits": None, "misses": None}}


def _dropped(fact: ConfigsDropped) -> Json:
    return {"kernel": fact.kernel, "dropped": list(fact.dropped), "limit_bytes": fact.limit_bytes, "kept": fact.kept}


def _collectives(view: RankView) -> Json:
    """Counts of this test; `last` is the newest one that the rank entered."""
    entered, completed = _counts(view)
    return {"entered": entered, "completed": completed, "last": _last(view.collectives)}


def _last(seen: RankCollectives) -> Json:
    last = seen.last()
    if last is None:
        return None
    return {"group": last.group, "seq": last.seq, "op": describe(last), "done": seen.is_done(last)}


def _counts(view: RankView) -> tuple[int, int]:
    """Entered and completed: as the rank itself counted at its end, or what was seen from outside."""
    seen = [_counts_of(view.collectives, group) for group in {name for name, _ in view.collectives.entries}]
    entered, completed = sum(pair[0] for pair in seen), sum(pair[1] for pair in seen)
    own = view.counted
    return (max(entered, own.entered), max(completed, own.completed)) if own else (entered, completed)


def _counts_of(seen: RankCollectives, group: str) -> tuple[int, int]:
    """Entered and completed since the first entry kept: a group that serves several tests counts on and on."""
    entries = [entry for (name, _), entry in seen.entries.items() if name == group]
    before = min(entry.seq for entry in entries) - 1
    done = max((entry.seq for entry in entries if seen.is_done(entry)), default=before)
    completed = max(done, seen.completed.get(group, before))
    return max(seen.enqueued.get(group, before), completed) - before, completed - before


def _exit(where: Scene, view: RankView) -> Json:
    exited, at_s = view.exit, view.exit_s
    if exited is None and where.test is None and where.world is not None:
        at_s, exited = where.world.exits.get(view.rank, (None, None))
    return {
        "code": exited.code if exited else None,
        "signal": exited.signal if exited else None,
        "at_s": at_s,
        "oom_killed": exited.oom_killed if exited else None,
        "by_box": exited.expected if exited else None,
    }


def _error(error: Raised | None, brief: Redact) -> Json:
    if error is None:
        return None
    return {
        "type": error.type,
        "message": brief(error.message),
        "traceback": brief(error.traceback),
        "when": error.where,
        "file": error.file or None,
        "line": error.line or None,
    }


def _stack(where: Scene, view: RankView, brief: Redact) -> str | None:
    taken = [fact for _, fact in view.stacks]
    if where.test is None and where.world is not None and view.rank in where.world.stacks:
        taken = [where.world.stacks[view.rank][1]]
    return next((brief(fact.text) for fact in reversed(taken) if fact.ok), None)


def _skew_of(test: TestView | None, last_s: float) -> Json:
    if test is None:
        return {"first_forward_s": None, "worst_wait_s": None}
    views = test.ranks.values()
    firsts = [seconds for view in views if (seconds := view.first_forward_s) is not None]
    return {
        "first_forward_s": round(max(firsts) - min(firsts), 6) if len(firsts) > 1 else None,
        "worst_wait_s": _worst_wait_s(test, last_s),
    }


def _worst_wait_s(test: TestView, last_s: float) -> float | None:
    """The longest time a rank spent in a collective that another had not yet entered, finished or not."""
    end_s = next((s for s in (test.acted_s, test.ended_s) if s is not None), last_s)
    waits = [
        *_past_waits_s(test.ranks.values()),
        *(_open_wait_s(wait, end_s) for wait in wait_graph(test, Moment(end_s)).waits),
    ]
    waits += [test.acted.waited_s] if test.acted else []
    return round(max(waits), 6) if waits else None


def _past_waits_s(views: Iterable[RankView]) -> Iterable[float]:
    entered: dict[tuple[str, int], list[float]] = defaultdict(list)
    for view in views:
        for key, entry in view.collectives.entries.items():
            entered[key].append(entry.entered_s)
    return [max(times) - min(times) for times in entered.values() if len(times) > 1]


def _open_wait_s(wait: Wait, end_s: float) -> float:
    return max(0.0, end_s - wait.since_s) if wait.missing else 0.0

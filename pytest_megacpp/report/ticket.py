"""Owns the lines for a support ticket: where and on what a test hung that hangs at any size; must not know how it was
judged. The operators of the machine have neither the repository nor this plugin, so nothing is left to look up.
"""

from collections.abc import Iterable, Mapping, Sequence

from pytest_megacpp.judge.verdicts import Attempt, TestResult
from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.operations import describe
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import RankView, TestView
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import WIDTH, counted, grouped, grouped_texts, wrapped

NAME_CHARS = 11
KEPT_FAULTS = 8
KEPT_GROUPS = 8
_HOST = ("platform", "cpus", "memory_bytes", "shm_bytes", "free_disk_bytes")


def ticket(result: TestResult, timeline: Timeline, known: Mapping[str, str], width: int = WIDTH) -> list[str]:
    """The lines under their title. `known` is what only the desk knows, by name: `app`, `sandbox`, paths."""
    failed = [attempt for attempt in result.attempts if attempt.number in timeline.tests]
    rows = [
        ("run", _run(timeline)),
        ("place", _place(timeline)),
        *((name, known.get(name, "")) for name in ("app", "sandbox")),
        *_machine(timeline),
        *(("attempt", line) for attempt in failed for line in _attempt(attempt, timeline.tests[attempt.number])),
        *((name, known.get(name, "")) for name in ("flight", "recording")),
    ]
    return ["for a support ticket", *(line for name, text in rows if text for line in _row(name, text, width))]


def _row(name: str, text: str, width: int) -> list[str]:
    return wrapped(one_line(text, 1000), f"  {name:<{NAME_CHARS}}", " " * (NAME_CHARS + 2), width)


def _run(timeline: Timeline) -> str:
    started = timeline.started
    return f"{timeline.run_id}, began {started.started_at if started else 'at an unknown time'} (UTC)"


def _place(timeline: Timeline) -> str:
    started = timeline.started
    parts = [f"{started.surface}, lane {started.lane}, {counted(started.ranks, 'rank')}"] if started else []
    return ", ".join([*parts, *(["dry run on CPU/gloo"] if started and started.dry_run else [])])


# -- the machine -------------------------------------------------------------------------------------------


def _machine(timeline: Timeline) -> Iterable[tuple[str, str]]:
    ready = timeline.ready
    if ready is None:
        return
    gpus = _object(ready.facts.get("gpus"))
    yield "image", str(ready.facts.get("image") or "")
    rented = _object(ready.facts.get("machine"))
    yield "machine", ", ".join(f"{name} {value}" for name, value in rented.items() if value and name != "sandbox")
    versions = dict(ready.versions) | ({"driver": str(gpus["driver"])} if gpus.get("driver") else {})
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "GPUs", ", ".join(f"{len(alike)} × {name}" for name, alike in grouped((d, d) for d in ready.devices).items())
    yield from (("GPU", ", ".join(_state(_object(state)))) for state in _list(gpus.get("states")))
    yield from (("topology", line) for line in _topology(gpus.get("topology")))
    yield "faults", "; ".join(_faults(timeline)) or ("none reported" if ready.devices else "")
    yield "host", ", ".join(f"{name} {ready.facts[name]}" for name in _HOST if ready.facts.get(name) is not None)


def _state(state: Mapping[str, Json]) -> Iterable[str]:
    """Its name to the driver, and what of its health isn't as it should be."""
    yield from (str(state[name]) for name in ("uuid", "bus_id") if state.get(name))
    yield from (f"{name} {state[name]}" for name in ("uncorrected", "remap_pending", "remap_failed") if state.get(name))


def _topology(matrix: Json) -> Iterable[str]:
    """Of each GPU the ways to all, as the driver lists them."""
    yield from (" ".join(map(str, _list(row))) for row in _list(matrix))


def _faults(timeline: Timeline) -> list[str]:
    seen = [fault for world in timeline.worlds.values() for fault in world.faults]
    faults = [f"{fault.error} {fault.code} on {fault.uuid or fault.device} at {time_s:.1f} s" for time_s, fault in seen]
    ready = timeline.ready
    before = _list(_object(ready.facts.get("gpus")).get("xids")) if ready else []
    return [*faults, *(f"xid {_object(xid).get('code')} in the kernel's log before" for xid in before)][:KEPT_FAULTS]


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else []


# -- what ranks came to ------------------------------------------------------------------------------------


def _attempt(attempt: Attempt, view: TestView) -> Iterable[str]:
    """When it ran and how it ended, then the last collective of each rank."""
    ended = f"to {view.ended_s:.1f} s" if view.ended_s is not None else "without an end"
    yield f"{attempt.purpose}, preset {view.preset}, from {view.started_s:.1f} s {ended}: {attempt.verdict.code}"
    groups = grouped_texts([(rank, _last(seen)) for rank, seen in sorted(view.ranks.items())])
    yield from (f"  {ranks_named(ranks)}: {text}" for ranks, text in _first(groups))


def _first(groups: Sequence[tuple[list[int], str]]) -> Iterable[tuple[list[int], str]]:
    left = groups[KEPT_GROUPS:]
    yield from groups[:KEPT_GROUPS]
    if left:
        yield [rank for ranks, _ in left for rank in ranks], "in the receipt"


def _last(seen: RankView) -> str:
    last = seen.collectives.last()
    if last is None:
        return "no collective"
    state = "done" if seen.collectives.is_done(last) else "entered"
    return f"{describe(last)} #{last.seq} of group {one_line(last.group, 40)}, {state}"

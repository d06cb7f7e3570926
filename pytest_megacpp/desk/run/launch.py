"""Owns turning selected items into a plan and choosing where it runs; must not start anything."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.lanes import DRILL_MARK
from pytest_megacpp.desk.config.markers import Expectation, MarkerArguments, expectation, marker_arguments
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.config.prices import allowance
from pytest_megacpp.desk.source.nodes import marks_without_arguments
from pytest_megacpp.recording.naming import PLANNING_MARKS
from pytest_megacpp.recording.plan import MAX_TESTS, Plan, PlannedTest, SeedPlan
from pytest_megacpp.recording.seed_layout import BAKED_DIR
from pytest_megacpp.recording.vocabulary import SeedMode
from pytest_megacpp.report.money import Rate
from pytest_megacpp.surfaces.protocol import Place
from pytest_megacpp.surfaces.registry import AUTO, attachable, automatic, provider


def choose_place(options: Options, environ: Mapping[str, str], devices: Callable[[], int]) -> Place:
    """`auto` never degrades in silence. `devices` tells how many GPUs this machine has. Raises UsageError."""
    surface = automatic(environ) if options.surface == AUTO else provider(options.surface, options.tables)
    if options.detach and surface.attaching is None:
        titles = " or ".join(able.title for able in attachable(options.tables))
        names = " or ".join(able.name for able in attachable(options.tables))
        raise pytest.UsageError(f"--detach leaves a run on {titles}: pass --surface {names}")
    return surface.place(options, environ, devices)


def rate_of(place: Place, options: Options, lane: str, ranks: int) -> Rate:
    """What a box of this lane costs there."""
    return provider(place.surface, options.tables).rate(options, options.lanes[lane].gpu, ranks, dry_run=place.dry_run)


def longest_s(place: Place, options: Options, lane: str) -> float | None:
    """How long a box may take at most, whatever its tests: None when nothing bounds it."""
    return provider(place.surface, options.tables).longest_s(options, options.run_limit_s(lane))


def worst_s(plan: Plan, longest: float | None) -> float:
    """How long a run can take by its limits: every test fails and needs ranks of its own."""
    tests_s = sum(_worst_s(test, triage=plan.triage) for test in plan.tests)
    return min(limit for limit in (tests_s, plan.run_s, longest) if limit)


def _worst_s(test: PlannedTest, *, triage: bool) -> float:
    """A test that may have to warm up runs twice, the first time with the time to compile; `--triage` orders at most
    four attempts.
    """
    once_s = test.limits.startup + test.limits.test
    if triage and not test.drill:
        return 4 * once_s + test.limits.compile
    return 2 * once_s + test.limits.compile if test.cache_seed.warms_up and not test.drill else once_s


@dataclass(frozen=True, slots=True)
class Selected:
    """A lane item and what its marks say; `drill` is the verdict that it expects. `must_run`: a gate takes no skip."""

    item: pytest.Item
    arguments: MarkerArguments
    drill: Expectation | None
    must_run: bool = False


def select(
    items: Sequence[pytest.Item],
    lane: str,
    timeout_s: Callable[[pytest.Item], float | None],
    must_run: Callable[[pytest.Item], bool],
) -> tuple[Selected, ...]:
    """`timeout_s`: a test's `test` limit where its lane marks name none. Raises UsageError for an invalid mark, and for
    more tests than a run can have.
    """
    if len(items) > MAX_TESTS:
        how_many = f"{len(items)} tests are marked {lane}, and a run can have at most {MAX_TESTS}"
        raise pytest.UsageError(f"{how_many}: select fewer at a time (-k, paths)")
    chosen = ((item, _arguments(item, lane, timeout_s(item)), _drill(item)) for item in items)
    return tuple(Selected(item, marks, drill, drill is None and must_run(item)) for item, marks, drill in chosen)


def _arguments(item: pytest.Item, lane: str, timeout_s: float | None) -> MarkerArguments:
    _check_read(item, lane)
    marked = marker_arguments(item.iter_markers(lane), item.nodeid)
    return marked if timeout_s is None else replace(marked, limits={"test": timeout_s, **marked.limits})


def _check_read(item: pytest.Item, lane: str) -> None:
    """Raises UsageError for a test that was read from its source, which doesn't tell how to run it."""
    for name in sorted(marks_without_arguments(item) & {lane, *PLANNING_MARKS}):
        raise pytest.UsageError(
            f"{item.nodeid}: the arguments of @pytest.mark.{name} can't be read from the source, and the file can't be"
            " imported here: write them as literals, or run where it can be"
        )


def _drill(item: pytest.Item) -> Expectation | None:
    mark = item.get_closest_marker(DRILL_MARK)
    return expectation(mark, item.nodeid) if mark is not None else None


def make_plan(
    run_id: str,
    lane: str,
    selected: Sequence[Selected],
    options: Options,
    place: Place,
    config: pytest.Config,
    revision: str,
) -> Plan:
    """The plan of one box for all selected tests of a lane. `revision` is the commit of the source."""
    shape = options.lanes[lane]
    tests = tuple(_planned(s, lane, options, dry_run=place.dry_run) for s in selected)
    ranks = max((t.ranks for t in tests), default=shape.ranks)
    from pytest_megacpp.desk.config.seed import project_of

    invocation, kept = config.invocation_params, options.seed
    return Plan(
        run_id=run_id,
        lane=lane,
        surface=place.surface,
        gpu=shape.gpu,
        devices=0 if place.dry_run else ranks,
        ranks=ranks,
        dry_run=place.dry_run,
        fsdp=any(test.shards for test in tests),
        tests=tests,
        args=_arguments_of_ranks(config),
        cwd=str(invocation.dir),
        seed=SeedPlan(
            mode=options.cache_seed_for(None, dry_run=place.dry_run),
            stores=(str(kept.dir), BAKED_DIR),
            ranks=options.ranks or shape.ranks,
            preset=options.preset_for(lane, None),
            min_bytes=kept.min_bytes,
            keep=kept.keep,
            max_bytes=kept.max_bytes,
            project=project_of(kept, options.project),
        ),
        run_s=options.run_limit_s(lane, [s.arguments.limits for s in selected]) or 0.0,
        maxfail=int(config.getoption("maxfail", 0) or 0),
        preload=options.preload,
        path=_sys_path(),
        root=_relative(config.rootpath, invocation.dir),
        ini=_relative(config.inipath, invocation.dir) if config.inipath else "",
        environment=options.environment_for(lane),
        budget_s=allowance(options.lane_budget, rate_of(place, options, lane, ranks)).run_s,
        revision=revision,
        triage=options.triage,
        hash_seed=options.hash_seed,
        data=provider(place.surface, options.tables).data_sets(
            options, {**os.environ, **options.environment_for(lane)}
        ),
    )


def _relative(path: Path, to: Path) -> str:
    """With slashes: the box may not run on the desk's system."""
    return Path(os.path.relpath(path, to)).as_posix()


def _arguments_of_ranks(config: pytest.Config) -> tuple[str, ...]:
    """The user's own; pytest-randomly's ranks all get the desk's seed, or each would draw one."""
    args = tuple(str(a) for a in config.invocation_params.args)
    seed = config.getoption("randomly_seed", None)
    if type(seed) is not int:
        return args
    at = args.index("--") if "--" in args else len(args)
    return (*args[:at], f"--randomly-seed={seed}", *args[at:])


def _planned(selected: Selected, lane: str, options: Options, *, dry_run: bool) -> PlannedTest:
    marked = selected.arguments
    return PlannedTest(
        nodeid=selected.item.nodeid,
        ranks=ranks_of(selected, lane, options),
        preset=options.preset_for(lane, marked.preset),
        limits=options.limits_for(lane, marked.limits),
        fresh=marked.fresh or (marked.cache_seed is SeedMode.COLD and options.cache_seed is not SeedMode.COLD),
        drill=selected.drill is not None,
        must_run=selected.must_run,
        cache_seed=options.cache_seed_for(marked.cache_seed, dry_run=dry_run),
        shards=_shards(Path(selected.item.path)),
    )


def ranks_of(selected: Selected, lane: str, options: Options) -> int:
    shape = options.lanes[lane]
    ranks = selected.arguments.ranks or options.ranks or shape.ranks
    if ranks > shape.devices:
        asked = "its marker" if selected.arguments.ranks else "--ranks"
        raise pytest.UsageError(
            f"{selected.item.nodeid}: {asked} asks for {ranks} ranks, but lane {lane} is {shape.gpu}: at most"
            f" {shape.devices}. For more, configure a larger lane in [tool.pytest_megacpp.lanes]"
        )
    return ranks


@cache
def _shards(path: Path) -> bool:
    """Whether a test file is about FSDP, which decides one variable of the contract."""
    try:
        return "fsdp" in f"{path}\n{path.read_text(encoding='utf-8', errors='replace')}".lower()
    except OSError:
        return False


def _sys_path() -> tuple[str, ...]:
    import sys

    return tuple(os.path.abspath(p) if p else os.getcwd() for p in sys.path)

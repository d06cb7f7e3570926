"""Owns what the user asked for, on the command line, in `MEGACPP_*` and `[tool.pytest_megacpp]`; not how it is done.

Each option and each table is declared once, as a field of `Options`; what follows from that is in `declarations`.
Every session pays for importing this module, so it needs pytest and what pytest itself has already imported, and
nothing of the recording's language until a lane test asks for its limits.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_megacpp.desk.config import declarations
from pytest_megacpp.desk.config.declarations import option, pairs, switch, table
from pytest_megacpp.desk.config.lanes import LaneConfig, limit_entry, read_environment, read_lanes, read_limits
from pytest_megacpp.desk.config.pyproject import TABLE, nearest_pyproject, read_table
from pytest_megacpp.desk.config.tables import DeferredTables
from pytest_megacpp.settings.checks import (
    ANNOTATIONS,
    LIMIT_NAMES,
    Unparsed,
    at_least_0,
    budget,
    cache_seed,
    count,
    directory,
    hash_seed,
    interval,
    known,
    module_names,
    preset,
    rank_set,
    text,
)
from pytest_megacpp.surfaces import registry

if TYPE_CHECKING:
    from pytest_megacpp.desk.config.gate import Rule
    from pytest_megacpp.recording.events import Limits
    from pytest_megacpp.recording.vocabulary import Preset, SeedMode

DEFAULT_LANE_DIR = ".megacpp"
DEFAULT_HEARTBEAT_S = Unparsed("30")
DEFAULT_BOXES = Unparsed("1")


def read_gate(value: object) -> "tuple[Rule, ...]":
    """The rules of the gate. Raises UsageError."""
    if value == []:
        return ()  # most sessions have none
    from pytest_megacpp.desk.config.gate import read_rules

    return read_rules(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Options(DeferredTables):
    """All options and tables, checked, in the order in which users read about them.

    `given` are the names of the options on the command line. `project` is the directory of the configuration. `tables`
    are those that are checked when they are asked for.
    """

    given: frozenset[str]
    project: Path
    tables: Mapping[str, object]

    surface: str = option(
        partial(known, valid=registry.CHOICES, what="surface"),
        default="auto",
        metavar=f"{{{','.join(registry.CHOICES)}}}",
        help="where lane tests run; on the command line it also requests them",
        more=". `auto` is Modal where credentials are configured, otherwise this machine: on its GPUs, or without any "
        "a dry run, as the header says. Under `CI` without credentials `auto` is an error unless you pass `--dry-run`, "
        "and so is `local` on a machine without GPUs: a gate never degrades silently",
    )
    ranks: int | None = option(
        partial(count, what="the world size"),
        metavar="N",
        help="world size of lane tests that do not fix their own",
    )
    dry_run: bool = switch(help="use CPU and gloo even where there are GPUs")
    preset: "Preset | None" = option(preset, metavar="{full,diagnostic}", help="which size the suites build")
    cache_seed: "SeedMode | None" = option(
        cache_seed,
        metavar="{auto,require,cold,refresh}",
        help="what to do with the kept compile cache before tests are measured: warm up what it lacks (auto; the "
        "default on GPUs), refuse tests for which it lacks something (require), ignore it (cold), or warm up all "
        "(refresh)",
        more="; see [seeds](seed.md)",
    )
    boxes: int = option(
        partial(count, what="the number of boxes"),
        default=DEFAULT_BOXES,
        metavar="N",
        help="deal the tests of each lane to up to N boxes that run at the same time",
        more=", by how long they took before; one result, and a budget for all of them together "
        "([several boxes](guide.md#several-boxes))",
        excludes={
            "detach": "a run that is left to itself is one box",
            "attach": "one run is one box",
            "replay": "one recording is of one box",
        },
    )
    triage: bool = switch(
        help="on compile skew, mismatch or hang, retry automatically with a warm-up, the diagnostic preset or torch's "
        "own comparison, and report every attempt",
        more=" ([triage](triage.md))",
        excludes={
            "detach": "the tests of a detached run are not judged, so none can be retried",
            "attach": "the run was submitted already, and its tests can no longer be retried",
            "replay": "a recording can't be run again",
        },
    )
    lane_limit: Mapping[str, float] = pairs(
        limit_entry,
        metavar="NAME=SECONDS",
        help=f"override a limit ({', '.join(LIMIT_NAMES)}); repeatable",
        more=". The variable takes several (`stall=60,test=300`); in the configuration, limits have a "
        "[table](configuration.md#tables)",
    )
    lane_budget: float | None = option(
        budget,
        metavar="USD",
        help="refuse a launch that cannot start for this amount, and end a run before it costs more; for each lane",
    )
    untrusted: bool = switch(
        help="treat the code as untrusted: no secrets, no open network, no shared cache",
        more=" ([threat model](threat-model.md))",
    )
    lane_dir: Path = option(
        directory,
        default=DEFAULT_LANE_DIR,
        metavar="DIR",
        help=f"where runs are kept (default: {DEFAULT_LANE_DIR})",
    )
    gate_since: str | None = option(
        partial(text, what="the revision"),
        metavar="REV",
        help="run only the lane tests affected by changes since REV, according to the rules in "
        "[[tool.pytest_megacpp.gate]]",
        more=" ([gating pull requests](guide.md))",
    )
    lane_annotations: str = option(
        partial(known, valid=ANNOTATIONS, what="choice"),
        default="auto",
        metavar="{auto,on,off}",
        help="annotations and a summary for code reviews (auto: on GitHub, GitLab and Buildkite)",
    )
    replay: str | None = option(
        partial(text, what="the recording"),
        metavar="RECORDING",
        help="judge a recording, given by path or run id, instead of running on a machine",
    )
    detach: bool = switch(
        only_typed=True,
        help="submit to Modal, print the run id and exit",
        more="; the session skips its lane tests",
    )
    attach: str | None = option(
        partial(text, what="the run"),
        metavar="RUN",
        has_variable=False,
        has_key=False,
        help="fetch the results of a Modal run, streaming them if it is still running",
        more=", as often as you like; if nothing is left of the run, its tests are `box-lost`",
        excludes={
            "detach": "one submits a run, the other needs one that was submitted",
            "replay": "the results are either a run's on Modal or a recording's",
        },
    )
    hash_seed: int | None = option(
        hash_seed,
        metavar="N",
        help="PYTHONHASHSEED of ranks: N for one half, N+1 for the other, as a receipt records it; random by default",
        more=" ([chance](environment.md#chance))",
    )

    pdb_rank: int | None = option(
        partial(at_least_0, what="the rank"),
        metavar="R",
        has_variable=False,
        has_key=False,
        help="hand this terminal to breakpoint() in rank R of a box on this machine, with --pdb also to a debugger "
        "where a test fails; no limit runs meanwhile",
        more=" ([debugging](guide.md#8-debugging-a-rank))",
        excludes={
            "detach": "nobody waits for the tests of a detached run",
            "attach": "the run was started without a terminal",
            "replay": "a recording can't be debugged",
            "boxes": "there is one terminal",
        },
    )
    lane_output: frozenset[int] = option(
        rank_set,
        default="all",
        metavar="RANKS",
        help="with -s: whose output is shown while ranks run, such as 0, 0,3, 0-3 or all (the default)",
        more=" ([output](reading-a-run.md#output-of-ranks))",
    )
    lane_heartbeat: float = option(
        partial(interval, what="the heartbeat"),
        default=DEFAULT_HEARTBEAT_S,
        metavar="SECONDS",
        help="where no board is drawn (CI, a pipe, -q), a line about each running test every so many seconds (default: "
        f"{DEFAULT_HEARTBEAT_S}; 0: no lines while tests run)",
        more=" ([the board](reading-a-run.md#while-it-runs))",
    )

    limits: Mapping[str, float] = table(read_limits, absent={})
    lanes: Mapping[str, LaneConfig] = table(read_lanes, absent={})
    preload: tuple[str, ...] = table(partial(module_names, where=f"preload in {TABLE}"), absent=[])
    environment: Mapping[str, str] = table(read_environment, absent={})
    gate: "tuple[Rule, ...]" = table(read_gate, absent=[])

    @property
    def surface_given(self) -> bool:
        """Whether the command line asks for lane tests by their surface; a variable or key doesn't."""
        return "surface" in self.given

    @property
    def gate_since_given(self) -> bool:
        return "gate_since" in self.given

    def limits_for(self, lane: str, marker: Mapping[str, float]) -> "Limits":
        """The limits of one test: command line, marker, lane, configuration, default; the first that names one."""
        from pytest_megacpp.recording.events import Limits

        merged = {**self.limits, **self.lanes[lane].limits, **marker, **self.lane_limit}
        return Limits(**{name: value for name, value in merged.items() if name != "run"})

    def run_limit_s(self, lane: str, markers: Iterable[Mapping[str, float]] = ()) -> float | None:
        """The limit of the whole box: of several markers the longest; None without one."""
        asked = [marker["run"] for marker in markers if "run" in marker]
        merged = {**self.limits, **self.lanes[lane].limits, **({"run": max(asked)} if asked else {})}
        return (merged | dict(self.lane_limit)).get("run")

    def sharing_budget(self, boxes: int) -> "Options":
        """The options of each of so many boxes, which have the budget together."""
        return self if self.lane_budget is None else replace(self, lane_budget=self.lane_budget / boxes)

    def environment_for(self, lane: str) -> dict[str, str]:
        """What is set for a launch: the lane's variables, then those of all lanes."""
        return {**self.environment, **self.lanes[lane].environment}

    def cache_seed_for(self, marker: "SeedMode | None", *, dry_run: bool) -> "SeedMode":
        """The marker's, the option's, or `auto`; on a dry run, where skew costs nothing, a warm-up has to be asked for.
        What a marker requires is made by the warm-up that is asked for.
        """
        from pytest_megacpp.recording.vocabulary import SeedMode

        if marker is SeedMode.REQUIRE and self.cache_seed is not None and self.cache_seed.warms_up:
            return self.cache_seed
        return marker or self.cache_seed or (SeedMode.AS_IT_IS if dry_run else SeedMode.AUTO)

    def preset_for(self, lane: str, marker: "Preset | None") -> "Preset":
        """The marker's, the option's, the lane's, or `full`."""
        from pytest_megacpp.recording.vocabulary import Preset

        return marker or self.preset or self.lanes[lane].preset or Preset.FULL


TABLES = (*registry.TABLES, *declarations.deferred_tables_of(Options))
KEYS = (*declarations.keys_of(Options), *registry.TABLES)


def add_options(parser: pytest.Parser) -> None:
    """Declares the command line."""
    group = parser.getgroup("megacpp", "distributed lanes (pytest-megacpp)")
    for name, declared in declarations.options_of(Options).items():
        declarations.add_option(group, name, declared)


def read_options(config: pytest.Config) -> Options:
    """Command line, variables and configuration, checked. Raises UsageError."""
    pyproject = nearest_pyproject(config.rootpath)
    settings = read_settings(pyproject)
    given, typed_in = declarations.given_of(Options, config), config.invocation_params.dir
    sources = declarations.Sources(given, os.environ, settings, typed_in=typed_in, configured_in=config.rootpath)
    return Options(
        **declarations.read_declared(Options, sources),
        given=frozenset(sources.given),
        project=pyproject.parent,
        tables={name: settings[name] for name in TABLES if name in settings},
    )


def read_lane_dir(given: str | None, settings: Mapping[str, object], root: Path) -> Path:
    """That of a command, where `given` is its `--lane-dir` and the configuration is in `root`. Raises UsageError."""
    sources = declarations.Sources({"lane_dir": given}, os.environ, settings, typed_in=Path(), configured_in=root)
    directory: Path = declarations.read_option("lane_dir", declarations.options_of(Options)["lane_dir"], sources)
    return directory


def read_settings(pyproject: Path) -> dict[str, object]:
    """`[tool.pytest_megacpp]`, its keys checked; empty without a file or without the table. Raises UsageError."""
    settings = read_table(pyproject)
    for key in settings:
        known(key, KEYS, what="key", where=TABLE)
    return settings

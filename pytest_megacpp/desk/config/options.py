"""Owns what the user asked for, on the command line, in `MEGACPP_*` and `[tool.pytest_megacpp]`; not how it is done.

The command line beats the variables, which beat the configuration. Every session pays for importing this module, so it
needs pytest and what pytest itself has already imported, and nothing of the recording's language until a lane test
asks for its limits.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_megacpp.settings.checks import (
    ANNOTATIONS,
    LIMIT_NAMES,
    count,
    flag,
    known,
    member,
    said_flag,
    seconds,
    table,
    text,
)
from pytest_megacpp.surfaces import registry

if TYPE_CHECKING:
    from pytest_megacpp.desk.config.gate import Rule
    from pytest_megacpp.desk.config.seed import SeedConfig
    from pytest_megacpp.recording.events import Limits
    from pytest_megacpp.recording.vocabulary import Preset, SeedMode
    from pytest_megacpp.surfaces.data_config import DataConfig
    from pytest_megacpp.surfaces.prices import Prices
    from pytest_megacpp.surfaces.source import SourceConfig

DRILL_MARK = "expect_verdict"
TABLE = "[tool.pytest_megacpp]"
DEFAULT_LANE_DIR = ".megacpp"
MAX_HASH_SEED = (1 << 32) - 2  # of Python's, and there is a next one
OPTION_KEYS = (  # each an option and a variable too
    *("surface", "ranks", "dry_run", "preset", "lane_dir", "replay", "gate_since", "untrusted"),
    *("lane_annotations", "lane_budget", "cache_seed", "triage", "hash_seed"),
)
TABLES = (*registry.TABLES, "source", "prices", "seed", "data")  # read when somebody needs them
KEYS = (*OPTION_KEYS, "limits", "lanes", "preload", "environment", "gate", *TABLES)
RESERVED_MARKS = frozenset(
    {"parametrize", "skip", "skipif", "xfail", "usefixtures", "filterwarnings", "tryfirst", "trylast", "timeout"}
    | {DRILL_MARK}
)
_GPU = re.compile(r"(?P<type>[A-Za-z0-9][A-Za-z0-9_+!-]*)(?::(?P<count>[1-9]\d{0,4}))?")


@dataclass(frozen=True)
class LaneConfig:
    """A named launch shape: `gpu` as Modal spells it (`H200:8`), `ranks` the world size, `limits` in seconds. Its
    `environment` beats that of all lanes.
    """

    name: str
    gpu: str
    ranks: int
    preset: "Preset | None" = None
    limits: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """How many GPUs `gpu` asks for."""
        return int(self.gpu.partition(":")[2] or 1)


@dataclass(frozen=True)
class Options:
    """All options, checked. `surface_given`: on the command line, which asks for lane tests; `ranks` None: the lane's.

    `detach`: leave once the run is submitted; `attach`: the id of a run on Modal to listen to.

    `untrusted`: the tests are a stranger's. `budget_usd` is what a run may cost. `tables` are read when needed.

    `replay` is what `desk.run.runs.find_recording` accepts. `gate_since` is a revision; what `rules` name counts from
    `project`, the directory of the configuration. `given_limits` come from the command line, `limits` from the
    configuration; lanes have more of their own. `annotations`: auto, on, off.

    `cache_seed` None: nobody said. `triage`: go on by the order of diagnosis.

    `hash_seed`: of the first ranks' string hashes; None: drawn.
    """

    surface: str
    surface_given: bool
    ranks: int | None
    dry_run: bool
    preset: "Preset | None"
    lane_dir: Path
    replay: str | None
    gate_since: str | None
    gate_since_given: bool
    rules: "tuple[Rule, ...]"
    project: Path
    annotations: str
    cache_seed: "SeedMode | None"
    triage: bool
    hash_seed: int | None
    given_limits: Mapping[str, float]
    limits: Mapping[str, float]
    lanes: Mapping[str, LaneConfig]
    preload: tuple[str, ...]
    environment: Mapping[str, str]
    untrusted: bool
    budget_usd: float | None
    tables: Mapping[str, object]
    detach: bool = False
    attach: str | None = None

    @cached_property
    def data(self) -> "tuple[DataConfig, ...]":
        """`[tool.pytest_megacpp.data]`, loaded when it is asked for and there. Raises UsageError."""
        if "data" not in self.tables:
            return ()
        from pytest_megacpp.desk.config.data import read_data

        return read_data(self.tables["data"], self.project)

    @cached_property
    def prices(self) -> "Prices":
        """`[tool.pytest_megacpp.prices]`, loaded when it is asked for. Raises UsageError."""
        from pytest_megacpp.desk.config.prices import read_prices

        return read_prices(self.tables.get("prices", {}), untrusted=self.untrusted)

    @cached_property
    def source(self) -> "SourceConfig":
        """`[tool.pytest_megacpp.source]`, loaded when it is asked for. Raises UsageError."""
        from pytest_megacpp.desk.config.source import read_source

        return read_source(self.tables.get("source", {}))

    @cached_property
    def seed(self) -> "SeedConfig":
        """`[tool.pytest_megacpp.seed]`, loaded when it is asked for. Raises UsageError."""
        from pytest_megacpp.desk.config.seed import read_seed

        return read_seed(self.tables.get("seed", {}), self.project)

    def limits_for(self, lane: str, marker: Mapping[str, float]) -> "Limits":
        """The limits of one test: command line, marker, lane, configuration, default; the first that names one."""
        from pytest_megacpp.recording.events import Limits

        merged = {**self.limits, **self.lanes[lane].limits, **marker, **self.given_limits}
        return Limits(**{name: value for name, value in merged.items() if name != "run"})

    def run_limit_s(self, lane: str, markers: Iterable[Mapping[str, float]] = ()) -> float | None:
        """The limit of the whole box: of several markers the longest; None without one."""
        asked = [marker["run"] for marker in markers if "run" in marker]
        merged = {**self.limits, **self.lanes[lane].limits, **({"run": max(asked)} if asked else {})}
        return (merged | dict(self.given_limits)).get("run")

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


def add_options(parser: pytest.Parser) -> None:
    """Declares the command line."""
    group = parser.getgroup("megacpp", "distributed lanes (pytest-megacpp)")
    add = group.addoption
    add(
        "--surface",
        metavar=f"{{{','.join(registry.CHOICES)}}}",
        dest="megacpp_surface",
        help="where lane tests run; giving it asks for them",
    )
    add("--ranks", metavar="N", dest="megacpp_ranks", help="world size of lane tests that don't fix their own")
    add("--dry-run", action="store_true", default=None, dest="megacpp_dry_run", help="run lanes on CPU/gloo")
    add("--preset", metavar="{full,diagnostic}", dest="megacpp_preset", help="which size the suites build")
    add(
        "--cache-seed",
        metavar="{auto,require,cold,refresh}",
        dest="megacpp_cache_seed",
        help="the compile cache to begin with: warm up first where it lacks something (auto; the default on GPUs),"
        " refuse then (require), begin without on purpose (cold), or warm up again (refresh)",
    )
    add(
        "--triage",
        action="store_true",
        default=None,
        dest="megacpp_triage",
        help="after a compile skew, a mismatch or a hang go on by the order of diagnosis, and report both outcomes",
    )
    add(
        "--hash-seed",
        metavar="N",
        dest="megacpp_hash_seed",
        help="salt the string hashes of ranks with N and N+1, as a receipt of a run says; drawn without it",
    )
    add(
        "--lane-limit",
        metavar="NAME=SECONDS",
        action="append",
        default=[],
        dest="megacpp_lane_limit",
        help=f"override a limit ({', '.join(LIMIT_NAMES)}); repeatable",
    )
    add(
        "--untrusted",
        action="store_true",
        default=None,
        dest="megacpp_untrusted",
        help="the code is a stranger's: its box gets no secrets, no open network and no shared cache",
    )
    add(
        "--lane-budget",
        metavar="USD",
        dest="megacpp_lane_budget",
        help="refuse a launch, and end a run, that would cost more; for each lane of the session",
    )
    add("--lane-dir", metavar="DIR", dest="megacpp_lane_dir", help=f"where runs are kept (default: {DEFAULT_LANE_DIR})")
    add(
        "--lane-annotations",
        metavar="{auto,on,off}",
        dest="megacpp_lane_annotations",
        help="GitHub annotations and a step summary (auto: in a GitHub workflow)",
    )
    add(
        "--gate-since",
        metavar="REV",
        dest="megacpp_gate_since",
        help="run only lane tests that what changed since REV may touch, by the rules of [[tool.pytest_megacpp.gate]]",
    )
    add(
        "--replay",
        metavar="RECORDING",
        dest="megacpp_replay",
        help="judge a recording (or run id) in place of a machine",
    )
    add(
        "--detach",
        action="store_true",
        dest="megacpp_detach",
        help="submit to Modal and leave with the run id",
    )
    add(
        "--attach",
        metavar="RUN",
        dest="megacpp_attach",
        help="take the results of a run on Modal, live if it works yet",
    )


def twin(name: str) -> str:
    """The variable that stands for an option: `lane_dir` → `MEGACPP_LANE_DIR`."""
    return f"MEGACPP_{name.upper()}"


def misspelt_twins(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like one of ours and is none; ranks' own and users' are left in peace."""
    from difflib import get_close_matches

    twins = [twin(name) for name in (*OPTION_KEYS, "lane_limit")]
    ours = (name for name in sorted(environ) if name.startswith("MEGACPP_") and name not in twins)
    near = ((name, get_close_matches(name, twins, n=1, cutoff=0.9)) for name in ours)
    return [f"the variable {name} means nothing here; did you mean {found[0]!r}?" for name, found in near if found]


def read_options(config: pytest.Config) -> Options:
    """Command line, variables and configuration, checked. Raises UsageError."""
    pyproject = nearest_table(config.rootpath)
    settings = read_table(pyproject)
    chosen = _Chooser(config, settings, os.environ)
    return Options(
        surface=chosen("surface", _surface) or "auto",
        surface_given=config.getoption("megacpp_surface") is not None,
        ranks=chosen("ranks", lambda value, where: count(value, what="the world size", where=where)),
        dry_run=chosen("dry_run", _flag) or False,
        preset=chosen("preset", _preset),
        lane_dir=_lane_dir(config, settings),
        replay=chosen("replay", lambda value, where: text(value, what="the recording", where=where)),
        gate_since=chosen("gate_since", lambda value, where: text(value, what="the revision", where=where)),
        gate_since_given=config.getoption("megacpp_gate_since") is not None,
        rules=read_gate(settings),
        project=pyproject.parent,
        annotations=chosen("lane_annotations", _annotations) or "auto",
        cache_seed=chosen("cache_seed", _cache_seed),
        triage=_triage(config, chosen("triage", _flag) or False),
        hash_seed=chosen("hash_seed", _hash_seed),
        given_limits=_given_limits(config.getoption("megacpp_lane_limit"), os.environ),
        limits=read_limits(settings.get("limits", {}), "[tool.pytest_megacpp.limits]"),
        lanes=read_lanes(settings.get("lanes", {})),
        preload=_preload(settings.get("preload", [])),
        environment=read_environment(settings.get("environment", {})),
        untrusted=chosen("untrusted", _flag) or False,
        budget_usd=chosen("lane_budget", _budget),
        tables={name: settings[name] for name in TABLES if name in settings},
        detach=bool(config.getoption("megacpp_detach")),
        attach=_attach(config),
    )


def _attach(config: pytest.Config) -> str | None:
    """The run to listen to; it excludes what would start or replace one."""
    given = config.getoption("megacpp_attach")
    if given is None:
        return None
    for other in ("detach", "replay"):
        if config.getoption(f"megacpp_{other}"):
            raise pytest.UsageError(f"--attach and --{other} exclude each other")
    return text(given, what="the run", where="--attach")


def _triage(config: pytest.Config, wanted: bool) -> bool:
    """Whoever configured it for good gets it where it makes sense."""
    impossible = {
        "detach": "a detached run has nobody to judge it, so nothing can be tried again",
        "attach": "the run was submitted already, and listens to nobody",
        "replay": "a recording can't be run again",
    }
    for other, why in impossible.items():
        if wanted and config.getoption(f"megacpp_{other}"):
            if config.getoption("megacpp_triage"):
                raise pytest.UsageError(f"--triage and --{other} exclude each other: {why}")
            return False
    return wanted


class _Chooser:
    """The value of an option: the command line's, else its variable's, else the configuration's, else None.

    A variable that is set to nothing is not set: that is how CI systems leave out an input.
    """

    def __init__(self, config: pytest.Config, settings: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self._config = config
        self._settings = settings
        self._environ = environ

    def __call__(self, name: str, check: Callable[[object, str], Any]) -> Any:
        given = self._config.getoption(f"megacpp_{name}")
        if given is not None:
            return check(given, f"--{name.replace('_', '-')}")
        if self._environ.get(twin(name), "").strip():
            return check(self._environ[twin(name)].strip(), twin(name))
        return check(self._settings[name], f"{name} in {TABLE}") if name in self._settings else None


def nearest_table(directory: Path) -> Path:
    """The closest pyproject.toml, from `directory` upwards, that speaks of the plugin: pytest's rootdir may be a
    subdirectory of the project.
    """
    for place in (directory, *directory.parents):
        file = place / "pyproject.toml"
        try:
            if b"pytest_megacpp" in file.read_bytes():
                return file
        except OSError:
            continue
    return directory / "pyproject.toml"


def read_table(pyproject: Path) -> dict[str, object]:
    """`[tool.pytest_megacpp]`, its keys checked; empty without a file or without the table. Raises UsageError."""
    try:
        data = pyproject.read_bytes()
    except OSError:
        return {}
    if b"pytest_megacpp" not in data:
        return {}
    import tomllib

    try:
        tool = tomllib.loads(data.decode()).get("tool", {})
    except ValueError as error:
        raise pytest.UsageError(f"{pyproject}: {error}") from None
    settings = table(tool, what="[tool]", where=str(pyproject)).get("pytest_megacpp", {})
    settings = table(settings, what=TABLE, where=str(pyproject))
    for key in settings:
        known(key, KEYS, what="key", where=TABLE)
    return settings


def read_gate(settings: Mapping[str, object]) -> "tuple[Rule, ...]":
    """The rules of the gate; none without a table of them. Raises UsageError."""
    if "gate" not in settings:
        return ()
    from pytest_megacpp.desk.config.gate import read_rules

    return read_rules(settings["gate"])


def read_limits(value: object, where: str) -> dict[str, float]:
    """A table of limits in seconds. Raises UsageError."""
    limits = table(value, what="it", where=where)
    return {
        known(name, LIMIT_NAMES, what="limit", where=where): seconds(value, what=name, where=where)
        for name, value in limits.items()
    }


def _surface(value: object, where: str) -> str:
    return known(value, registry.CHOICES, what="surface", where=where)


def _flag(value: object, where: str) -> bool:
    """A variable can only say it in words."""
    if isinstance(value, str) and where.startswith("MEGACPP_"):
        return said_flag(value, where=where)
    return flag(value, what="it", where=where)


def _annotations(value: object, where: str) -> str:
    return known(value, ANNOTATIONS, what="choice", where=where)


def _hash_seed(value: object, where: str) -> int:
    seed = count(value, what="the hash seed", where=where)
    if seed > MAX_HASH_SEED:
        raise pytest.UsageError(f"{where}: Python has hash seeds up to {MAX_HASH_SEED}, not {seed}")
    return seed


def _cache_seed(value: object, where: str) -> "SeedMode":
    from pytest_megacpp.recording.vocabulary import SeedMode

    return member(value, SeedMode, what="cache seed", where=where)


def _budget(value: object, where: str) -> float:
    from pytest_megacpp.desk.config.prices import read_budget

    return read_budget(value, where)


def _preset(value: object, where: str) -> "Preset":
    from pytest_megacpp.recording.vocabulary import Preset

    return member(value, Preset, what="preset", where=where)


def _lane_dir(config: pytest.Config, settings: Mapping[str, object]) -> Path:
    """What was typed counts from where it was typed, the configuration from its own directory."""
    given, told = config.getoption("megacpp_lane_dir"), os.environ.get(twin("lane_dir"), "").strip()
    if given is not None or told:
        given = text(told if given is None else given, what="the directory", where="--lane-dir")
        return config.invocation_params.dir / Path(given).expanduser()
    configured = text(settings.get("lane_dir", DEFAULT_LANE_DIR), what="it", where=f"lane_dir in {TABLE}")
    return config.rootpath / Path(configured).expanduser()


def _given_limits(given: Iterable[str], environ: Mapping[str, str]) -> dict[str, float]:
    """Of the command line and of its variable, whose entries stand between commas or blanks."""
    variable = twin("lane_limit")
    told = [(entry, f"{variable} {entry}") for entry in environ.get(variable, "").replace(",", " ").split()]
    entries = [*told, *((entry, f"--lane-limit {entry}") for entry in given)]
    return dict(_given_limit(entry, where) for entry, where in entries)


def _given_limit(entry: str, where: str) -> tuple[str, float]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise pytest.UsageError(f"{where}: write NAME=SECONDS, with NAME one of {', '.join(LIMIT_NAMES)}")
    name = known(name.strip(), LIMIT_NAMES, what="limit", where=where)
    return name, seconds(value.strip(), what=name, where=where)


BUILT_IN_LANE = LaneConfig("h200x8", "H200:8", 8)
LANE_KEYS = ("gpu", "ranks", "preset", "limits", "environment", *LIMIT_NAMES)
ENVIRONMENT = "[tool.pytest_megacpp.environment]"


def read_lanes(value: object) -> dict[str, LaneConfig]:
    """The built-in lane and the configured ones, which may change it. Raises UsageError."""
    tables = table(value, what="it", where="[tool.pytest_megacpp.lanes]")
    configured = {name: _lane(name, settings) for name, settings in tables.items()}
    return {BUILT_IN_LANE.name: BUILT_IN_LANE, **configured}


def _lane(name: str, value: object) -> LaneConfig:
    where = f"[tool.pytest_megacpp.lanes.{name}]"
    if not name.isidentifier() or iskeyword(name) or name in RESERVED_MARKS:
        raise pytest.UsageError(f"{where}: {name!r} can't be a marker's name; use letters, digits and _ (b200x8)")
    settings = table(value, what="it", where=where)
    for key in settings:
        known(key, LANE_KEYS, what="key", where=where)
    base = BUILT_IN_LANE if name == BUILT_IN_LANE.name else None
    lane = LaneConfig(
        name,
        gpu=_gpu(settings.get("gpu", base.gpu if base else None), where),
        ranks=1,
        preset=_lane_preset(settings, where),
        limits=_lane_limits(settings, where),
        environment=read_environment(settings.get("environment", {}), lane_environment(name)),
    )
    ranks = count(settings.get("ranks", lane.devices), what="ranks", where=where)
    if ranks > lane.devices:
        told = f"{where}: {ranks} ranks don't fit on gpu = {lane.gpu!r}; each rank has a device of its own"
        raise pytest.UsageError(told)
    return replace(lane, ranks=ranks)


def lane_environment(lane: str) -> str:
    """The table in which a lane has variables of its own."""
    return f"[tool.pytest_megacpp.lanes.{lane}.environment]"


def _gpu(value: object, where: str) -> str:
    if not isinstance(value, str) or not _GPU.fullmatch(value):
        raise pytest.UsageError(f'{where}: gpu must say type and number, such as gpu = "B200:8", not {value!r}')
    return value


def _lane_preset(settings: Mapping[str, object], where: str) -> "Preset | None":
    return _preset(settings["preset"], where) if "preset" in settings else None


def _lane_limits(settings: Mapping[str, object], where: str) -> dict[str, float]:
    """Limits may stand in the lane's table or in a table of their own."""
    direct = {name: settings[name] for name in LIMIT_NAMES if name in settings}
    return read_limits(direct, where) | read_limits(settings.get("limits", {}), f"{where[:-1]}.limits]")


def _preload(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and _is_module(name) for name in value):
        raise pytest.UsageError(f'preload in {TABLE} must be a list of module names, such as ["numpy"], not {value!r}')
    return tuple(value)


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def read_environment(value: object, where: str = ENVIRONMENT) -> dict[str, str]:
    """A table of variables. Raises UsageError."""
    variables = table(value, what="it", where=where)
    for name, content in variables.items():
        if not isinstance(content, str) or "\0" in content or not name or "=" in name or "\0" in name:
            raise pytest.UsageError(f'{where}: variables are texts, such as {name} = "1"; not {content!r}')
    return {name: str(content) for name, content in variables.items()}

"""Owns what lanes there are, with the limits and variables of one lane or of all; must not know which were asked for.

Every session pays for importing this module, so it needs nothing of the recording's language.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from keyword import iskeyword
from typing import TYPE_CHECKING

import pytest

from pytest_megacpp.settings.checks import LIMIT_NAMES, Unparsed, count, known, preset, seconds, table

if TYPE_CHECKING:
    from pytest_megacpp.recording.vocabulary import Preset

DRILL_MARK = "expect_verdict"
LANE_KEYS = ("gpu", "ranks", "preset", "limits", "environment", *LIMIT_NAMES)
LIMITS = "[tool.pytest_megacpp.limits]"
ENVIRONMENT = "[tool.pytest_megacpp.environment]"
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


BUILT_IN_LANE = LaneConfig("h200x8", "H200:8", 8)


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
        raise pytest.UsageError(f"{where}: {ranks} ranks don't fit on gpu = {lane.gpu!r}: each rank has its own device")
    return replace(lane, ranks=ranks)


def lane_environment(lane: str) -> str:
    """The table in which a lane has variables of its own."""
    return f"[tool.pytest_megacpp.lanes.{lane}.environment]"


def _gpu(value: object, where: str) -> str:
    if not isinstance(value, str) or not _GPU.fullmatch(value):
        raise pytest.UsageError(f'{where}: gpu must be a type and a number, such as gpu = "B200:8", not {value!r}')
    return value


def _lane_preset(settings: Mapping[str, object], where: str) -> "Preset | None":
    return preset(settings["preset"], where=where) if "preset" in settings else None


def _lane_limits(settings: Mapping[str, object], where: str) -> dict[str, float]:
    """Limits may stand in the lane's table or in a table of their own."""
    direct = {name: settings[name] for name in LIMIT_NAMES if name in settings}
    return read_limits(direct, where) | read_limits(settings.get("limits", {}), f"{where[:-1]}.limits]")


def read_limits(value: object, where: str = LIMITS) -> dict[str, float]:
    """A table of limits in seconds. Raises UsageError."""
    limits = table(value, what="it", where=where)
    return {
        known(name, LIMIT_NAMES, what="limit", where=where): seconds(value, what=name, where=where)
        for name, value in limits.items()
    }


def limit_entry(value: object, *, where: str) -> tuple[str, float]:
    """A limit as `NAME=SECONDS`. Raises UsageError."""
    name, equals, time_s = str(value).partition("=")
    if not equals:
        raise pytest.UsageError(f"{where}: write NAME=SECONDS, with NAME one of {', '.join(LIMIT_NAMES)}")
    name = known(name.strip(), LIMIT_NAMES, what="limit", where=where)
    return name, seconds(Unparsed(time_s.strip()), what=name, where=where)


def read_environment(value: object, where: str = ENVIRONMENT) -> dict[str, str]:
    """A table of variables. Raises UsageError."""
    variables = table(value, what="it", where=where)
    for name, content in variables.items():
        if not isinstance(content, str) or "\0" in content or not name or "=" in name or "\0" in name:
            raise pytest.UsageError(f'{where}: variables are strings, such as {name} = "1"; not {content!r}')
    return {name: str(content) for name, content in variables.items()}

"""Owns which tests belong to which lane, and whether a lane was asked for; must not run anything."""

import re
import types
from collections.abc import Iterator

import pytest

from pytest_megacpp.desk.config.lanes import DRILL_MARK
from pytest_megacpp.desk.config.options import Options, read_options
from pytest_megacpp.settings.checks import known


class LaneMarks:
    """The lanes' markers and fixtures. `asked`: a lane that the command line asks for, as `-m` or `--surface` do."""

    def __init__(self, config: pytest.Config) -> None:
        self.options: Options = read_options(config)
        self._expression = str(config.getoption("markexpr", "") or "")
        self.asked = self._asked()
        self.in_rank = config.pluginmanager.has_plugin("megacpp-rank")
        self.in_worker = hasattr(config, "workerinput")  # of pytest-xdist; lane tests are the controller's
        for lane in self.options.lanes.values():
            config.addinivalue_line(
                "markers", f"{lane.name}(ranks=, preset=, fresh=, …): runs on every rank of one {lane.gpu} box"
            )
        config.addinivalue_line(
            "markers", f"{DRILL_MARK}(code, ranks=None, cause=None): passes when exactly that verdict is reached"
        )
        if not self.in_rank:
            config.pluginmanager.register(_desk_fixtures(tuple(self.options.lanes)), "megacpp-fixtures")

    def _asked(self) -> tuple[str, ...]:
        """The lanes that `-m` names; when it names none, all of them if there is a surface or a recording."""
        named = tuple(name for name in self.options.lanes if self._is_named(name))
        options = self.options
        somewhere = options.surface_given or options.replay is not None or options.attach is not None
        return named or (tuple(self.options.lanes) if somewhere else ())

    def _is_named(self, lane: str) -> bool:
        return bool(re.search(rf"(?<![\w.-])(?<!not ){re.escape(lane)}(?![\w.-])", self._expression))

    @property
    def is_gated(self) -> bool:
        """Whether this session must not be green by absence."""
        return bool(self.asked and self.options.gate_since and not self.in_rank and not self.in_worker)

    def asked_lane_of(self, item: pytest.Item) -> str | None:
        """The lane an item belongs to, if it was asked for."""
        lane = self.lane_of(item)
        return lane if lane in self.asked else None

    def lane_of(self, item: pytest.Item) -> str | None:
        """The lane an item belongs to; of several, one that was asked for."""
        names = [name for name in self.options.lanes if item.get_closest_marker(name) is not None]
        return next((n for n in names if n in self.asked), names[0] if names else None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        """Fixtures mark their tests before anybody selects by marks; what others mark in between counts too."""
        fixtures = {f"modal_{lane}": lane for lane in self.options.lanes}
        names = frozenset(fixtures)
        for item in items:
            asked_for = getattr(item, "fixturenames", ())
            for name in fixtures if not names.isdisjoint(asked_for) else ():
                if name in asked_for and item.get_closest_marker(fixtures[name]) is None:
                    item.add_marker(fixtures[name])
        yield
        if self.in_rank:
            return
        of_lanes = self._of_lanes(items)
        if self.in_worker and of_lanes:
            items[:] = [item for item in items if of_lanes.get(item) not in self.asked]
        for item, lane in of_lanes.items():
            if lane not in self.asked:
                self._skip(item, lane)

    def _of_lanes(self, items: list[pytest.Item]) -> dict[pytest.Item, str]:
        """Lane tests among thousands that have nothing to do with a lane: as little as possible for those."""
        found: dict[pytest.Item, str] = {}
        unmarked: dict[pytest.Collector | None, bool] = {}
        for item in items:
            if not item.own_markers:
                if item.parent not in unmarked:
                    unmarked[item.parent] = self.lane_of(item) is None
                if unmarked[item.parent]:
                    continue
            lane = self.lane_of(item)
            if lane is not None:
                found[item] = lane
        return found

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Nothing selected by a name that looks like a lane's: say that there is no such lane."""
        if session.items or self.in_rank or self.in_worker or not self._expression:
            return
        for name in re.findall(r"(?<![\w.-])[A-Za-z]\w*x\d+(?![\w.-])", self._expression):
            if name not in self.options.lanes:
                known(name, tuple(self.options.lanes), what="lane", where=f"-m {self._expression!r}")

    def _skip(self, item: pytest.Item, lane: str) -> None:
        gpu = self.options.lanes[lane].gpu
        item.add_marker(
            pytest.mark.skip(
                reason=f"needs a {gpu} box, so it runs only when asked for: pytest -m {lane}"
                f" (without GPUs: pytest -m {lane} --surface local)"
            )
        )


def _desk_fixtures(lanes: tuple[str, ...]) -> types.ModuleType:
    """A plugin with the fixtures' names, so that lane tests collect at a desk."""
    plugin = types.ModuleType("megacpp-desk-fixtures")
    for lane in lanes:
        setattr(plugin, f"modal_{lane}", _desk_fixture(lane))
    return plugin


def _desk_fixture(lane: str) -> object:
    @pytest.fixture(name=f"modal_{lane}")
    def handle() -> None:
        """The lane handle; exists in ranks only."""
        raise RuntimeError(f"modal_{lane} was requested at the desk: mark the test with @pytest.mark.{lane}")

    return handle

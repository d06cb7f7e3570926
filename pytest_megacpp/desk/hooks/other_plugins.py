"""Owns what the desk does about plugins that work where a test's body runs, and what it says of them: snapshots,
benchmarks, profiles, coverage. Must not import any; what is known of them is their options and fixtures.
"""

from collections.abc import Iterable, Iterator, Sequence

import pytest

from pytest_megacpp.desk.hooks.measuring import coverage_line
from pytest_megacpp.desk.source.nodes import is_open
from pytest_megacpp.report.reporter import Line, Reporter, SessionResults
from pytest_megacpp.surfaces.protocol import SurfaceProvider

# Options with which tests write files of the project, by their names in `config.option`: of syrupy, pytest-snapshot
# and pytest-regressions.
_REWRITING = {
    "update_snapshots": "--snapshot-update",
    "update_new_snapshots_only": "--snapshot-update-new-only",
    "snapshot_update": "--snapshot-update",
    "force_regen": "--force-regen",
    "regen_all": "--regen-all",
}
# Of syrupy: what it hasn't seen compared itself it takes for unused, deletes it or fails.
_UNUSED = ("disable_unused_snapshots", "warn_unused_snapshots", "no_cleanup")
_KEY = pytest.StashKey["OtherPlugins"]()


class OtherPlugins(Reporter):
    """One of a session."""

    name = "other plugins"

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lines: list[str] = []

    @classmethod
    def of(cls, config: pytest.Config) -> "OtherPlugins":
        if _KEY not in config.stash:
            config.stash[_KEY] = cls(config)
        return config.stash[_KEY]

    def selected(self, items: Sequence[pytest.Item]) -> None:
        """Before anything runs; `items` are the lane tests that will. Raises UsageError."""
        if items:
            self._lines = [*self._snapshots(items), *self._benchmarks(items), *self._profiles()]

    def launching(self, there: SurfaceProvider) -> None:
        """Before a box is started there. Raises UsageError for an option whose files would be lost with it."""
        asked = [option for name, option in _REWRITING.items() if getattr(self._config.option, name, False)]
        if there.is_remote and asked:
            raise pytest.UsageError(
                f"{asked[0]}: lane tests would write their files on the box, and {there.title} gives none back: "
                "run it with --surface local, with --dry-run where there is no GPU"
            )
        self._lines += filter(None, [coverage_line(self._config, is_remote=there.is_remote, title=there.title)])

    def closing(self, session: SessionResults) -> Iterator[Line]:
        yield from map(Line, dict.fromkeys(self._lines))

    def _snapshots(self, items: Sequence[pytest.Item]) -> Iterator[str]:
        """Of a test whose source doesn't tell all, such as a class with a base from elsewhere, nobody knows."""
        option = self._config.option
        if not hasattr(option, "update_snapshots") or not (_using("snapshot", items) or any(map(is_open, items))):
            return
        found = [name for name in _UNUSED if hasattr(option, name)]
        if option.update_snapshots and not {"disable_unused_snapshots", "no_cleanup"}.intersection(found):
            raise pytest.UsageError(
                "--snapshot-update: this syrupy would delete the snapshots of lane tests, and has no "
                "--snapshot-disable-unused to keep it from that: install a newer one"
            )
        for name in found:
            setattr(option, name, True)
        yield "syrupy: ranks compare snapshots, and rank 0 writes them; unused ones are not looked for in this session"

    def _benchmarks(self, items: Iterable[pytest.Item]) -> Iterator[str]:
        using = _using("benchmark", items)
        if using and hasattr(self._config.option, "benchmark_json"):
            yield (
                f"pytest-benchmark: what {len(using)} lane test{'s' * (len(using) != 1)} measured stays on ranks: its "
                "table and files have tests of the desk. Each rank repeats as often as its own clock says: with "
                "collectives, fix that by benchmark.pedantic(…, rounds=N)"
            )

    def _profiles(self) -> Iterator[str]:
        if getattr(self._config.option, "profile", False) or getattr(self._config.option, "profile_svg", False):
            yield "pytest-profiling: of lane tests it has the time that the desk waited; ranks are not profiled"


def _using(fixture: str, items: Iterable[pytest.Item]) -> list[pytest.Item]:
    return [item for item in items if fixture in getattr(item, "fixturenames", ())]

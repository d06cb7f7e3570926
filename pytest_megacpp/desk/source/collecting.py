"""Owns reading lane test files that can't be imported here, as a plugin of pytest's collection; must not run any test.

A file whose import lacks something is read if its source marks tests for a lane. Its lane tests are those of the
session; an ordinary test of it that is selected is the error (or skip) that pytest made of the file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_megacpp.desk.gate.pytest_files import has_lane_tests
from pytest_megacpp.desk.source.conftests import hint
from pytest_megacpp.desk.source.keywords import words_to_match
from pytest_megacpp.desk.source.missing import missing
from pytest_megacpp.desk.source.nodes import (
    SourceItem,
    SourceModule,
    is_open,
    module_of,
    names_asked_for,
    nodeids_in,
    with_open_items,
)
from pytest_megacpp.desk.source.reader import shows_lane_tests
from pytest_megacpp.report.layout import counted

KEPT_REASONS = 3


@dataclass(frozen=True, slots=True)
class _Read:
    module: SourceModule
    report: pytest.CollectReport  # pytest's own, of the import


class SourceCollection:
    """`lane_of`: the lane of an item, asked for or not. `reports_ordinary`: whether ordinary tests that are selected
    are this process's to report.
    """

    def __init__(
        self,
        config: pytest.Config,
        lanes: Sequence[str],
        lane_of: Callable[[pytest.Item], str | None],
        *,
        reports_ordinary: bool,
    ) -> None:
        self._config = config
        self._lanes = lanes
        self._lane_of = lane_of
        self._reports_ordinary = reports_ordinary
        self._files: dict[Path, _Read] = {}
        self._items: list[pytest.Item] = []  # all that were read, whatever was selected of them

    # -- files -------------------------------------------------------------------------------------------------

    def collected_as(self, collector: pytest.Collector, report: pytest.CollectReport) -> pytest.CollectReport:
        """Returns the report on a file that was read, in place of pytest's own."""
        if module_of(collector) is not None:
            return self._opened(collector, report)
        if report.passed or not isinstance(collector, pytest.File | pytest.Directory):
            return report
        why = missing(_error_of(report))
        if isinstance(collector, pytest.Directory):
            if why and report.failed:
                report.sections.append(("megacpp", hint(why)))
        elif why and isinstance(collector, pytest.Module) and has_lane_tests(collector.path, self._lanes):
            return self._read(collector, report, why)
        return report

    def _read(self, collector: pytest.Module, report: pytest.CollectReport, why: str) -> pytest.CollectReport:
        assert collector.parent is not None
        module: SourceModule = SourceModule.from_parent(collector.parent, path=collector.path)
        module.why = why
        try:
            found = self._with_open(module, list(module.collect()))
            if not shows_lane_tests(module.stub, self._lanes):
                return report
        except (Exception, pytest.fail.Exception):  # what keeps pytest from collecting what was read
            return report
        self._files[collector.path] = _Read(module, report)
        return pytest.CollectReport(collector.nodeid, "passed", None, found)

    def _opened(self, collector: pytest.Collector, report: pytest.CollectReport) -> pytest.CollectReport:
        if report.passed and isinstance(collector, pytest.Class):
            report.result = self._with_open(collector, report.result)
        return report

    def _with_open(
        self, collector: pytest.Collector, found: Sequence[pytest.Item | pytest.Collector]
    ) -> list[pytest.Item | pytest.Collector]:
        module = module_of(collector)
        assert module is not None
        nodes = list(with_open_items(collector, found, names_asked_for(collector, self._nodeids_in(module))))
        self._items += [node for node in nodes if isinstance(node, pytest.Item)]
        return nodes

    def _nodeids_in(self, module: SourceModule) -> list[str]:
        """Tests of a module that the command line names, or that `--lf` remembers."""
        config = self._config
        found = nodeids_in([str(a) for a in config.args], Path(config.invocation_params.dir), module)
        cache = getattr(config, "cache", None)
        if getattr(config.option, "lf", False) and cache is not None:
            remembered = cache.get("cache/lastfailed", {})
            found += [str(nodeid) for nodeid in remembered] if isinstance(remembered, dict) else []
        return found

    # -- tests -------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        read = {item for item in items if module_of(item) is not None}
        expression = str(self._config.getoption("keyword", "") or "")
        for item in read:
            if expression and isinstance(item, SourceItem) and item.is_open:
                is_class = isinstance(item.like, pytest.Class)
                words = words_to_match(expression, _names(item), has_methods=is_class)
                item.extra_keyword_matches.update(words or ())
        yield
        ordinary = {item for item in items if item in read and self._lane_of(item) is None}
        if ordinary:
            items[:] = [item for item in items if item not in ordinary]
            self._report_ordinary(ordinary)

    def _report_ordinary(self, items: Iterable[pytest.Item]) -> None:
        """What pytest makes of the file stands for ordinary tests of it."""
        paths = dict.fromkeys(item.path for item in items)
        for path in paths if self._reports_ordinary else ():
            self._config.hook.pytest_collectreport(report=self._files[path].report)

    def lane_tests(self, files: Iterable[Path]) -> list[pytest.Item]:
        """Returns all lane tests that were read in these files, selected or not."""
        wanted = set(files)
        return [item for item in self._items if item.path in wanted and self._is_of_a_lane(item)]

    def _is_of_a_lane(self, item: pytest.Item) -> bool:
        """Fixtures mark only the tests that come to be selected from."""
        fixtures = {f"modal_{lane}" for lane in self._lanes}
        return self._lane_of(item) is not None or not fixtures.isdisjoint(getattr(item, "fixturenames", ()))

    # -- what is said ------------------------------------------------------------------------------------------

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        if not self._files:
            return []
        reasons = list(dict.fromkeys(one.module.why for one in self._files.values()))
        more = f" and {len(reasons) - KEPT_REASONS} more reasons" if len(reasons) > KEPT_REASONS else ""
        why = f"{'; '.join(reasons[:KEPT_REASONS])}{more}"
        one = len(self._files) == 1
        opened = sum(map(is_open, items))
        found = f"; the box finds the cases of {counted(opened, 'test')}" if opened else ""
        return [
            f"megacpp: {counted(len(self._files), 'test file')} cannot be imported here ({why}); "
            f"{'its' if one else 'their'} tests were read from the source{found}"
        ]


def _error_of(report: pytest.CollectReport) -> BaseException | None:
    """The exception behind a report that pytest has just made."""
    excinfo = getattr(getattr(report, "call", None), "excinfo", None)
    error: BaseException | None = excinfo.value if excinfo is not None else None
    return error


def _names(item: pytest.Item) -> set[str]:
    chain = [node for node in item.listchain() if not isinstance(node, pytest.Session)]
    return {node.name for node in chain} | item.listextrakeywords() | {mark.name for mark in item.iter_markers()}

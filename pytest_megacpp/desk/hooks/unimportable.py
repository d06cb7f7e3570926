"""Owns noticing that a file or a conftest.py can't be imported here; what follows is in `desk.source`, which sessions
without such files never load.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_megacpp.desk.source.collecting import SourceCollection

NAME = "megacpp-source"


class Unimportable:
    """A plugin. `lane_of`: the lane of an item, asked for or not. `reports_ordinary`: whether ordinary tests of such
    files are this process's to report.
    """

    def __init__(
        self, config: pytest.Config, lanes: Sequence[str], lane_of: Callable[[pytest.Item], str | None]
    ) -> None:
        self._config = config
        self._lanes = lanes
        self._lane_of = lane_of
        self.reports_ordinary = True

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside of what others do to reports, such as --lf
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        source = self._config.pluginmanager.get_plugin(NAME)
        if source is None and not report.passed:
            source = self._source()
        return report if source is None else source.collected_as(collector, report)

    def _source(self) -> "SourceCollection":
        from pytest_megacpp.desk.source.collecting import SourceCollection

        source = SourceCollection(self._config, self._lanes, self._lane_of, reports_ordinary=self.reports_ordinary)
        self._config.pluginmanager.register(source, NAME)
        return source

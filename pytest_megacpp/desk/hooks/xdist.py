"""Owns lane tests in a session that pytest-xdist distributes: they stay with its controller; must not run a box itself.

The workers leave lane tests out and share the ordinary ones as ever, whatever `--dist` says. The controller collects
too, keeps the lane tests, and has the one box that runs them while the workers are busy. It reports lane results in
their order: in between whenever a worker's test is through, the rest when all workers are done. Needed of
pytest-xdist are only its hooks.
"""

from collections.abc import Iterator, Sequence

import pytest

from pytest_megacpp.desk.hooks.runner import LaneRunner


class LaneController:
    """Registered in addition to the `LaneRunner` when tests are distributed."""

    def __init__(self, runner: LaneRunner) -> None:
        self._runner = runner
        self._session: pytest.Session | None = None
        self._waiting: list[pytest.Item] = []
        self._lane_tests = 0
        self._ordinary = 0
        self._reporting = False
        self._failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Iterator[None]:
        """pytest-xdist keeps its controller from collecting, since it needs no tests."""
        result = yield
        session.perform_collect()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        yield
        items[:] = [item for item in items if self._runner.lane_of(item) is not None]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._ordinary = len(ids)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """The innermost: what pytest-cov combines when the tests are over has those of lanes as well."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            plural = "s" * (session.testsfailed != 1)
            raise session.Interrupted(f"{session.testsfailed} error{plural} during collection")
        self._session, self._waiting = session, list(session.items)
        self._lane_tests = len(self._waiting)  # a loop of the project may empty session.items
        result = yield
        while self._waiting:
            self._report_next()
            self._stop_if_asked()
        session.testscollected = self._ordinary + self._lane_tests + self._runner.further_cases
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        """A worker's test is through: time to report what the box has finished meanwhile."""
        if self._reporting or self._session is None:
            return
        while self._waiting and self._runner.is_through(self._waiting[0]):
            self._report_next()
            self._stop_if_asked()
        self._stop_if_asked()

    def _report_next(self) -> None:
        assert self._session is not None
        item, *self._waiting = self._waiting
        following = self._waiting[0] if self._waiting else None
        failures = self._session.testsfailed
        self._session.testscollected = self._ordinary + self._lane_tests + self._runner.further_cases
        self._reporting = True
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        finally:
            self._reporting = False
        self._failed = self._failed or self._session.testsfailed > failures

    def _stop_if_asked(self) -> None:
        """`-x` and `--maxfail` by pytest's own count. Without a failing lane test the workers' own stop is orderly."""
        assert self._session is not None
        if self._session.shouldfail and self._failed:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

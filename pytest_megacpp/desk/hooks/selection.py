"""Owns which lane tests of a session are selected, and which of them got no result; must not run any."""

from collections.abc import Callable, Collection, Iterator

import pytest

from pytest_megacpp.desk.gate.enforce import Gatekeeper


class Selection:
    """A plugin. `lane_of`: the lane of an item, None for a test of the desk. `items` are the selected lane tests."""

    def __init__(
        self, config: pytest.Config, lane_of: Callable[[pytest.Item], str | None], gatekeeper: Gatekeeper | None
    ) -> None:
        self._config = config
        self._lane_of = lane_of
        self._gatekeeper = gatekeeper
        self.items: tuple[pytest.Item, ...] = ()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.note_skipped_file(report, self._config.rootpath)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        collected = list(items)
        try:
            return (yield)
        finally:  # if another plugin ends the session here, the gate's own selection remains
            if self._gatekeeper is not None and (refused := self._gatekeeper.sort_out(collected, items)):
                self._config.hook.pytest_deselected(items=refused)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The selection is final here: a lane test that is removed from the session later counts as missing."""
        self.items = tuple(item for item in session.items if self._lane_of(item) is not None)
        if self._gatekeeper is not None:
            self._gatekeeper.check_selection(session.items)

    def without_a_result(
        self, session: pytest.Session, placed: Collection[pytest.Item], reported: Collection[pytest.Item]
    ) -> list[pytest.Item]:
        """Of the selected lane tests. Whatever a conftest or a plugin did with them, they didn't pass. What is left in
        the session at its end proves little: it may have been emptied, or given copies.
        """
        if only_lists(session.config):
            return []
        known = dict.fromkeys((*self.items, *placed))
        nodeids = {item.nodeid for item in known}
        left = [item for item in getattr(session, "items", ()) if self._lane_of(item) is not None]
        added = [item for item in left if item.nodeid not in nodeids]
        return [item for item in dict.fromkeys((*known, *added)) if item not in reported]


def only_lists(config: pytest.Config) -> bool:
    """Whether pytest was asked for what it knows, and runs no test; `--setup-plan` is `--setup-only`, too."""
    names = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow", "setuponly", "setupplan")
    return any(getattr(config.option, name, None) for name in names)

"""Owns a pytest that collects in the box and runs nothing: which lane tests there are of those that the desk could only
read. Must not know the box.

`python -m pytest_megacpp.rank.naming PLAN ANSWER` writes a `Collected` as JSON to the file ANSWER.
"""

import json
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_megacpp.rank.own_pytest import OwnPytest, arguments
from pytest_megacpp.recording.codec import from_json, to_json
from pytest_megacpp.recording.naming import Collected, CollectedTest, spelt_marks
from pytest_megacpp.recording.plan import Plan


class Naming(OwnPytest):
    """The pytest plugin. `answer` is what it found, once it has collected."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._files = {test.nodeid.partition("::")[0] for test in plan.read}
        self._left_out: list[pytest.Item] = []
        self.answer: Collected | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        super().pytest_cmdline_main(config)
        config.option.collectonly = True

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._left_out += items

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        found = [self._test(item) for item in session.items if self._is_asked_for(item)]
        self.answer = Collected(tuple(found), tuple(i.nodeid for i in self._left_out if self._is_asked_for(i)))

    def _is_asked_for(self, item: pytest.Item) -> bool:
        is_of_lane = item.get_closest_marker(self._plan.lane) is not None
        return is_of_lane and item.nodeid.partition("::")[0] in self._files

    def _test(self, item: pytest.Item) -> CollectedTest:
        return CollectedTest(item.nodeid, spelt_marks(item.iter_markers(), self._plan.lane))


def _fixture(lane: str) -> types.ModuleType:
    """Returns a plugin with the lane's fixture, so that tests that ask for it have one."""

    @pytest.fixture(name=f"modal_{lane}")
    def modal_lane() -> None:
        """The lane handle; exists in ranks only."""

    plugin = types.ModuleType("megacpp-naming-fixture")
    setattr(plugin, f"modal_{lane}", modal_lane)
    return plugin


def main(plan_file: str, answer_file: str) -> int:
    plan = from_json(Plan, json.loads(Path(plan_file).read_text(encoding="utf-8")))
    sys.path[:] = dict.fromkeys((*plan.path, *sys.path))
    os.chdir(plan.cwd)
    naming = Naming(plan)
    pytest.main(arguments(plan), plugins=[naming, _fixture(plan.lane)])
    if naming.answer is None:
        return 1
    Path(answer_file).write_text(json.dumps(to_json(naming.answer)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

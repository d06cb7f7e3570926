"""Owns pytest's hooks of a test's phases, as they are called at the desk for a lane test; must not make reports.

`pytest_runtest_makereport` and `pytest_exception_interact` are called as pytest does, so a hook may change a report.
The hooks that set up, call and tear down a test are not: the test ran elsewhere, and a conftest's would act on this
machine. Only what wraps them in order to report, such as allure's listener, sees the phases.
"""

import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.recording.texts import class_of, text_of
from pytest_megacpp.recording.vocabulary import TestPhase
from pytest_megacpp.report.clean import one_line

_CONFTEST = "conftest.py"
_OWN = ("_pytest.", "pytest_megacpp.")
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Overruled:
    """A red report that a hook of the project or of a plugin made into something else, `word` in pytest's summary."""

    nodeid: str
    when: str
    word: str

    @property
    def is_green(self) -> bool:
        """Whether pytest counts it as a success: `skipped` and `xfailed` say that something is the matter."""
        return self.word in ("passed", "xpassed")


class Phases:
    """A plugin. `overruled`: red reports that were reported as something else."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._made: tuple[pytest.CallInfo[None], pytest.TestReport] | None = None
        self._body: Callable[[], object] | None = None
        self._watching: dict[TestPhase, Any] = {}
        self.overruled: list[Overruled] = []

    # -- what pytest calls ---------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport | None, pytest.TestReport | None]:
        """The innermost of what wraps it, so that a conftest's own is called as well, as by pytest. What pytest makes
        of the call is not the test's report.
        """
        made = yield
        return self._made[1] if self._made is not None and self._made[0] is call else made

    def pytest_runtest_call(self) -> None:
        """The innermost of what wraps a lane test's call."""
        if self._body is not None:
            body, self._body = self._body, None
            body()

    # -- what the runner calls -----------------------------------------------------------------------------

    def set_up(self, item: pytest.Item) -> None:
        self._watched(item, TestPhase.SETUP)

    def call(self, item: pytest.Item, body: Callable[[], object]) -> None:
        """Waits for a test by `body`, within what wraps its call."""
        self._body = body
        try:
            self._watched(item, TestPhase.CALL)
            if self._body is not None:
                body()
        finally:
            self._body = None

    def tear_down(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        self._watched(item, TestPhase.TEARDOWN, nextitem=nextitem)

    def report(self, item: pytest.Item, report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
        """Has pytest make and log a report, and interact with what was raised, as for a test of its own."""
        is_red, self._made = report.failed, (call, report)
        made = self._of_hooks(item, lambda: item.ihook.pytest_runtest_makereport(item=item, call=call)) or report
        self._made = None
        item.ihook.pytest_runtest_logreport(report=made)
        if is_red and not made.failed:
            self.overruled.append(Overruled(item.nodeid, made.when or report.when or "", _word(made)))
        if _is_interactive(call, made):
            interact = item.ihook.pytest_exception_interact
            self._of_hooks(item, lambda: interact(node=item, call=call, report=made))

    def _watched(self, item: pytest.Item, phase: TestPhase, **arguments: object) -> None:
        hook = self._watching.get(phase) or self._watching.setdefault(phase, self._watchers(f"pytest_runtest_{phase}"))
        waiting = self._body
        if len(hook.get_hookimpls()) > (phase is TestPhase.CALL):
            self._of_hooks(item, lambda: hook(item=item, **arguments), lambda: waiting is None or self._body is waiting)

    def _watchers(self, name: str) -> Any:
        """The hook, of this plugin and of those that wrap it and makereport as well."""
        plugins = self._config.pluginmanager
        reporting = {id(i.plugin) for i in plugins.hook.pytest_runtest_makereport.get_hookimpls() if _is_watching(i)}
        others = [
            i.plugin
            for i in getattr(plugins.hook, name).get_hookimpls()
            if i.plugin is not self and not (_is_watching(i) and id(i.plugin) in reporting)
        ]
        return plugins.subset_hook_caller(name, remove_plugins=others)

    def _of_hooks(self, item: pytest.Item, call: Callable[[], Any], is_hooks: Callable[[], bool] = lambda: True) -> Any:
        """What hooks return. One that misses what only a rank has, such as fixtures, costs a warning: the same hook had
        all of that in every rank, and what it made of the report there is in the verdict.
        """
        try:
            return call()
        except Exception as e:
            if not is_hooks():
                raise
            self._warn(item, e)
            return None

    def _warn(self, item: pytest.Item, error: Exception) -> None:
        """Past the filters: no filter may end the session for it."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"a hook raised {class_of(error)}: {one_line(text_of(error), 200)} at the desk, where a lane test has no "
            "fixtures; it was called on every rank as well. MEGACPP_BOX is set in ranks only"
        )
        warning = pytest.PytestWarning(text)
        message = warnings.WarningMessage(warning, pytest.PytestWarning, frame.filename, frame.lineno or 0)
        arguments = {"warning_message": message, "nodeid": item.nodeid, "when": "runtest", "location": None}
        item.ihook.pytest_warning_recorded.call_historic(kwargs=arguments)

    def lines(self) -> Iterator[str]:
        """What was overruled, and by which hooks it may have been."""
        if not self.overruled:
            return
        yield f"{len(self.overruled)} red, but reported otherwise; the verdicts stay as they are in run.json:"
        for one in self.overruled[:SHOWN]:
            yield f"  {one_line(one.nodeid, 200)}: {one.when} {one.word}"
        if len(self.overruled) > SHOWN:
            yield f"  … and {len(self.overruled) - SHOWN} more"
        for hook in ("pytest_runtest_makereport", "pytest_runtest_logreport"):
            found = getattr(self._config.hook, hook).get_hookimpls()
            names = dict.fromkeys(i.plugin_name for i in found if not i.function.__module__.startswith(_OWN))
            yield from (
                f"{one_line(Path(name).name, 200)} implements {hook} and may have changed them" for name in names
            )


def _is_watching(implementation: Any) -> bool:
    """Whether it wraps a hook and is no conftest's: of plugins that are made to be used in any project."""
    function = implementation.function
    return (
        (implementation.wrapper or implementation.hookwrapper)
        and not function.__module__.startswith(_OWN)
        and Path(function.__code__.co_filename).name != _CONFTEST
    )


def _word(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return str(report.outcome)


def _is_interactive(call: pytest.CallInfo[None], report: pytest.TestReport) -> bool:
    """As pytest decides it."""
    raised = call.excinfo
    return (
        raised is not None and not hasattr(report, "wasxfail") and not isinstance(raised.value, pytest.skip.Exception)
    )


def red_if_overruled(overruled: Sequence[Overruled], *, is_gated: bool) -> bool:
    """Whether the session must not end green: nothing red passes, and under a gate nothing red is left out either."""
    return any(is_gated or one.is_green for one in overruled)

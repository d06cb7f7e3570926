"""Owns how a pytest in the box differs from the one that the user started at a desk; must not know what it is for."""

import os
from collections.abc import Iterator

import pytest

from pytest_megacpp.recording.plan import Plan

# What belongs to the desk: stopping early, choosing tests, files and processes of the user's terminal.
_DESK_OPTIONS: dict[str, object] = {
    "maxfail": 0,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "cacheclear": False,
    "usepdb": False,
    "trace": False,
    "xmlpath": None,
    "htmlpath": None,
    "report_log": None,
    "numprocesses": None,
    "dist": "no",
    "tx": [],
    "looponfail": False,
    "durations": None,
    "timeout": None,
    "cov_source": None,
}
_DESK_PLUGINS = ("terminalreporter", "lfplugin", "nfplugin", "stepwiseplugin", "rerunfailures")


def arguments(plan: Plan) -> list[str]:
    """Returns the user's arguments, with output left to the rank's own log files. pytest would look for its root anew,
    and paths in options that it doesn't know yet (a directory for artefacts that exists by now) would lead it
    elsewhere.
    """
    ini = ["-c", plan.ini] if plan.ini else []
    at = plan.args.index("--") if "--" in plan.args else len(plan.args)
    return ["--rootdir", plan.root, *ini, *plan.args[:at], "-s", *plan.args[at:]]


class OwnPytest:
    """The part of a plugin that leaves to the desk what is the desk's. Under its name the desk's plugin knows that it
    is in the box.
    """

    def __init__(self) -> None:
        self.__name__ = "megacpp-rank"

    @pytest.hookimpl(wrapper=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> Iterator[None]:
        """Keeps pytest-cov from measuring: eight ranks would write over the desk's data."""
        if hasattr(early_config.known_args_namespace, "cov_source"):
            early_config.known_args_namespace.cov_source = None
        yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        for name, value in _DESK_OPTIONS.items():
            if hasattr(config.option, name):
                setattr(config.option, name, value)
        config.option.basetemp = os.environ["MEGACPP_TMP"]
        if config.getoption("tbstyle", None) in ("no", "line"):  # the terminal's taste; the evidence needs tracebacks
            config.option.tbstyle = "short"

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        keep_plain_writer(config)
        for name in _DESK_PLUGINS:
            plugin = config.pluginmanager.get_plugin(name)
            if plugin is not None:
                config.pluginmanager.unregister(plugin)


def keep_plain_writer(config: pytest.Config) -> None:
    """Lets pytest explain a failed comparison once no reporter is left: before 9.1 it asks the reporter's writer for
    colours, and where there is none, its own error takes the place of the explanation.
    """
    if config.pluginmanager.has_plugin("terminalreporter"):
        writer = config.get_terminal_writer()
        writer.hasmarkup = False
        config.get_terminal_writer = lambda: writer  # type: ignore[method-assign]

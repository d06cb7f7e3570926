"""Owns how a pytest in the box differs from the one that the user started at a desk; must not know what it is for."""

import os
from collections.abc import Generator

import pytest

from pytest_megacpp.rank.desk_options import DeskOptions
from pytest_megacpp.recording.plan import Plan

_DESK_PLUGINS = (
    *("terminalreporter", "lfplugin", "nfplugin", "stepwiseplugin", "rerunfailures"),
    *("annotate_errors", "annotate_warnings"),  # of pytest-github-actions-annotate-failures
)


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
        self._desk_options = DeskOptions()

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        self._desk_options.hear_parser(parser)

    def pytest_plugin_registered(self, plugin: object) -> None:
        self._desk_options.hear_plugin(plugin)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> Generator[None, object, object]:
        """Some plugins read their options before there is a configuration."""
        self._desk_options.reset(early_config.known_args_namespace, early_config.pluginmanager)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        self._desk_options.reset(config.option, config.pluginmanager)
        config.option.basetemp = os.environ["MEGACPP_TMP"]
        config.pluginmanager.register(_WithoutDeskPlugins(), "megacpp-rank-plugins")
        if config.getoption("tbstyle", None) in ("no", "line"):  # the terminal's taste; the evidence needs tracebacks
            config.option.tbstyle = "short"


class _WithoutDeskPlugins:
    """Registered after every plugin and conftest, so that the last one to configure itself is this one: others look for
    pytest's reporter when they do, to put their own in its place.
    """

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

"""Owns what `megacpp doctor --surface NAME` reports of a machine that a command reaches: whether it answers, and what a
box would find there; must not start a box.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_megacpp.box.host.supported import SUPPORTED
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import wrapped
from pytest_megacpp.surfaces.command import failures
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.command.launch import LEAVE_S
from pytest_megacpp.surfaces.command.surface import caller_of
from pytest_megacpp.surfaces.protocol import Lane, SurfaceOptions
from pytest_megacpp.surfaces.source import SourceError, gather, top_of

RUN = "doctor"
GIB = 1 << 30


class CommandExamination:
    """See `Examination`."""

    def __init__(self, config: CommandConfig, options: SurfaceOptions, lanes: Sequence[Lane]) -> None:
        self._config = config
        self._options = options
        self._lanes = lanes
        self.ready = True

    def lines(self) -> Iterator[str]:
        yield f"{self._config.name}: {one_line(self._config.shown, 300)}"
        yield from self._source()
        caller = caller_of(self._config, RUN, self._options.environment)
        try:
            with caller.failing():
                far = caller.call({"wish": "look"}, None, lambda: False)
        except failures.Failed as e:
            yield from self._missing("answer", e.problem.detail, e.problem.remedy)
            return
        far.connection.leave(LEAVE_S)
        yield from self._facts(far.facts)
        attach = f"`{' '.join(self._config.attach)}` reaches it again" if self._config.attach else "ends with its desk"
        yield _line("a box", attach)

    def _source(self) -> Iterator[str]:
        try:
            found = gather(top_of(Path.cwd()), self._options.source, "/", (self._options.lane_dir,))
            yield _line("source", found.notice)
        except SourceError as e:
            yield from self._missing("source", str(e), "")

    def _facts(self, facts: Mapping[str, Any]) -> Iterator[str]:
        yield _line("host", str(facts.get("host")))
        yield _line("python", f"{facts.get('python')} ({facts.get('executable')})")
        packages = facts.get("packages")
        versions = packages if isinstance(packages, dict) else {}
        for package in SUPPORTED:
            if versions.get(package):
                yield _line(package, str(versions[package]))
            else:
                remedy = f"install it for {facts.get('executable')}, or name another interpreter with python"
                yield from self._missing(package, "not installed", remedy)
        gpus, free = facts.get("gpus"), facts.get("free_bytes")
        listed = ", ".join(map(str, gpus)) if isinstance(gpus, list) else ""
        yield _line("GPUs", listed or "none that a driver lists")
        room = f", {free / GIB:.1f} GiB free" if isinstance(free, int) else ""
        yield _line("runs in", f"{facts.get('home')}{room}")

    def _missing(self, name: str, detail: str, remedy: str) -> Iterator[str]:
        self.ready = False
        yield _line(name, f"NO: {detail}")
        if remedy:
            yield from wrapped(one_line(remedy, 300), f"  {'':<22}")


def _line(name: str, text: str) -> str:
    return f"  {one_line(name):<22}{one_line(text, 600)}"

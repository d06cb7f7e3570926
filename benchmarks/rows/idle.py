"""Owns the row ``idle``: what a plugin costs a session that doesn't use it.

Three looks at the same question, from steady to noisy: function calls (counted, import excluded) and
import time, CPU time of the command, wall time of the command.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from benchmarks.commands import CASES, OURS, Workshop, environment, plugin_missing, pytest_arguments
from benchmarks.measure import Command, Completed, Outcome, Variant, run
from benchmarks.table import Metric, Relation, Table

FILES, TESTS_PER_FILE = 20, 50
DEADLINE_S = 120.0
BASE = "bare"
PLUGINS = {OURS: (OURS,), "xdist": ("xdist", "xdist.looponfail"), "timeout": ("timeout",)}
_IMPORT_LINE = re.compile(r"^import time:\s*\d+ \|\s*(?P<cumulative>\d+) \| (?P<name>[\w.]+)$")
_METRICS = (
    Metric("added_ms", "import + calls, estimated", "ms", Relation.NONE),
    Metric("load_s", "loading the plugin, in place", "ms", Relation.NONE, scale=1e3),
    Metric("importtime_s", "-X importtime", "ms", Relation.NONE, scale=1e3),
    Metric("calls", "function calls, loading excluded", "calls", Relation.THIS_MINUS_BASE),
    Metric("modules", "modules imported", "modules", Relation.THIS_MINUS_BASE),
    Metric("cpu_s", "CPU time of the command", "ms", Relation.THIS_MINUS_BASE, scale=1e3),
    Metric("wall_s", "wall time of the command", "ms", Relation.THIS_MINUS_BASE, scale=1e3),
)


def tables(workshop: Workshop) -> list[Table]:
    """One table: no plugin, ours, pytest-xdist, pytest-timeout."""
    bench = _Bench(workshop)
    labels = {OURS: "megacpp (ours)", "xdist": "pytest-xdist", "timeout": "pytest-timeout"}
    loaded = [_variant(bench, name, labels[name], entries) for name, entries in PLUGINS.items()]
    title = f"pytest --collect-only -q of {FILES * TESTS_PER_FILE} tests, one plugin present"
    aim = "≤ 8 ms added; torch and modal not imported"
    return [Table("idle", title, aim, BASE, _METRICS, (_variant(bench, BASE, "no plugin", ()), *loaded))]


def _variant(bench: _Bench, name: str, label: str, entries: tuple[str, ...]) -> Variant:
    return Variant(name, label, lambda _: bench.measure(name, entries), missing=plugin_missing(entries))


@dataclass
class _Bench:
    """The generated tests, and what the round's run without a plugin showed."""

    workshop: Workshop
    _folder: Path | None = None
    _bare: dict[str, float] = field(default_factory=dict)

    def measure(self, name: str, entries: tuple[str, ...]) -> Outcome:
        """One timed run, one counted run and, for a plugin, one import."""
        timed, counted = self._timed(entries), self._counted(entries)
        failure = _failure(timed) or _failure(counted)
        if failure is not None:
            return Outcome(failure=failure)
        seen = json.loads((self.folder / "count.json").read_text(encoding="utf-8"))
        values = {"wall_s": timed.wall_s, "cpu_s": timed.cpu_s}
        values |= {"calls": seen["calls"], "modules": seen["modules"]}
        if name == BASE:
            self._bare = values
            return Outcome(values)
        values |= {"load_s": seen["load_s"], "importtime_s": self._importtime_s(entries)}
        return Outcome(values | self._estimate(values), {"heavy imports": ", ".join(seen["heavy"]) or "none"})

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = self.workshop.fresh("idle")
            _generate(self._folder)
            for entries in ((), *PLUGINS.values()):
                self._timed(entries)  # fills the bytecode caches
        return self._folder

    def _estimate(self, values: dict[str, float]) -> dict[str, float]:
        """Loading time plus extra calls at the mean cost of a call, both of this round."""
        if not self._bare:
            return {}
        per_call_s = self._bare["cpu_s"] / self._bare["calls"]
        return {"added_ms": 1e3 * (values["load_s"] + (values["calls"] - self._bare["calls"]) * per_call_s)}

    def _timed(self, entries: tuple[str, ...]) -> Completed:
        return self._python(["-m", "pytest", *_collect(entries)], keep_output=False)

    def _counted(self, entries: tuple[str, ...]) -> Completed:
        script = str(CASES / "count_calls.py")
        return self._python([script, str(self.folder / "count.json"), *_collect(entries)], keep_output=False)

    def _importtime_s(self, entries: tuple[str, ...]) -> float:
        modules = _modules(entries)
        code = f"from _pytest.config import get_config; get_config()\nimport {', '.join(modules)}"
        done = self._python(["-X", "importtime", "-c", code], keep_output=True)
        return sum(_cumulative_s(done, module) for module in modules)

    def _python(self, arguments: list[str], keep_output: bool) -> Completed:
        argv = [sys.executable, *arguments]
        return run(Command(argv, self.folder, self._environment(), DEADLINE_S, keep_output))

    def _environment(self) -> dict[str, str]:
        """Bytecode goes to the scratch folder: warm for every plugin, no installation is touched."""
        return environment({"PYTHONPYCACHEPREFIX": str(self.folder / "pycache"), "PYTHONHASHSEED": "0"})


def _generate(folder: Path) -> None:
    body = "\n\n".join(f"def test_{number:02d}():\n    pass" for number in range(TESTS_PER_FILE)) + "\n"
    for number in range(FILES):
        (folder / f"test_generated_{number:02d}.py").write_text(body, encoding="utf-8")


def _collect(entries: tuple[str, ...]) -> list[str]:
    return ["--collect-only", *pytest_arguments(entries)]


def _failure(done: Completed) -> str | None:
    if done.timed_out:
        return f"no end within {DEADLINE_S:.0f} s"
    return f"exit code {done.rc}" if done.rc else None


def _modules(entries: tuple[str, ...]) -> list[str]:
    found = [entry for name in entries for entry in metadata.entry_points(group="pytest11", name=name)]
    return [entry.module for entry in found]


def _cumulative_s(done: Completed, module: str) -> float:
    matches = [match for line in done.lines if (match := _IMPORT_LINE.match(line.text))]
    return sum(int(match["cumulative"]) for match in matches if match["name"] == module) / 1e6

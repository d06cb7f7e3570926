"""Owns one counted pytest run: ``count_calls.py OUT.json ARGUMENTS…``.

Counts function calls (Python and C) with cProfile, except those of loading plugins; loading is timed without
the profiler instead. Says which of the heavy packages were imported.
"""

import cProfile
import json
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

HEAVY = ("torch", "modal", "numpy")


class Counter:
    """A profiler that looks away while an entry point is being loaded."""

    def __init__(self) -> None:
        self.profile = cProfile.Profile()
        self.load_s = 0.0

    def install(self) -> None:
        """Make every entry point load through this counter."""
        original = EntryPoint.load

        def load(entry: EntryPoint) -> object:
            self.profile.disable()
            begun = time.perf_counter()
            try:
                plugin: object = original(entry)
                return plugin
            finally:
                self.load_s += time.perf_counter() - begun
                self.profile.enable()

        setattr(EntryPoint, "load", load)  # noqa: B010

    def calls(self) -> int:
        """Calls counted so far."""
        return sum(entry.callcount for entry in self.profile.getstats())


def main(out: Path, arguments: list[str]) -> int:
    """Run pytest under the counter and write what it saw."""
    counter = Counter()
    counter.install()
    counter.profile.enable()
    code = pytest.main(arguments)
    counter.profile.disable()
    heavy = [name for name in HEAVY if name in sys.modules]
    seen = {"calls": counter.calls(), "load_s": counter.load_s, "modules": len(sys.modules), "heavy": heavy}
    out.write_text(json.dumps(seen), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

"""Owns the compile cache that a run works with, and what its tests want to find there; must not know where seeds come
from, nor what becomes of the cache.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from pytest_megacpp.box.seed.store import lacking
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import SeedShort
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.seed import Coverage, SeededTest, Shape, Wanted, coverage
from pytest_megacpp.recording.seed_layout import SeedError
from pytest_megacpp.recording.vocabulary import SeedMode

KEPT_KEYS = 8  # of those that a test lacks, in the recording
SHORTFALL_BYTES = 512 << 10  # of what tests lack: one line of the recording takes no more than twice as much


@dataclass(frozen=True, slots=True)
class WorkingCopy:
    """The compile cache of one run in `directory`, empty at first. `why_unused` is not empty where the operator's own
    variables keep seeds from filling or reading it. Large caches take minutes to unpack and to pack: `say` reports
    that, and `is_stopped` is asked meanwhile.
    """

    plan: Plan
    shape: Shape
    directory: Path
    why_unused: str = ""
    say: Callable[[str], object] = lambda text: None
    is_stopped: Callable[[], bool] = lambda: False

    def wanted(self) -> dict[int, Wanted]:
        """Returns what is to be kept warm, by index in the plan: nothing for drills, which are meant to fail."""
        tests = [(i, t) for i, t in enumerate(self.plan.tests) if not (t.drill or has_cache_of_its_own(t, self.plan))]
        return {i: Wanted(test.nodeid, test.preset, test.ranks) for i, test in tests}

    def coverage(self, known: Sequence[SeededTest]) -> Coverage:
        """Returns what of the wanted is there, given what tests are known to need."""
        return coverage(known, self.wanted().values(), lacking(known, self.directory))

    def size_bytes(self) -> int:
        """Returns the bytes of all files that can be seen. Files may vanish meanwhile."""
        total_bytes = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                with contextlib.suppress(OSError):
                    total_bytes += os.lstat(os.path.join(folder, name)).st_size
        return total_bytes

    def go_on(self) -> None:
        """Raises SeedError where the run is to end."""
        if self.is_stopped():
            raise SeedError("the run was interrupted")


def has_cache_of_its_own(test: PlannedTest, plan: Plan) -> bool:
    """Returns whether a test gets an empty cache: it is to run cold, while others aren't."""
    return test.cache_seed is SeedMode.COLD and plan.seed.mode is not SeedMode.COLD


def fitting(short: Sequence[SeedShort]) -> tuple[SeedShort, ...]:
    """Returns as many as fit into one line of the recording."""
    sizes_bytes = accumulate(len(json.dumps(to_json(one))) for one in short)
    return tuple(one for one, total_bytes in zip(short, sizes_bytes, strict=True) if total_bytes <= SHORTFALL_BYTES)

"""Owns what this process compiled in a test: seconds, graphs, cache keys that it used; must not know the box."""

import functools
import sys
from typing import Any

from pytest_megacpp.recording.events import Compiled

KEPT_KEYS = 4096  # of compile caches, per test
KEY_CHARS = 200  # all of them fit one line of the recording
_OUTERMOST = ("_compile.compile_inner", "backward._backward_impl")


class CompileCounts:
    """Counts from the last `begin` on."""

    def __init__(self) -> None:
        self._before = (0.0, 0, 0, 0)
        self._keys: dict[tuple[str, str], None] = {}

    def watch_keys(self) -> None:
        """Watches which keys each cache of the compiler stored or found. The function that torch calls for that is
        loaded with torch. Raises whatever a torch without it raises.
        """
        from torch.compiler import _cache

        manager: Any = _cache.CacheArtifactManager
        record = manager.record_artifact

        @functools.wraps(record)
        def recorded(artifact_type: str, key: str, content: Any) -> None:
            self._used_key(artifact_type, key)
            record(artifact_type, key, content)

        manager.record_artifact = staticmethod(recorded)

    def _used_key(self, cache: str, key: str) -> None:
        if len(self._keys) < KEPT_KEYS:
            self._keys[str(cache), str(key)[:KEY_CHARS]] = None

    def begin(self) -> None:
        self._before = _totals()
        self._keys.clear()

    def compiled(self, rank: int, test: int) -> Compiled | None:
        """Returns what was compiled; None where nothing was."""
        totals = zip(self._before, _totals(), strict=True)
        seconds, graphs, hits, misses = (b - a if b >= a else b for a, b in totals)  # a test may have set them to 0
        keys = _by_cache(tuple(self._keys))  # another thread may go on
        if not (graphs or hits or misses or seconds or keys):
            return None
        return Compiled(rank, test, round(seconds, 3), int(graphs), int(hits), int(misses), keys)


def _by_cache(used: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    caches = dict.fromkeys(cache for cache, _ in used)
    return {cache: tuple(key for c, key in used if c == cache) for cache in caches}


def _totals() -> tuple[float, int, int, int]:
    """Returns seconds, graphs, cache hits and misses of this process so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return 0.0, 0, 0, 0
    counters = utils.counters
    inductor, autograd = counters.get("inductor", {}), counters.get("aot_autograd", {})
    seconds = sum(sum(utils.compilation_time_metrics.get(k, ())) for k in _OUTERMOST)
    return (
        float(seconds),
        int(counters.get("stats", {}).get("unique_graphs", 0)),
        int(inductor.get("fxgraph_cache_hit", 0)) + int(autograd.get("autograd_cache_hit", 0)),
        int(inductor.get("fxgraph_cache_miss", 0)) + int(autograd.get("autograd_cache_miss", 0)),
    )

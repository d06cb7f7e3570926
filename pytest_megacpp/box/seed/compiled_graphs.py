"""Owns where torch's compilers lay compiled graphs in a cache directory; must not know seeds or tests.

A cache directory has `inductor/` (`TORCHINDUCTOR_CACHE_DIR`) and `triton/` (`TRITON_CACHE_DIR`). Inductor's graphs and
autograd's have directories named by their keys, as in torch 2.13 (`FxGraphCache`, `AOTAutogradCache`); other keys have
no place of their own.
"""

import os
import re
from pathlib import Path

_KEY = re.compile(r"\w{3,200}")
CACHES = ("inductor", "aot_autograd")


def graph_dir(cache_dir: Path, cache: str, key: str) -> Path | None:
    """Returns where the graph of a key would lie; None for a cache without such places, or for what can't be a key."""
    if _KEY.fullmatch(key) is None:
        return None
    match cache:
        case "inductor":
            return cache_dir / "inductor" / "fxgraph" / key[1:3] / key
        case "aot_autograd":
            return cache_dir / "inductor" / "aotautograd" / key
        case _:
            return None


def has_graph(cache_dir: Path, cache: str, key: str) -> bool:
    """Returns whether the graph is there; one that has no place of its own counts as there."""
    if cache not in CACHES:
        return True
    place = graph_dir(cache_dir, cache, key)
    return place is not None and bool(_listed(place))


def graph_keys(cache_dir: Path) -> dict[str, set[str]]:
    """Returns the keys of all graphs that are there, by cache."""
    inductor = cache_dir / "inductor"
    groups = [inductor / "fxgraph" / name for name in _listed(inductor / "fxgraph")]
    graphs = [group / key for group in groups for key in _listed(group)]
    autograd = [inductor / "aotautograd" / key for key in _listed(inductor / "aotautograd")]
    found = zip(CACHES, (graphs, autograd), strict=True)
    return {cache: {place.name for place in places if _listed(place)} for cache, places in found}


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []

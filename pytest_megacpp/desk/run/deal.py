"""Owns dealing tests to several boxes, so that all of them end at about the same time; must not know a box."""

from collections.abc import Container, Mapping, Sequence
from statistics import median

from pytest_megacpp.recording.naming import opened_around

UNKNOWN_S = 1.0  # of every test, where nothing is known of any: then tests are dealt by their number


def deal(nodeids: Sequence[str], seconds: Mapping[str, float], boxes: int) -> list[list[int]]:
    """The indexes of the tests of each box, in the order of `nodeids`; no box is empty, so there may be fewer.

    The longest test goes first, to the box that has least to do. A test that no earlier run measured (`seconds`, by
    node id) counts as the median of those that one did.
    """
    typical_s = median([seconds[name] for name in nodeids if name in seconds] or [UNKNOWN_S])
    longest_first = sorted(range(len(nodeids)), key=lambda i: -seconds.get(nodeids[i], typical_s))
    shares: list[list[int]] = [[] for _ in range(min(boxes, len(nodeids)))]
    loads = [0.0] * len(shares)
    for index in longest_first:
        box = loads.index(min(loads))
        shares[box].append(index)
        loads[box] += seconds.get(nodeids[index], typical_s)
    return sorted(sorted(share) for share in shares)


def with_cases(seconds: Mapping[str, float], opened: Container[str]) -> dict[str, float]:
    """Adds what the cases of each open test took together: they stay on one box."""
    found = dict(seconds)
    for nodeid, took_s in seconds.items():
        name = opened_around(nodeid, opened)
        if name and name != nodeid:
            found[name] = found.get(name, 0.0) + took_s
    return found

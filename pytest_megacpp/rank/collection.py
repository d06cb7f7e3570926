"""Owns what a rank sends of a collection that isn't as planned; must not know the box or pytest's session."""

import re
from collections.abc import Collection, Iterator, Sequence

from pytest_megacpp.recording.events import CollectError

KEPT_UNPLANNED = 64


def other_parameters(planned: Sequence[str], found: Collection[str]) -> tuple[str, ...]:
    """Returns tests that were found but not planned, of those that are planned with other parameters."""
    lacking = {nodeid.partition("[")[0] for nodeid in planned if nodeid not in found}
    known = set(planned)
    return tuple(n for n in found if n not in known and n.partition("[")[0] in lacking)[:KEPT_UNPLANNED]


def most_telling(found: Sequence[CollectError], lacking: Sequence[str], kept: int) -> tuple[CollectError, ...]:
    """Returns the collection errors to report, first those that took planned tests along, of their file or a directory
    above. Where some are left out, the last one counts them.
    """
    above = {".", *(place for nodeid in lacking for place in _places(nodeid))}
    first = [one for one in found if one.nodeid in above]
    if len(first) > kept:
        return (*first[:kept], CollectError(".", f"{len(first) - kept} more like this are left out of the recording"))
    return tuple(first + [one for one in found if one.nodeid not in above])[:kept]


def _places(nodeid: str) -> Iterator[str]:
    """Yields the directories, file and classes that contain a test."""
    return (nodeid[: found.start()] for found in re.finditer(r"/|::", nodeid))

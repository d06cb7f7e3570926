"""What `waits` finds where only collectives are known of ranks."""

from collections.abc import Iterable, Mapping

from pytest_megacpp.recording.collectives import RankCollectives
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.groups import Groups
from pytest_megacpp.recording.waits import Position, Wait, find_waits


def open_waits(ranks: Mapping[int, RankCollectives], groups: Groups) -> tuple[Wait, ...]:
    """Who waits in what is open."""
    return find_waits({r: Position(seen, seen.pending(), seen.messages) for r, seen in ranks.items()}, groups)


def message_waits(open_: Mapping[int, Iterable[Collective]], groups: Groups) -> tuple[Wait, ...]:
    """Who waits for which message."""
    return find_waits({r: Position(RankCollectives(), messages=tuple(found)) for r, found in open_.items()}, groups)

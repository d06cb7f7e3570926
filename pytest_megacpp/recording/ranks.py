"""Owns naming sets of ranks in few characters; must not know what is said about them."""

from collections.abc import Iterable, Iterator


def rank_list(ranks: Iterable[int]) -> str:
    """`(0, 1, 2, 4)` → `"0-2,4"`; empty for no ranks."""
    return ",".join(_span(first, last) for first, last in _spans(ranks))


def ranks_named(ranks: Iterable[int], width: int = 48) -> str:
    """`(3,)` → `"rank 3"`, `(0, 1, 2)` → `"ranks 0-2"`, `()` → `"no rank"`; a list of more than about `width`
    characters is cut: `"ranks 0,2,4,… (512 ranks)"`.
    """
    members = set(ranks)
    listed = rank_list(members)
    if not listed:
        return "no rank"
    if len(listed) > width:
        return f"ranks {listed[:width].rpartition(',')[0]},… ({len(members)} ranks)"
    return f"rank {listed}" if listed.isdigit() else f"ranks {listed}"


def _span(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first},{last}" if last == first + 1 else f"{first}-{last}"


def _spans(ranks: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for rank in sorted(set(ranks)):
        if first is None or last is None:
            first = last = rank
        elif rank == last + 1:
            last = rank
        else:
            yield first, last
            first = last = rank
    if first is not None and last is not None:
        yield first, last

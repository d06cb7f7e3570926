"""Owns the spans of a test's collectives, of all its ranks; must not know other spans, or whose fault anything is.

The end of a collective isn't recorded, so its span ends when its last member came to it (nobody leaves it before), and
one that did not end stays open until the rank died, gave up, failed, left the test or was ended by the box. Who waited
in it, and for whom, is what the judge saw at its moment: no other wait is shown. A root or a sender may be through
before others come, so these have no length.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from itertools import islice

from pytest_megacpp.recording.collectives import Number
from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.flight import without_backend
from pytest_megacpp.recording.operations import ROOTED, bare_op, describe
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.waits import Wait
from pytest_megacpp.report.spans import Kind, Mark, MarkKind, Span
from pytest_megacpp.report.waiting import Ends

LAST_KEPT = 16  # of a rank's collectives in a test: what led to its end is never left out
MISMATCHES_MARKED = 4
OTHERS_NAMED = 3  # of what ranks issued instead


class CollectiveSpans:
    """Those of all ranks of a test, by group and number."""

    def __init__(self, test: TestView, ends: Ends, waits: Iterable[Wait], is_red: bool) -> None:
        self.test, self.ends, self.is_red = test, ends, is_red
        self._may_be_open = is_red or test.ended is None  # of others nothing is shown as open
        self.waits = {wait.number: wait for wait in waits if wait.partner is None and not wait.makes_group}
        self.entries: dict[Number, dict[int, Collective]] = defaultdict(dict)
        self._users: dict[str, set[int]] = defaultdict(set)
        self._members: dict[str, frozenset[int]] = {}
        groups = test.groups
        for rank, view in test.ranks.items():
            for name in view.collectives.enqueued:
                self._users[groups.as_named_by(rank, name) if groups.disputed else name].add(rank)
            for (name, seq), entry in view.collectives.entries.items():
                group = groups.as_named_by(rank, name) if groups.disputed else name
                self.entries[group, seq][rank] = entry

    def __len__(self) -> int:
        return sum(map(len, self.entries.values()))

    def within(self, numbers: Iterable[Number], room: int) -> Iterator[tuple[int, Span]]:
        """The spans of these collectives by rank, in this order, as far as there is room for them on all ranks."""
        for number in numbers:
            if len(self.entries[number]) <= room:
                room -= len(self.entries[number])
                yield from self.spans(number)

    def evidence(self) -> list[Number]:
        """What says why a test failed, or what one that runs is in: what ranks wait in, the oldest first, then the last
        ones of each rank. None of others.
        """
        waited_in = (number for number in self.waits if number in self.entries)
        return [*dict.fromkeys((*waited_in, *(self._last if self._may_be_open else ())))]

    def others(self) -> list[Number]:
        """All others, the last ones of each rank first, then those with the longest spans."""
        last = dict.fromkeys(self._last)
        rest = sorted((n for n in self.entries if n not in last), key=self._length_s, reverse=True)
        evidence = set(self.evidence())
        return [number for number in (*last, *rest) if number not in evidence]

    @cached_property
    def _last(self) -> list[Number]:
        """Of the collectives that are kept of each rank, the last ones it entered, the newest first."""
        own: dict[int, list[tuple[float, Number]]] = defaultdict(list)
        for number, entries in self.entries.items():
            for rank, entry in entries.items():
                own[rank].append((entry.entered_s, number))
        found = {number for entered in own.values() for _, number in heapq.nlargest(LAST_KEPT, entered)}
        return sorted((number for number in self.entries if number in found), key=self._first_s, reverse=True)

    def _first_s(self, number: Number) -> float:
        return min(entry.entered_s for entry in self.entries[number].values())

    def _length_s(self, number: Number) -> float:
        """How long its first rank waited for the last one; one that lacks a member is longer than all others."""
        entries = self.entries[number]
        times = [entry.entered_s for entry in entries.values()]
        lacks_any = number in self.waits or (self.is_red and bool(self._absent(number, entries.keys())))
        return float("inf") if lacks_any else max(times) - min(times)

    def spans(self, number: Number) -> Iterator[tuple[int, Span]]:
        """What each of its ranks spent in it, as far as that is known."""
        group, seq = number
        entries = self.entries[number]
        last_s = max(entry.entered_s for entry in entries.values())
        last = tuple(rank for rank, entry in entries.items() if entry.entered_s == last_s)
        missing, ended_s = self._missing(number), self._ended_s(number, last_s)
        for rank, entry in entries.items():
            name, start_s = describe(entry), entry.entered_s
            if rank in missing:
                end_s = self.ends.out_s(rank, start_s)
                yield rank, Span(start_s, end_s, Kind.WAIT, name, self.test.index, seq, group, missing[rank])
                continue
            end_s = self._own_end_s(rank, entry, ended_s)
            peers = last if end_s == last_s > start_s else ()
            yield rank, Span(start_s, end_s, Kind.COLLECTIVE, name, self.test.index, seq, group, peers)

    def wait_spans(self) -> Iterator[tuple[int, Span]]:
        """All waits in them, by rank."""
        for number in (n for n in self.waits if n in self.entries):
            yield from ((rank, span) for rank, span in self.spans(number) if span.kind is Kind.WAIT)

    def _missing(self, number: Number) -> dict[int, tuple[int, ...]]:
        """For whom each rank waited in it that did; for nobody where all had come, and it did not end in a test that
        failed.
        """
        wait, entries = self.waits.get(number), self.entries[number]
        if wait is None:
            return {}
        inside = (r for r in wait.waiting if r in entries)
        return {r: wait.missing for r in inside if wait.missing or (self.is_red and self._is_open(r, entries[r]))}

    def _is_open(self, rank: int, entry: Collective) -> bool:
        """Whether the rank was still in it when a test ended that failed, or still is."""
        return self._may_be_open and not self.test.ranks[rank].collectives.is_done(entry)

    def _own_end_s(self, rank: int, entry: Collective, ended_s: float | None) -> float:
        """When a rank that did not wait in it was through with what ended at `ended_s`."""
        is_rooted = bare_op(entry.op) in ROOTED
        if self._is_open(rank, entry) and (ended_s is None or is_rooted):
            return self.ends.out_s(rank, entry.entered_s)
        return entry.entered_s if ended_s is None or is_rooted else max(entry.entered_s, ended_s)

    def _ended_s(self, number: Number, last_s: float) -> float | None:
        """When it ended: when its last member came, if it ended for any of them. A rank that died may not have been
        seen in it, though it was: had others gone on to the next one, all had come. Otherwise it ended with what kept
        the members that never came from coming; None if nothing tells of an end.
        """
        entries = self.entries[number]
        absent = self._absent(number, entries.keys())
        is_over = any(self.test.ranks[rank].collectives.is_done(entry) for rank, entry in entries.items())
        if not is_over:
            return None if absent or self._may_be_open else last_s
        if not absent:
            return last_s
        gone_s = self._gone_s(absent, last_s)
        group, seq = number
        following = self.entries[group, seq + 1].values() if (group, seq + 1) in self.entries else ()
        return last_s if any(entry.entered_s <= gone_s for entry in following) else gone_s

    def _gone_s(self, absent: Iterable[int], start_s: float) -> float:
        """When the first of the members that never came had died or failed; without that, nothing is known of it."""
        views = [self.test.ranks[rank] for rank in absent]
        failed = [view.failure[0] for view in views if view.failure is not None]
        return max(
            start_s, min([*failed, *(view.exit_s for view in views if view.exit_s is not None)], default=start_s)
        )

    def mismatches(self) -> Iterator[Mark]:
        """Where ranks issued different collectives under one number: a mark for each that isn't of the majority, for
        all of them on a tie.
        """
        for found in self.test.disagreements()[:MISMATCHES_MARKED]:
            entries, odd = self.entries.get((found.group, found.seq), {}), frozenset(found.odd)
            for variant, ranks in found.variants:
                others = islice(((what, of) for what, of in found.variants if what != variant), OTHERS_NAMED)
                named = ", ".join(f"{ranks_named(of)} {what}" for what, of in others)
                left_out = len(found.variants) - 1 - OTHERS_NAMED
                more = f" and {left_out} more" if left_out > 0 else ""
                text = f"issued {variant} as #{found.seq}, and {named}{more}: {found.aspect} differs"
                for rank in (r for r in ranks if r in entries and (r in odd or not odd)):
                    yield Mark(entries[rank].entered_s, MarkKind.MISMATCH, rank, text, self.test.index)

    def _absent(self, number: Number, there: Collection[int]) -> tuple[int, ...]:
        """The members that never came, as far as all members are known."""
        group, seq = number
        members = self._members_of(group)
        if len(members) <= len(there):
            return ()
        counted = (r for r in members if r not in there and r in self.test.ranks)
        return tuple(sorted(r for r in counted if self.test.issued(r, group) < seq))

    def _members_of(self, group: str) -> frozenset[int]:
        """Nobody for a group that has no name: several may look like one."""
        if group not in self._members:
            is_named = without_backend(group)[:1] not in ("", "~", "@")
            self._members[group] = self.test.groups.of(group, self._users[group]) if is_named else frozenset()
        return self._members[group]

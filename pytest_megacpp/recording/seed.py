"""Owns what a seed is: the launch shape it belongs to, its manifest, how far it covers a launch; must not know a file.

A seed is a compile cache that a real launch left behind. It counts for launches of the same shape only, and is judged
per rank: the index of a device, and which subgroup a rank is in, are part of a graph's key, so a seed of one rank may
be worth nothing to the next.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pytest_megacpp.recording.codec import to_json

SCHEMA = "megacpp.seed/1"


@dataclass(frozen=True, slots=True)
class Shape:
    """What must be equal for a graph of one launch to serve another.

    `gpu` as requested (`H200:8`), `devices` as observed, by name, or the CPU's of a dry run; `ranks` is the lane's
    world size. `versions` of torch, triton, CUDA, the driver and Python; `settings` are variables that Inductor and
    Triton read. `project` whose seeds these are; empty in seeds of before, which are nobody's.
    """

    lane: str
    gpu: str
    devices: tuple[str, ...]
    ranks: int
    preset: str
    image: str
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    project: str = ""

    @property
    def key(self) -> str:
        """A name for the shape, fit for a directory."""
        fields = {name: value for name, value in to_json(self).items() if name != "project" or value}
        text = json.dumps(fields, sort_keys=True).encode("utf-8", "surrogatepass")
        return hashlib.blake2s(text, digest_size=8).hexdigest()

    def differences(self, other: "Shape") -> tuple[str, ...]:
        """Where `other`, of a seed, differs: `torch 2.12.0, here 2.13.0`."""
        mine, theirs = _flat(self), _flat(other)
        names = dict.fromkeys((*mine, *theirs))
        return tuple(
            f"{name} {theirs.get(name) or 'unset'}, here {mine.get(name) or 'unset'}"
            for name in names
            if mine.get(name) != theirs.get(name)
        )


def _flat(shape: Shape) -> dict[str, str]:
    devices = ", ".join(dict.fromkeys(shape.devices))
    own = {"lane": shape.lane, "gpu": shape.gpu, "devices": f"{len(shape.devices)} × {devices}"}
    own |= {"ranks": str(shape.ranks), "preset": shape.preset, "image": shape.image, "project": shape.project}
    return {**own, **shape.versions, **shape.settings}


GraphKeys: TypeAlias = Mapping[str, Collection[str]]
"""Keys by cache: `inductor`, `aot_autograd`, …"""


@dataclass(frozen=True, slots=True)
class RankGraphs:
    """What one rank needed in one test: graph keys by cache, compile seconds with a cold and with a warm cache."""

    rank: int
    device: str
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cold_s: float | None = None
    warm_s: float | None = None


@dataclass(frozen=True, slots=True)
class SeededTest:
    """What the ranks of one test needed, measured by `run` at `revision`."""

    nodeid: str
    preset: str
    world_size: int
    ranks: tuple[RankGraphs, ...]
    run: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A seed. `run` made it, at `revision`; `created_at` is UTC, ISO 8601. `cache_bytes` and `files` are what is
    packed, `archive_bytes` and `sha256` the archive's.
    """

    id: str
    shape: Shape
    run: str
    created_at: str
    cache_bytes: int
    files: int
    archive_bytes: int
    sha256: str
    tests: tuple[SeededTest, ...] = ()
    revision: str = ""
    schema: str = SCHEMA

    def of(self, wanted: "Wanted") -> SeededTest | None:
        """What the seed knows of a test of this size."""
        return next((test for test in self.tests if Wanted.of(test) == wanted), None)

    @property
    def size(self) -> tuple[int, int]:
        """(rank and test pairs, graph keys): a seed that has less of either is the smaller one."""
        ranks = [rank for test in self.tests for rank in test.ranks]
        return len(ranks), sum(len(keys) for rank in ranks for keys in rank.keys.values())


@dataclass(frozen=True, slots=True)
class Wanted:
    """A test as a launch wants to run it."""

    nodeid: str
    preset: str
    world_size: int

    @classmethod
    def of(cls, test: SeededTest) -> "Wanted":
        return cls(test.nodeid, test.preset, test.world_size)


@dataclass(frozen=True, slots=True)
class Missing:
    """Ranks of a test that the seed doesn't serve: all of them where the test is unknown to it."""

    nodeid: str
    ranks: tuple[int, ...]
    keys: tuple[str, ...] = ()
    known: bool = True


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many (test, rank) pairs are served, of how many; what is missing."""

    covered: int
    wanted: int
    missing: tuple[Missing, ...] = ()

    @property
    def share(self) -> float:
        """The share that is covered, from 0 to 1; 1 where nothing is wanted."""
        return round(self.covered / self.wanted, 4) if self.wanted else 1.0


def coverage(tests: Sequence[SeededTest], wanted: Iterable[Wanted], lacking: GraphKeys) -> Coverage:
    """What a seed is worth to a launch. `lacking` are keys that `tests` name and the cache doesn't have."""
    known = {Wanted.of(test): test for test in tests}
    covered, total, missing = 0, 0, []
    for one in wanted:
        short = _missing(one, known.get(one), lacking)
        total += one.world_size
        covered += one.world_size - len(short.ranks)
        missing += [short] if short.ranks else []
    return Coverage(covered, total, tuple(missing))


def _missing(wanted: Wanted, test: SeededTest | None, lacking: GraphKeys) -> Missing:
    if test is None:
        return Missing(wanted.nodeid, tuple(range(wanted.world_size)), known=False)
    by_rank = {graphs.rank: graphs for graphs in test.ranks}
    short: dict[int, tuple[str, ...]] = {}
    for rank in range(wanted.world_size):
        graphs = by_rank.get(rank)
        lost = (
            ()
            if graphs is None
            else tuple(k for cache, keys in graphs.keys.items() for k in keys if k in lacking.get(cache, ()))
        )
        if graphs is None or lost:
            short[rank] = lost
    keys = dict.fromkeys(key for lost in short.values() for key in lost)
    return Missing(wanted.nodeid, tuple(short), tuple(keys))


def merged(base: Sequence[SeededTest], measured: Sequence[SeededTest]) -> tuple[SeededTest, ...]:
    """What a seed knows after a run: tests that the run had as it measured them, the others as before. Seconds that a
    run could not measure (a warm one has no cold ones) are kept from before.
    """
    known = {Wanted.of(test): test for test in base}
    for test in measured:
        before = known.get(Wanted.of(test))
        known[Wanted.of(test)] = test if before is None else replace(test, ranks=_with_the_past(before, test))
    return tuple(known.values())


def _with_the_past(before: SeededTest, now: SeededTest) -> tuple[RankGraphs, ...]:
    past = {graphs.rank: graphs for graphs in before.ranks}
    return tuple(_rank_merged(past[g.rank], g) if g.rank in past else g for g in now.ranks)


def _rank_merged(past: RankGraphs, now: RankGraphs) -> RankGraphs:
    """A rank that used fewer keys than before may have had the others in its memory, from a test before this one."""
    fewer = all(set(keys) <= set(past.keys.get(cache, ())) for cache, keys in now.keys.items())
    return replace(
        now,
        keys=past.keys if fewer else now.keys,
        cold_s=now.cold_s if now.cold_s is not None else past.cold_s,
        warm_s=now.warm_s if now.warm_s is not None else past.warm_s,
    )

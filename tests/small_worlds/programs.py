"""Owns what the ranks of a small world are to do, and the faults that can be planted in it. Must not know how ranks run
or what is recorded of them.
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import NamedTuple, TypeAlias


@dataclass(frozen=True)
class Meet:
    """A collective of `group`, in which a rank waits for all `members`, unless it is asynchronous. Or, as `recv`, a
    message from the first member to the second; or, as `new_group`, the making of `group`.
    """

    op: str = "all_reduce"
    group: str = "0"
    members: tuple[int, ...] = (0, 1, 2)
    is_async: bool = False

    @property
    def is_message(self) -> bool:
        return self.op == "recv"

    @property
    def makes_group(self) -> bool:
        return self.op == "new_group"

    def __str__(self) -> str:
        where = "" if self.group == "0" else f"({','.join(map(str, self.members))})"
        return f"{'async ' if self.is_async else ''}{self.op}{where}"


class Fault(StrEnum):
    """What a rank does in place of, or before, one step of its program."""

    RAISES = "raises before"
    DIES = "dies before"
    SLEEPS = "sleeps for ever before"
    COMPUTES = "computes for ever before"
    LATE = "comes late to"
    COMPILES = "compiles for long before"
    COMPILES_ON = "compiles for ever before"
    KERNEL = "queues an endless kernel before"
    LEAVES = "returns before"
    SKIPS = "skips the test before"
    OMITS = "omits"
    REPEATS = "repeats"
    CHANGES = "issues another operation in place of"
    GIVES_UP = "gives up early in"
    SUBTEST = "fails a subtest in place of"
    CATCHES = "catches an exception in place of"
    FINALLY = "goes on to its last step, in finally, in place of"


class Activity(StrEnum):
    """What a rank does for a while before it goes on."""

    SLEEPS = "sleeps"
    COMPUTES = "computes"
    COMPILES = "compiles"
    IMPORTS = "imports the compiler"
    IS_SILENT = "answers no looks"
    IS_STOPPED = "is stopped"
    KERNEL = "queues a kernel"


class Spell(NamedTuple):
    """An activity for so many steps of time."""

    activity: Activity
    steps: int

    def __str__(self) -> str:
        return f"{self.activity} for {self.steps}"


@dataclass(frozen=True)
class Delay:
    """A fault that ends: one spell after the other before a step."""

    spells: tuple[Spell, ...]

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.spells))} before"


@dataclass(frozen=True)
class CatchesTimeOut:
    """A rank waits no longer than that in a step, and goes on if it was in vain; if a peer is lost, only if it catches
    that as well.
    """

    patience_s: float
    lost_peers: bool = False

    def __str__(self) -> str:
        return f"catches a time-out of {self.patience_s:g} s{' or a lost peer' if self.lost_peers else ''} in"


AnyFault: TypeAlias = Fault | Delay | CatchesTimeOut


class Planted(NamedTuple):
    """A fault of one rank at a step of its program; steps of the teardown count on."""

    rank: int
    fault: AnyFault
    step: int

    def __str__(self) -> str:
        return f"rank {self.rank} {self.fault} step {self.step}"


@dataclass(frozen=True)
class Program:
    """What all ranks run. `expects`: the test is marked xfail, `strict` or not. `patience_s`: until a wait times out.
    `announces`: who is in a group is recorded before the test.
    """

    call: tuple[Meet, ...]
    teardown: tuple[Meet, ...] = ()
    expects: bool = False
    patience_s: float = float("inf")
    size: int = 3
    strict: bool = False
    announces: bool = True

    @property
    def steps(self) -> tuple[Meet, ...]:
        return self.call + self.teardown

    def members(self, group: str) -> tuple[int, ...]:
        return next(m.members for m in self.steps if m.group == group)

    @property
    def announced(self) -> list[tuple[str, tuple[int, ...]]]:
        """The groups whose members are recorded before the test."""
        made = {m.group for m in self.steps if m.makes_group}
        groups = {(m.group, m.members) for m in self.steps if m.group not in {"0", *made} and not m.is_message}
        return sorted(groups) if self.announces else []

    def __str__(self) -> str:
        teardown = f" | {', '.join(map(str, self.teardown))}" if self.teardown else ""
        more = (" xfail" if self.expects else "") + (" strict" if self.strict else "")
        more += f" patience {self.patience_s:g} s" if self.patience_s < 99 else ""
        return f"[{', '.join(map(str, self.call))}{teardown}]{more}{'' if self.announces else ' unannounced'}"


def faults_of(program: Program) -> tuple[Planted, ...]:
    """Returns every single fault that can be planted in this program."""
    return tuple(
        Planted(rank, fault, step)
        for rank, fault, (step, meet) in product(range(program.size), Fault, enumerate(program.steps))
        if rank in meet.members
    )

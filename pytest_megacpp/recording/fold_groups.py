"""Owns how facts about process groups are folded, into the world, where groups outlive tests, and into its running
test; must not know what collectives groups issue, or who waits.
"""

from dataclasses import replace

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.bounded import keep, newest
from pytest_megacpp.recording.groups import KEPT_GROUPS, Scoped, is_default
from pytest_megacpp.recording.views import Joining, RunView, TestView, WorldView

KEPT_SCOPE_CHARS = 40
KEPT_JOININGS = 16  # the newest


def group_begun(run: RunView, world: WorldView, time_s: float, fact: ev.GroupBegun) -> None:
    members = run.interned.members(fact.ranks, world.size)
    fact = replace(fact, ranks=members, scope=fact.scope[:KEPT_SCOPE_CHARS])
    if fact.default:
        world.begun.pop(fact.rank, None)
        world.left.get(fact.rank, set()).discard(fact.scope)
    keep(world.begun.setdefault(fact.rank, {}), fact.name, fact, KEPT_GROUPS)
    if world.test is None:
        return
    test = run.tests[world.test]
    name = announce(test, time_s, fact)
    test.groups.begin(name, fact.rank)
    if fact.member:
        view = test.ranks[fact.rank]
        call = "new_group" if fact.ranks else "init_process_group"
        named = () if view.collectives.scope else fact.ranks  # else its numbers are those of its own world
        view.joinings = newest(view.joinings, Joining(fact.name, name, named, call, time_s), KEPT_JOININGS)


def announce(test: TestView, time_s: float, fact: ev.GroupBegun) -> str:
    """Takes in who is in the group; returns its name among its members."""
    seen = test.ranks[fact.rank].collectives
    if fact.default:
        seen.enter(fact.scope, time_s)
    else:
        seen.begin(fact.name, time_s, None if fact.ranks else fact.scope)
    name = seen.named(fact.name)
    if fact.number is not None and not fact.ranks:
        test.groups.number(name, fact.rank, fact.number)
    if not (scope := fact.scope or seen.scope):
        test.groups.announce(name, fact.ranks, fact.rank, time_s, (fact.file, fact.line))
    elif fact.member:
        test.groups.join(name, fact.rank, fact.size, Scoped(fact.name, scope))
    else:
        test.groups.stay_out(name, fact.rank, Scoped(fact.name, scope))
    return name


def group_created(run: RunView, world: WorldView, time_s: float, fact: ev.GroupCreated) -> None:
    members, known = run.interned.members(fact.ranks, world.size), world.begun.get(fact.rank, {})
    begun = known.get(fact.name)
    if fact.failed:
        leave(world, fact.rank, known.pop(fact.name, None))
    elif begun is None:  # made by other means than torch's helper, or before 2026-12
        keep(world.groups, fact.name, members, KEPT_GROUPS)
    if world.test is not None:
        _created_in(run.tests[world.test], time_s, fact, members, begun)


def _created_in(
    test: TestView, time_s: float, fact: ev.GroupCreated, members: tuple[int, ...], begun: ev.GroupBegun | None
) -> None:
    view = test.ranks[fact.rank]
    joining = next((j for j in reversed(view.joinings) if j.name == fact.name), None)
    view.progress_s, view.busy_s = max(view.progress_s, time_s), max(view.busy_s, time_s)
    if joining is not None:
        if joining.failed:  # reported twice
            return
        joining.end_s, joining.failed = time_s, fact.failed
        if fact.failed:
            view.collectives.failed(fact.name, default=begun is not None and begun.default)
        else:
            test.groups.made(joining.group, fact.rank, joining.members)
    elif not view.collectives.scope:
        if begun is None and not is_default(fact.name):
            view.collectives.begin(fact.name, time_s)
        test.groups.announce(view.collectives.named(fact.name), members, fact.rank, time_s)


def leave(world: WorldView, rank: int, group: ev.GroupBegun | None) -> None:
    """Takes note of a default group that the rank had, and has no more."""
    left = world.left.setdefault(rank, set())
    if group is not None and group.default and len(left) < KEPT_GROUPS:
        left.add(group.scope)


def count_left(world: WorldView, test: TestView) -> None:
    """Where only some ranks left a default group in an earlier test, the others will do so in this one: whoever makes
    the next one has left one before. A rank of which neither is on record counts from zero.
    """
    held = {rank: {g.scope for g in groups.values() if g.default} for rank, groups in world.begun.items()}
    outlived = set().union(*held.values())
    for rank, left in world.left.items():
        left &= outlived - held.get(rank, set())
        test.ranks[rank].collectives.incarnations |= dict.fromkeys(left, 1)

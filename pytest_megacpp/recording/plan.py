"""Owns what the desk asks of a box and a box of its ranks; must not know who carries it out.

A test of the plan can be run several times: each run of it is an *attempt* with a number of its own. The first has the
test's index in the plan, later ones count on from the plan's end.
"""

import shlex
from dataclasses import dataclass, field

from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.naming import ReadTest
from pytest_megacpp.recording.vocabulary import Preset, Purpose, RunEnd, SeedMode


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """One selected lane test. `drill`: its failure is expected and doesn't count for `maxfail`. `must_run`: a gate
    wants it run, so a skip is no answer. `shards`: its file is about FSDP.
    """

    nodeid: str
    ranks: int
    preset: Preset
    limits: Limits
    fresh: bool = False
    drill: bool = False
    must_run: bool = False
    cache_seed: SeedMode = SeedMode.AUTO
    shards: bool = False


MAX_TESTS = 100_000
"""Of one run, so that no recording makes a desk remember more: judged, these take 110 MB."""

RELAXED_HEARTBEAT_S = 7200
"""How long NCCL's watchdog may give no sign of life while ranks may still compile."""


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """Where compile caches come from and go to. `stores` are directories, first the one that is published to (empty:
    nothing is kept), then those that an image brought along. `ranks` and `preset` are the lane's, whatever the selected
    tests ask for; `image` names the box's image, `project` whose seeds these are. A seed of fewer than `min_bytes` is
    too small; a store keeps `keep` of a shape, and `max_bytes` altogether.
    """

    mode: SeedMode = SeedMode.AUTO
    stores: tuple[str, ...] = ("",)
    ranks: int = 0
    preset: Preset = Preset.FULL
    image: str = ""
    min_bytes: int = 0
    keep: int = 5
    max_bytes: int = 20 << 30
    project: str = ""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A named directory that ranks read; paths are the box's. The box copies it from `source` (a bucket's mount or a
    directory; empty: it is in `target` already), which the user calls `origin`. `include` (empty: all) and `exclude`
    are regular expressions, matched from the start of a path below the source. Without a `target` it isn't to be had on
    this box, and `absent` says why.
    """

    name: str
    target: str
    source: str = ""
    origin: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    absent: str = ""

    @property
    def variable(self) -> str:
        """The variable in which ranks, and what they start, find its path."""
        return f"MEGACPP_DATA_{self.name.upper()}"


@dataclass(frozen=True, slots=True)
class Debugger:
    """A rank that has a terminal for debuggers: the path of the device, and of the file in which the desk writes the
    number of the turn for which it has left it. `on_failure`: one opens where a test fails.
    """

    rank: int
    terminal: str
    handed_over: str
    on_failure: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a box needs to run without the desk. Times in seconds; paths are the box's. `revision` is the commit
    of the source, with a `+` where the tree differs.

    `run_s` and `budget_s` end the run, 0 is no end: the one is a limit, the other what money buys.
    `triage`: the desk may want further attempts at tests, and says of each when it has enough.
    `args` are the user's own pytest arguments, `cwd` where they were typed. `environment` is set before the
    contract (the user's own values win there). `preload` are modules the forkserver imports once for all.
    `memory_bytes` is what was ordered of a machine that others share; None: whatever the machine and its groups allow.
    `read` are all lane tests of files that the desk can't import and could only read, where some of them are planned:
    the box names the real ones before it does anything else (`SourceRead`).
    `hash_seed` is that of the first interpreter that ranks are forked from; None: drawn.
    `root` and `ini` (empty: none) are pytest's root directory and configuration file as the desk found them, seen from
    `cwd`. `path` are entries of the desk's `sys.path` that the box has too; they come first there. `coverage`: ranks
    are measured as pytest-cov's arguments say.
    """

    run_id: str
    lane: str
    surface: str
    gpu: str
    devices: int
    ranks: int
    dry_run: bool
    fsdp: bool
    tests: tuple[PlannedTest, ...]
    args: tuple[str, ...]
    cwd: str
    seed: SeedPlan = SeedPlan()
    run_s: float = 0.0
    maxfail: int = 0
    preload: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    root: str = "."
    ini: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    budget_s: float = 0.0
    revision: str = ""
    triage: bool = False
    data: tuple[DataSet, ...] = ()
    memory_bytes: int | None = None
    hash_seed: int | None = None
    read: tuple[ReadTest, ...] = ()
    coverage: bool = False
    debugger: Debugger | None = None


def warming_command(plan: Plan) -> str:
    """The user's own command, with a warm-up first."""
    words, skip = [], False
    for word in plan.args:
        if skip or word == "--cache-seed":
            skip = word == "--cache-seed" and not skip
        elif not word.startswith("--cache-seed="):
            words.append(word)
    at = words.index("--") if "--" in words else len(words)
    return "pytest " + shlex.join([*words[:at], "--cache-seed", SeedMode.AUTO.value, *words[at:]])


@dataclass(frozen=True, slots=True)
class Go:
    """Box to rank: run attempt `test`, of test `item` of the plan; `next_item` (same world) is what its teardown
    prepares for, None at the end. `preset` and `limits` are the attempt's.

    `store_port` is where this test's TCPStore listens; `keep_group`: the process group of the test before stays.
    `detail`: torch compares collectives itself. `cold`: the compile cache is an empty one. `epoch_s`: the wall clock's
    time at box time zero, by which torch's stamps are read in this test; None keeps the one before.
    """

    test: int
    item: int
    next_item: int | None
    store_port: int
    keep_group: bool
    preset: Preset
    limits: Limits
    detail: bool = False
    cold: bool = False
    epoch_s: float | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Desk to box: one more attempt at test `item` of the plan; `after` is the attempt that it follows from, the newest
    one so far.
    """

    item: int
    purpose: Purpose
    after: int


@dataclass(frozen=True, slots=True)
class Enough:
    """Desk to box: test `item` of the plan needs no further attempt."""

    item: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Box to rank: tear down what is left and exit."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Desk to box: end now, in order. `by_command`: because `megacpp stop` asked for it. `why`: what the desk was
    interrupted by, in words.
    """

    reason: RunEnd
    by_command: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Desk to box: record the stacks of all living ranks now. `asker` is any text by which who asks finds the answer
    (`events.StacksAsked`).
    """

    asker: str = ""

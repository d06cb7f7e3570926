"""Owns the facts a run consists of, one frozen dataclass per kind; must not know how they are written or judged.

Times are seconds on the box's monotonic clock since the run began. `rank` fields are global ranks of the
event's world. A fact says what was seen, never what it means: meaning is the judge's.

All kinds are in one module, because everybody reads them by one name (`ev.Sampled`) and the unions at the end close the
set. A new kind goes to the section of what it is about.
"""

from dataclasses import dataclass, field, fields
from typing import TypeAlias

from pytest_megacpp.recording.codec import recorded_as
from pytest_megacpp.recording.numbers import NO_NUMBERS, Numbers
from pytest_megacpp.recording.vocabulary import (
    ActReason,
    FaultKind,
    FlightOrigin,
    ForwardOrigin,
    Lost,
    MemoryLimit,
    Preset,
    ProblemCode,
    Purpose,
    ReportOutcome,
    RunEnd,
    SeedMode,
    SeedState,
    SettingOrigin,
    SettingPhase,
    StackMethod,
    Stage,
    Stream,
    TestEnd,
    TestPhase,
    WarmUp,
    WorldReason,
)

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


# -- the run, as the box reports it ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The box read the plan. `started_at` is UTC, ISO 8601; `cwd` is where the tests run, `revision` as in the plan.
    `read`: the desk read some of its `tests` from their source, and `SourceRead` says which tests there are.
    `limit_s` ends the run (0: no limit); it may be less than the desk's, where the machine is rented for less.
    """

    run_id: str
    started_at: str
    lane: str
    surface: str
    dry_run: bool
    ranks: int
    tests: int
    cwd: str = ""
    revision: str = ""
    limit_s: float = 0.0
    read: bool = False


@dataclass(frozen=True, slots=True)
class SourceRead:
    """What the box has of the tests that the desk could only read from their source: `tests` is how many the run has
    now, `read` of the desk's stand for `cases` of them. Of `read`, the user's options select nothing here of those with
    numbers in `left_out` (of the desk's plan), and `missing` are not here: they stay planned as they were read.

    `differing` cases have other marks than the desk could read, and of `more` tests it knew nothing: neither are run.
    The names are the first ones of `differing_count` and `more_count`. `problem`: why the box could not find out.
    """

    tests: int
    read: int
    cases: int
    left_out: Numbers = NO_NUMBERS
    missing: int = 0
    differing: tuple[str, ...] = ()
    differing_count: int = 0
    more: tuple[str, ...] = ()
    more_count: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TestPlanned:
    """One selected test, written for all of them before anything starts. `must_run`: a gate takes no skip for it.
    `read_as`: which test of the desk's plan it is, where that was read from source; the tests of such a run are named
    after `SourceRead`.

    A further attempt at test `of` is planned when the run finds that it is needed, before the attempt ends from which
    it follows; `purpose` is what it is for.
    """

    __test__ = False

    test: int
    nodeid: str
    ranks: int
    must_run: bool = False
    of: int | None = None
    purpose: Purpose = Purpose.FIRST
    preset: Preset = Preset.FULL
    read_as: int | None = None


@dataclass(frozen=True, slots=True)
class BoxReady:
    """What the box is: versions by name, facts (cpus, memory_bytes, shm_bytes …), devices by name."""

    versions: dict[str, str]
    facts: dict[str, Json]
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedShort:
    """What a seed lacks for one test: ranks, some of the graph keys (of all, where none is named)."""

    test: int
    ranks: tuple[int, ...]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedChecked:
    """The compile cache that the run begins with. `mode` is what was asked; `state` is that of the seed `id` (of the
    run `made_by`) for launches of the shape `key`. `covered` of `wanted` (test, rank) pairs find what they need;
    `detail` says why it isn't all. Bytes are those of the cache, unpacked.
    """

    mode: SeedMode
    state: SeedState
    key: str
    id: str
    made_by: str
    covered: int
    wanted: int
    cache_bytes: int
    missing: tuple[SeedShort, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SeedKept:
    """The compile cache that the run ends with, against the same tests. `id` is the seed that was published, empty
    where none was, `promoted` whether launches use it from now on, `detail` why not. `helped` is false when a seed was
    there and a rank compiled all the same; `missed` are the pairs that it didn't serve.
    """

    state: SeedState
    id: str
    promoted: bool
    covered: int
    wanted: int
    cache_bytes: int
    helped: bool | None = None
    missed: tuple[SeedShort, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentSet:
    """One contract variable as every rank gets it; `value` None means it was removed. `phase` None: the recording is
    from before 2026-12.
    """

    name: str
    value: str | None
    origin: SettingOrigin
    reason: str
    phase: SettingPhase | None = None


@dataclass(frozen=True, slots=True)
class Capability:
    """A source of evidence is there or isn't; a missing one lowers certainty."""

    name: str
    available: bool
    detail: str = ""
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A visible phase of the surface or the box (image, upload, preload …)."""

    phase: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ProblemFound:
    """The run can't go on; `code` is the verdict code that every remaining test gets."""

    code: ProblemCode
    cause: str
    detail: str
    remedy: str = field(default="", metadata=recorded_as("mend"))


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last fact of every orderly end."""

    reason: RunEnd
    detail: str = ""


# -- a world and its ranks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorldStarted:
    size: int
    reason: WorldReason


@dataclass(frozen=True, slots=True)
class WorldEnded:
    """`graceful`: its ranks were asked to leave, before any signal."""

    reason: str
    graceful: bool = False


@dataclass(frozen=True, slots=True)
class RankStarted:
    """`hash_seed`: by which it hashes strings, as `PYTHONHASHSEED` has it; empty where nobody knows."""

    rank: int
    pid: int
    hash_seed: str = ""


@dataclass(frozen=True, slots=True)
class RankReady:
    """The rank's agent answered; `main_thread` is the hex identity that stack dumps name. `frames_native_calls`:
    torch's blocking native calls have a frame on its stacks (`rank.native_calls`).
    """

    rank: int
    pid: int
    main_thread: str
    frames_native_calls: bool = False


@dataclass(frozen=True, slots=True)
class DeviceUsed:
    """The GPU of a rank, reported when it makes its first NCCL group; `index` counts the devices that the rank sees."""

    rank: int
    index: int
    name: str
    uuid: str


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """A GPU's driver reported it. `code`, of an Xid: that of NVIDIA's catalogue; of ECC: 1 corrected, 2 not.

    `device` is its place among the lane's GPUs, `rank` the rank whose process it names; None where the driver doesn't
    say.
    """

    error: FaultKind
    code: int
    device: int | None
    uuid: str
    rank: int | None
    text: str


@dataclass(frozen=True, slots=True)
class CollectError:
    nodeid: str
    text: str


@dataclass(frozen=True, slots=True)
class RankCollected:
    """What a rank collected: tests of the plan that it found, those that ask for the lane's fixture, and a digest
    over the found node ids. `errors`, and `skipped` files with the reason, are first those that took planned tests
    along; of too many errors the last one says so. `unplanned` are lane tests that only this rank has, as far as they
    are other parameters of a planned one that it lacks.
    """

    rank: int
    found: Numbers
    digest: str
    errors: tuple[CollectError, ...] = ()
    with_lane: Numbers = NO_NUMBERS
    skipped: tuple[CollectError, ...] = ()
    unplanned: tuple[str, ...] = ()

    def skip_of(self, nodeid: str) -> CollectError | None:
        """The skip that took this test along: of its file or of a directory above."""
        return next((e for e in self.skipped if nodeid.startswith(e.nodeid)), None)


@dataclass(frozen=True, slots=True)
class RankBroken:
    """A rank can't run tests; `stage` is what it was doing."""

    rank: int
    stage: Stage
    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class RankExited:
    """A rank's process ended. `code` None: not learnt. `oom_killed` None: this box can't tell.

    `expected` is true when the box itself ended the rank or asked it to leave; `signalled`, if it had sent a signal by
    then (None: unknown, as before 2026-12). `alive_s` is when it was last seen alive: it ended between then and the
    time of this fact, which a busy box writes late.
    """

    rank: int
    code: int | None
    signal: str | None = None
    oom_killed: bool | None = None
    expected: bool = False
    alive_s: float | None = None
    signalled: bool | None = None


# -- a test, as the box runs it --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; names as users write them (docs/configuration.md)."""

    startup: float = 300.0
    skew: float = 120.0
    compile: float = 1800.0
    stall: float = 120.0
    test: float = 900.0


LIMIT_NAMES = (*(limit.name for limit in fields(Limits)), "run")
"""Those of a test, and that of a run."""


@dataclass(frozen=True, slots=True)
class TestStarted:
    """All ranks were released into a test, under these limits. `warmup` says whether this is a warm-up, or why it needs
    none.
    """

    __test__ = False

    test: int
    nodeid: str
    ranks: int
    limits: Limits
    preset: Preset = Preset.FULL
    warmup: WarmUp | None = None


@dataclass(frozen=True, slots=True)
class Acted:
    """The box ended a test before its ranks did, and why.

    `waiting`/`missing` are ranks as the box saw them then; `waited_s` is how long, `compiling` which of the
    missing were compiling.
    """

    test: int | None
    why: ActReason
    detail: str = ""
    waiting: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    compiling: tuple[int, ...] = ()
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TestEnded:
    """`detail` of a test that the box ended: why it acted or stopped; of one that never began: a word of `NotRun`."""

    __test__ = False

    test: int
    reason: TestEnd
    detail: str = ""


# -- a test, as a rank reports it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    rank: int
    test: int
    name: str


@dataclass(frozen=True, slots=True)
class PhaseEnded:
    rank: int
    test: int
    name: str


@dataclass(frozen=True, slots=True)
class Cause:
    """An exception that another was raised from (`explicit`: `raise … from`), or that was being handled then.
    `raised_in`: as of `Error`.
    """

    type: str
    message: str
    raised_in: str
    explicit: bool


@dataclass(frozen=True, slots=True)
class Error:
    """An exception as the rank raised it; `file`/`line` is the innermost frame of the user's code. `raised_in` is the
    file of the innermost frame, whosever it is. `causes` are the exceptions behind it, nearest first, also where `from
    None` hides them. Recordings from before 2026-12 have these as `context` (`Type: message`) and no `raised_in`.
    """

    type: str
    message: str
    file: str
    line: int
    traceback: str
    context: tuple[str, ...] = ()
    raised_in: str = ""
    causes: tuple[Cause, ...] = ()

    @property
    def chain(self) -> tuple[Cause, ...]:
        """The exceptions behind it, nearest first."""
        older = (text.partition(": ") for text in self.context)
        return self.causes or tuple(Cause(kind, message, "", False) for kind, _, message in older)


@dataclass(frozen=True, slots=True)
class Handles:
    """The exception that a rank was handling (in `except`, `finally` or an `__exit__`) when it issued a collective or
    asked a store. It hasn't been reported, and may never be. `error` None: the next call came without one.
    `propagates`: it is on its way through a `finally` or an `__exit__`, and not caught. `is_known` false: nothing more
    will be recorded in this test.
    """

    rank: int
    test: int | None
    error: Error | None
    propagates: bool = False
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Skip:
    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reported:
    """pytest's own report of one phase on one rank, sent before the next phase begins.

    `xfail`: the mark's reason when the test was expected to fail.
    """

    rank: int
    test: int
    when: TestPhase
    outcome: ReportOutcome
    duration_s: float
    error: Error | None = None
    skip: Skip | None = None
    xfail: str | None = None
    sections: tuple[tuple[str, str], ...] = ()
    properties: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ThreadRaised:
    """An exception ended a thread of the rank that isn't its main thread; the test goes on without it."""

    rank: int
    test: int | None
    thread: str
    error: Error


@dataclass(frozen=True, slots=True)
class Debugged:
    """A debugger of the rank began or ended to talk to somebody, `quit` by a command that ends the session. `turn`
    counts them in this process.
    """

    rank: int
    test: int | None
    turn: int
    is_open: bool
    quit: bool = False


@dataclass(frozen=True, slots=True)
class Warned:
    """A Python warning that pytest recorded in a rank, each different one once per test; `test` None: before any test.
    `category` is its class (`module.Name`); `file` and `line` are where it was raised, `source` is that line's text.
    """

    rank: int
    test: int | None
    category: str
    message: str
    file: str
    line: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The rank is through with a test. `group_clean`: the plugin's process group may serve the next test.
    `group_foreign`: a group that a fixture of the user's keeps still hangs on this test's store. `entered` and
    `completed` count this test's collectives; `digests` holds one per group over all of them (see `issued`), equal on
    all its members unless they issued different ones. `missed`: collectives that left the recorder before they could be
    taken in, so that nothing is known of them; 1 or more where it is unknown what a rank could not take in. Where no
    recorder is on, all that Python issued. `left_open`: a collective is open. `gave_up`: a call for one failed, or the
    test saw one open and asked no more, as far as Python heard. `running`: groups in which a thread that still runs
    issued some, so that their digests are of a moment that no other rank knows.
    """

    rank: int
    test: int
    group_clean: bool
    group_foreign: bool = False
    entered: int = 0
    completed: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    missed: int = 0
    left_open: bool = False
    gave_up: bool = False
    running: tuple[str, ...] = ()


# -- groups and collectives ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupBegun:
    """A rank begins to make a process group, which may wait for the other members. `ranks` are its members as this rank
    names them, empty for a world: a default group (`default`), or one beside it; of these `size` is known. `scope`
    names a world that isn't all of the launch, the same on all its members; of its other groups, `ranks` count in it.
    A `size` of 0: that name is this rank's alone, since the store knows none, and says nothing of who else comes.
    `number` is this rank's own in the group, None where it is no member. `file` and `line` are where the user's code
    asked for it. Recordings from before 2026-12 have neither.
    """

    rank: int
    test: int | None
    name: str
    ranks: tuple[int, ...]
    size: int
    member: bool
    scope: str = ""
    default: bool = False
    number: int | None = None
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class GroupCreated:
    """A process group as a member sees it; `ranks` are global, empty when not known. `failed`: it was not made."""

    rank: int
    test: int | None
    name: str
    ranks: tuple[int, ...]
    backend: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Collective:
    """One flight-recorder entry. `seq` counts per group. Sizes in elements; `entered_s` on the box's clock.

    `pg` tells apart groups of one process that bear the same name one after another. `started`: the device is known
    to have begun it, which only the recorder of the legacy NCCL backend can tell, with timing. A message (`p2p`) is
    named `nccl:send 0->1`, by ranks of its group.
    """

    group: str
    seq: int
    op: str
    numel_in: int
    numel_out: int
    dtype: str
    sizes: str
    entered_s: float
    done: bool
    p2p: bool = False
    pg: int = 0
    started: bool = False


@dataclass(frozen=True, slots=True)
class GroupStatus:
    pg: int
    enqueued: int
    completed: int


@dataclass(frozen=True, slots=True)
class FlightRecorded:
    """Collectives of one rank, as its flight recorder had them. `digests`: as in `Finished`, of the groups that go."""

    rank: int
    test: int | None
    origin: FlightOrigin
    entries: tuple[Collective, ...]
    status: tuple[GroupStatus, ...]
    digests: tuple[tuple[str, str], ...] = ()


# -- what the box sees of ranks and memory ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampled:
    """A look at one rank from outside.

    `answered`: its worker server replied. `state`: the kernel's letter for the main thread (R, S, D, T, Z).
    `compiling`: names of active compile counters. `compile_s`: seconds compiled so far. CPU seconds so far: `cpu_s` of
    the rank's process tree without threads that only carry messages, `main_cpu_s` of its main thread; `main_runs`: how
    often the kernel let that one run, which stays the same while it waits in one call. None: the kernel doesn't count
    runs, and samples CPU time in ticks; then `packets` is how many came over the loopback interface, for whichever
    rank. `output_bytes`: written to its logs. `disk_waits`: how many processes of the tree were in uninterruptible
    sleep, which is where they are while they read files.
    """

    rank: int
    test: int | None
    answered: bool
    state: str
    compiling: tuple[str, ...]
    compile_s: float
    cpu_s: float
    main_cpu_s: float = 0.0
    output_bytes: int = 0
    main_runs: int | None = 0
    packets: int | None = None
    disk_waits: int = 0


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Resident bytes of a rank's process and of those that it started; pages that they share count in each."""

    rank: int
    used_bytes: int
    growth_bytes_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryUsed:
    """What the whole box uses of the memory that it may use, written when it changed. `ranks` are those of the event's
    world, the largest first; growth is that since the look before, 0 where there was none shortly before.
    """

    total_bytes: int
    limit_bytes: int
    limit_from: MemoryLimit
    growth_bytes_s: float = 0.0
    ranks: tuple[RankMemory, ...] = ()


@dataclass(frozen=True, slots=True)
class StackTaken:
    """A stack of one rank. `text` empty and `ok` false: no answer. `line`: the source of the main thread's innermost
    frame.
    """

    rank: int
    test: int | None
    method: StackMethod
    ok: bool
    text: str
    line: str = ""


@dataclass(frozen=True, slots=True)
class StacksAsked:
    """Somebody asked for the stacks of all ranks, and the box begins to take them: from now on they are the answer.
    `askers` is what those who asked said of themselves (`plan.Look`).
    """

    askers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutputRead:
    """What a rank wrote to one stream during a test; the middle is cut when `cut_bytes` > 0."""

    rank: int
    test: int | None
    stream: Stream
    text: str
    cut_bytes: int = 0


# -- what a test says of itself, and compiling -----------------------------------------------------------------


KEPT_RECORDS = 256
"""Different keys of `Recorded` in one test on one rank; the lane refuses more."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """`lane.record(key, value)`."""

    rank: int
    test: int
    key: str
    value: Json


@dataclass(frozen=True, slots=True)
class BucketRead:
    """A rank read the source of data set `name`, not its copy: `path` first, `reads` times so far."""

    rank: int
    test: int
    name: str
    path: str
    reads: int


@dataclass(frozen=True, slots=True)
class FirstForward:
    """One first forward on one rank. `origin`: who says that it was one."""

    rank: int
    test: int
    name: str
    seconds: float
    origin: ForwardOrigin


@dataclass(frozen=True, slots=True)
class WarmupSkipped:
    """The test ran its warm-up step as an ordinary one; `reason` is a name (`user_disabled` …)."""

    rank: int
    test: int
    reason: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """Compile totals of one test on one rank. `keys` are those of the cache entries that it stored or found, by the
    cache's name in torch (`inductor`, `aot_autograd`, `autotune` …), each once, in order.
    """

    rank: int
    test: int
    seconds: float
    graphs: int
    cache_hits: int
    cache_misses: int
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigsDropped:
    """Configurations of an autotuned Triton kernel that weren't tried, with the bytes of shared memory that they need;
    `limit_bytes` is what a block may have. `kept`: they were tried all the same, because none fits.
    """

    rank: int
    test: int
    kernel: str
    dropped: tuple[str, ...]
    limit_bytes: int
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Muted:
    """A rank said more in this test than is recorded: too much, or a fact too long for a line. `lost`: what is left
    out.
    """

    rank: int
    lost: Lost
    test: int | None = None


# -- what the reader found in the bytes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """Events first..last of a source never arrived (made by the reader, not written)."""

    source: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that could not be read (made by the reader)."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact of a kind this version doesn't know, or with a word for which it has no member (`why`; made by the
    reader).
    """

    kind: str
    why: str = ""


# -- all of them -----------------------------------------------------------------------------------------------

RankFact: TypeAlias = (
    RankReady
    | DeviceUsed
    | RankCollected
    | RankBroken
    | PhaseStarted
    | PhaseEnded
    | Reported
    | ThreadRaised
    | Debugged
    | Handles
    | Warned
    | Finished
    | GroupBegun
    | GroupCreated
    | FlightRecorded
    | Recorded
    | BucketRead
    | FirstForward
    | WarmupSkipped
    | Compiled
    | ConfigsDropped
    | Capability
    | Muted
)

Fact: TypeAlias = (
    RankFact
    | RunStarted
    | SourceRead
    | TestPlanned
    | BoxReady
    | SeedChecked
    | SeedKept
    | EnvironmentSet
    | Progress
    | ProblemFound
    | RunFinished
    | WorldStarted
    | WorldEnded
    | RankStarted
    | RankExited
    | DeviceFault
    | TestStarted
    | Acted
    | TestEnded
    | Sampled
    | MemoryUsed
    | StackTaken
    | StacksAsked
    | OutputRead
    | Gap
    | Damaged
    | Unknown
)


@dataclass(frozen=True, slots=True)
class Event:
    """A fact with its stamp. `seq` counts per (world, source); `source` is "box", "desk" or "rank N"."""

    run: str
    world: str
    source: str
    seq: int
    time_s: float
    fact: Fact

"""Owns the closed sets of values that cross rooms, in events and plans and between box, ranks, judge and desk; must not
know what is done because of a value.

Recordings and plans hold the values, so none of them may change. A value without a member was written by a newer
version: the codec raises `UnknownWord`, and the event counts as one of an unknown kind (docs/decisions/0080). What
somebody else chooses stays a text: phases that users name, signals, steps of a surface, causes of its problems.
"""

from enum import StrEnum
from typing import Final

WARM_UP_PHASE: Final = "warmup"
"""The name of the phase (`PhaseStarted.name`) and of the first forward of `lane.warmup`."""


class ActReason(StrEnum):
    """Why the box ended a test, or a world, before its ranks did (`Acted.why`)."""

    EXIT = "exit"  # a rank's process ended
    FAILURE_STUCK = "failure-stuck"  # a rank failed, and every other one waits
    MISMATCH = "mismatch"  # ranks issued different collectives
    SKEW = "skew"  # others waited too long for a rank that compiles
    STALL = "stall"  # others waited too long for a rank that doesn't
    COMPILE = "compile"  # a rank compiled too long in one go
    TEST_LIMIT = "test-limit"
    STARTUP_LIMIT = "startup-limit"  # of a world: it was not ready in time
    RUN_LIMIT = "run-limit"
    STOP = "stop"  # the run was to end

    @property
    def rests_on_looks(self) -> bool:
        """Whether it rests on looks at ranks, which may be a second old: before acting on one, look again."""
        return self.is_waiting or self is ActReason.COMPILE

    @property
    def is_waiting(self) -> bool:
        """Whether ranks waited for a peer that didn't come."""
        return self in (ActReason.FAILURE_STUCK, ActReason.STALL, ActReason.SKEW)

    @property
    def acts_on_trouble(self) -> bool:
        """Whether a rank's own failure made the box act, so that reports of other ranks about it may still arrive."""
        return self in (ActReason.EXIT, ActReason.FAILURE_STUCK, ActReason.MISMATCH)

    @property
    def is_limit(self) -> bool:
        """Whether a limit of the test or of the run passed, whatever its ranks were doing."""
        return self in (ActReason.TEST_LIMIT, ActReason.RUN_LIMIT)

    @property
    def is_interruption(self) -> bool:
        """Whether the box would have ended the test however well its ranks were."""
        return self.is_limit or self is ActReason.STOP


class TestEnd(StrEnum):
    """How a test ended (`TestEnded.reason`)."""

    __test__ = False

    FINISHED = "finished"  # all ranks reported
    ABORTED = "aborted"  # the box acted
    NOT_RUN = "not-run"  # its world never got to it


class NotRun(StrEnum):
    """Why a test or a further attempt at one never began (`TestEnded.detail`)."""

    BROKEN = "broken"  # a rank of its world can't run tests
    EXIT = "exit"  # a rank of its world ended
    STARTUP_LIMIT = "startup-limit"
    COLLECTION = "collection"  # a rank didn't collect it
    SKIPPED = "skipped"  # all ranks skipped its file
    UNSAFE_NCCL = "unsafe-nccl"
    UNSAFE_FSDP = "unsafe-fsdp"
    UNAFFORDABLE = "unaffordable"


class RunEnd(StrEnum):
    """How a run ended (`RunFinished.reason`), or why it is to end (`Stop.reason`)."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # by the user's maxfail
    INTERRUPTED = "interrupted"
    REFUSED = "refused"  # by the box or the desk, since something is in its way
    BROKEN = "broken"  # the box failed
    BUDGET = "budget"
    RUN_LIMIT = "run-limit"


class Purpose(StrEnum):
    """What an attempt at a test is for."""

    FIRST = ""  # the first one: `TestStarted.warmup` says whether it is measured or a warm-up
    MEASURED = "measured"  # to be judged
    WARM_UP = "warm-up"  # to fill the compile cache under limits of its own
    DIAGNOSTIC = "diagnostic"  # to tell the machine from the model: with the preset of this name
    DETAIL = "detail"  # to let torch compare collectives itself

    @property
    def counts(self) -> bool:
        """Whether such an attempt says if a test fails, not only why."""
        return self in (Purpose.MEASURED, Purpose.WARM_UP)


class Preset(StrEnum):
    """Which size the suites build."""

    FULL = "full"
    DIAGNOSTIC = "diagnostic"


class SeedMode(StrEnum):
    """What is asked of a compile cache."""

    AUTO = "auto"  # warm up what it lacks
    REQUIRE = "require"  # refuse to run what it lacks
    COLD = "cold"  # begin without
    REFRESH = "refresh"  # warm up again
    AS_IT_IS = ""  # use what there is, without a warm-up

    @property
    def warms_up(self) -> bool:
        """Whether a test that lacks something runs once to fill the cache."""
        return self in (SeedMode.AUTO, SeedMode.REFRESH)


class SeedState(StrEnum):
    """Of a launch: no seed at all, only of other shapes, one that lacks something, one that has all that is known."""

    ABSENT = "absent"
    FOREIGN = "foreign"
    PARTIAL = "partial"
    WARM = "warm"


class WarmUp(StrEnum):
    """Whether a test's first attempt is a warm-up, and why not (`TestStarted.warmup`)."""

    RUNS = "explicit_warmup_allowed"
    SEED_WARM = "seed_warm"  # there is no need for one
    USER_DISABLED = "user_disabled"
    NON_CUDA_LANE = "non_cuda_lane"
    DRILL = "drill"  # fails on purpose


class ProblemCode(StrEnum):
    """What a problem of a run comes to (`ProblemFound.code`): the verdict codes that every remaining test can get."""

    ENVIRONMENT = "environment"
    BLOCKED = "blocked"
    BOX_LOST = "box-lost"
    NOT_RUN = "not-run"
    STARTUP_FAILURE = "startup-failure"


class ProblemCause(StrEnum):
    """Causes of problems by which other rooms than the finder's decide something. Finders have many more of their own,
    so `ProblemFound.cause` is a text.
    """

    SEED = "seed"  # the launch requires a warmer one
    KILLED = "killed"  # the box, by SIGKILL
    CUT_OFF = "cut-off"  # the recording has no end, and nobody says why
    CONNECTION = "connection"


class EvidenceSource(StrEnum):
    """Sources of evidence (`Capability.name`) without which a verdict may be less certain. There are many more, whose
    lack makes nobody doubt, so the name is a text.
    """

    WORKER_SERVER = "worker_server"
    FLIGHT_RECORDER = "flight_recorder"
    GROUP_MEMBERS = "group_members"
    WAIT_COUNTERS = "wait_counters"
    TRACEBACK = "traceback"
    THREAD_RUNS = "thread_runs"
    EXIT_CODE = "exit_code"
    MEMORY_EVENTS = "memory_events"
    KERNEL_LOG = "kernel_log"
    PY_SPY = "py-spy"


class BoxStep(StrEnum):
    """What a box does before, between and after tests that users may wait for (`Progress.phase`). Surfaces have steps
    of their own, so the phase is a text.
    """

    SIGNALS = "signals"
    SEED = "seed"
    PRELOAD = "preload"
    DATA = "data"
    COLLECTION = "collection"


class TestPhase(StrEnum):
    """The phases in which pytest runs a test, in order."""

    __test__ = False

    SETUP = "setup"
    CALL = "call"
    TEARDOWN = "teardown"

    @property
    def next(self) -> "TestPhase":
        """The phase after it; teardown is the last."""
        return TestPhase.CALL if self is TestPhase.SETUP else TestPhase.TEARDOWN


class ReportOutcome(StrEnum):
    """pytest's own words for a phase of a test (`Reported.outcome`)."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    OTHER = "other"  # the word of some plugin, which says nothing of the test


class Stage(StrEnum):
    """What a rank that can't run tests was doing (`RankBroken.stage`)."""

    IMPORT = "import"
    CONFTEST = "conftest"
    PLUGIN = "plugin"
    COLLECTION = "collection"
    USAGE = "usage"
    RENDEZVOUS = "rendezvous"


class FlightOrigin(StrEnum):
    """Why somebody looked at a flight recorder (`FlightRecorded.origin`)."""

    POLL = "poll"  # from time to time; changes only
    EVIDENCE = "evidence"  # the box acted
    FAILURE = "failure"
    FINISH = "finish"
    OWN = "own"  # the rank looks at a recorder that the box sees in part only
    DESTROY = "destroy"  # before the default process group goes, and names and numbers start again


class ForwardOrigin(StrEnum):
    """Who called a module's call its first forward (`FirstForward.origin`)."""

    TEST = "test"
    WARM_UP = "warmup"
    AUTOMATIC = "automatic"


class SettingOrigin(StrEnum):
    """Who decided a variable of the environment contract (`EnvironmentSet.origin`)."""

    PLUGIN = "plugin"
    USER = "user"
    REFUSED = "refused"


class SettingPhase(StrEnum):
    """What a variable must be set before. What nothing known reads is set before everything."""

    IMPORT = "import"  # of torch or triton
    GROUP = "group"  # the first process group is made
    COMPILE = "compile"  # torch's compiler is loaded, by the first compile at the latest


class FaultKind(StrEnum):
    """What a GPU's driver reported (`DeviceFault.error`)."""

    XID = "xid"
    ECC = "ecc"


class MemoryLimit(StrEnum):
    """What limits a box's memory (`MemoryUsed.limit_from`)."""

    ORDERED = "ordered"
    CGROUP = "cgroup"
    MACHINE = "machine"


class StackMethod(StrEnum):
    """How a stack was taken (`StackTaken.method`)."""

    TRACEBACK = "traceback"  # torch's worker server
    PY_SPY = "py-spy"
    FAULTHANDLER = "faulthandler"


class Stream(StrEnum):
    """Where a process writes (`OutputRead.stream`)."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Lost(StrEnum):
    """What is left out of what a rank says (`Muted.lost`)."""

    EXTRAS = "extras"  # records, phases, groups, looks of its own
    REPORTS = "reports"  # pytest's reports as well


class WorldReason(StrEnum):
    """Why a world was started (`WorldStarted.reason`)."""

    FIRST = "first"
    NEXT = "next"

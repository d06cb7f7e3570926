"""Owns what to do after a verdict, with the exact command; must not know evidence.

The order of diagnosis is: the last useful line of each rank, the receipt, the one real traceback, the seed, a rerun
after a proper warm-up, and finally the diagnostic preset (if that hangs too, suspect the infrastructure).
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.compiles import ALONE
from pytest_megacpp.judge.devices import BROKEN
from pytest_megacpp.judge.findings import Finding
from pytest_megacpp.judge.handling import HANDLED
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.views import TestView
from pytest_megacpp.recording.vocabulary import Preset, ProblemCause, Purpose, SeedMode, Stage, WarmUp

_BLOCK = 'set CUDA_LAUNCH_BLOCKING = "1" in [tool.pytest_megacpp.environment]'  # which every surface's ranks get
_SURFACE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")  # a recording may hold anything in its place


@dataclass(frozen=True, slots=True)
class Commands:
    """The command lines that fit one test of one run."""

    run_id: str
    lane: str
    nodeid: str
    surface: str
    dry_run: bool
    ranks: int
    limits: Limits
    preset: Preset = Preset.FULL
    was_escalated: bool = False  # the order of diagnosis was followed
    warm: bool = False  # it ran from a cache that has its graphs
    hash_seed: str = ""  # of rank 0, where ranks differed in theirs

    def rerun(self, *options: str) -> str:
        """Returns the command that runs only this test, on the same surface and size."""
        words = ["pytest", "-m", self.lane, *self._launch(), *options, self.nodeid]
        return " ".join(shlex.quote(w) for w in words)

    def with_the_same_hashes(self) -> str:
        """Returns a rerun in which sets iterate in the same order, as far as the hash seed is known."""
        return self.rerun(*(["--hash-seed", self.hash_seed] if self.hash_seed else []))

    def _launch(self) -> list[str]:
        surface = ["--surface", self.surface] if _SURFACE_NAME.fullmatch(self.surface) else []
        dry = ["--dry-run"] if self.dry_run else []
        other_size = bool(self.ranks) and not self.lane.endswith(f"x{self.ranks}")
        return [*surface, *dry, *(["--ranks", str(self.ranks)] if other_size else [])]

    def show(self) -> str:
        return f"megacpp show {shlex.quote(self.run_id)}" if self.run_id else "megacpp show"

    def with_double(self, limit: str) -> str:
        """Returns a rerun with twice the limit."""
        return self.rerun("--lane-limit", f"{limit}={2 * getattr(self.limits, limit):g}")


def commands(timeline: Timeline, nodeid: str, index: int, *, was_escalated: bool = False) -> Commands:
    started, test, planned = timeline.started, timeline.tests.get(index), timeline.planned.get(index)
    limits = test.limits if test else Limits()
    return Commands(
        timeline.run_id,
        started.lane if started else "LANE",
        nodeid,
        started.surface if started else "",
        bool(started and started.dry_run),
        test.size if test else planned.ranks if planned else 0,
        limits,
        test.preset if test else Preset.FULL,
        was_escalated,
        _was_warm(timeline, index),
        _hash_seed(timeline, test),
    )


def _hash_seed(timeline: Timeline, test: TestView | None) -> str:
    world = timeline.worlds.get(test.world) if test is not None else None
    seeds = world.hash_seeds if world is not None else {}
    return seeds.get(0, "") if len(set(seeds.values())) > 1 else ""


def _was_warm(timeline: Timeline, index: int) -> bool:
    """Returns whether the cache was warm, by what the box saw of the seed or by a warm-up before this attempt."""
    test, planned = timeline.tests.get(index), timeline.planned.get(index)
    if planned is None or planned.of is None:
        return test is not None and test.warmup is WarmUp.SEED_WARM
    before = [number for number in timeline.attempts(planned.of) if number < index]
    views = (timeline.tests.get(number) for number in before)
    plans = (timeline.planned.get(number) for number in before)
    warmed = any(v is not None and v.warmup is WarmUp.RUNS for v in views)
    return warmed or any(p is not None and p.purpose is Purpose.WARM_UP for p in plans)


def usual_step(code: Code) -> str:
    """Returns what to do about a verdict whose cause requires nothing else.

    Fields: {who}, {show}, {rerun}, {warm}, {diagnostic}, {cold}, {same_hashes}, {triage}, {raise_LIMIT} (a rerun with
    that limit doubled).
    """
    match code:
        case Code.PASSED | Code.SKIPPED | Code.XFAILED:
            return ""
        case Code.XPASSED:
            return "remove the xfail mark, or find out why the test passes\n{rerun}"
        case Code.TEST_FAILED:
            return "read the traceback of {who}, then rerun\n{rerun}"
        case Code.RANK_DEATH:
            return "read the last output of {who}; the errors of other ranks are consequences\n{show}\n{rerun}"
        case Code.COMPILE_SKEW:
            return (
                "warm the cache on all ranks together, then rerun; if it skews again, try the diagnostic preset\n"
                "{warm}\n{diagnostic}"
            )
        case Code.COMPILE_STALL:
            return "find out which graph {who} compiled; if that is only slow, raise the limit\n{show}\n{raise_compile}"
        case Code.COLLECTIVE_MISMATCH:
            return (
                "make every rank issue the same collectives in the same order: look for branches on the rank and for"
                " loops over sets, whose order differs between processes\n{show}\n{same_hashes}"
            )
        case Code.STRAGGLER:
            return "find out what delayed {who}; if it is only slow, raise the limit\n{show}\n{raise_stall}"
        case Code.HANG:
            return (
                "find out what each rank waits for; if the diagnostic preset hangs too, suspect the infrastructure\n"
                "{show}\n{diagnostic}"
            )
        case Code.OVERTIME:
            return "raise the limit, or make the test smaller\n{raise_test}\n{diagnostic}"
        case Code.UNCLEAR:
            return (
                "read the last output of each rank; if the diagnostic preset stops too, suspect the infrastructure\n"
                "{show}\n{diagnostic}"
            )
        case Code.STARTUP_FAILURE:
            return "read the output of {who} from before the test began\n{show}\n{rerun}"
        case Code.ENVIRONMENT:
            return "fix the box, then rerun; megacpp doctor shows what is wrong with it\n{rerun}"
        case Code.BOX_LOST:
            return "the box was lost, which says nothing about the test: rerun\n{rerun}"
        case Code.BLOCKED:
            return "fix what the message names, then rerun\n{rerun}"
        case Code.NOT_RUN:
            return "rerun this test\n{rerun}"
        case _:
            assert_never(code)


# What to do about a code with this cause, instead of the code's usual step; the fields are the same.
STEPS: Mapping[tuple[Code, str], str] = {
    (Code.TEST_FAILED, VerdictCause.CUDA_OOM): "the GPU's memory is full: try the smaller preset\n{diagnostic}",
    (Code.TEST_FAILED, VerdictCause.SKIPPED_ON_SOME_RANKS): (
        "make the skip condition the same on every rank, then rerun\n{rerun}"
    ),
    (Code.TEST_FAILED, VerdictCause.XPASSED_STRICT): "remove the strict xfail mark: the test passes now\n{rerun}",
    (
        Code.RANK_DEATH,
        VerdictCause.EXCEPTION,
    ): "read the traceback of {who}; the errors of other ranks are consequences\n{rerun}",
    (Code.RANK_DEATH, VerdictCause.OOM_KILLED): (
        "the host's memory was full (caches, pinned memory, DataLoader workers): try the smaller preset\n{diagnostic}"
    ),
    (
        Code.RANK_DEATH,
        VerdictCause.CUDA_OOM,
    ): "the GPU memory of {who} is full: try the smaller preset\n{diagnostic}",
    (Code.RANK_DEATH, VerdictCause.CUDA_ERROR): (
        f"a kernel of {{who}} failed: {_BLOCK} and rerun to find out which one\n{{rerun}}"
    ),
    (Code.RANK_DEATH, VerdictCause.EXIT_0): (
        "find out what makes {who} exit with code 0: os._exit, pytest.exit, an exit in a library\n{show}\n{rerun}"
    ),
    (Code.COMPILE_SKEW, VerdictCause.NO_PROGRESS): (
        "the compiler of {who} makes no progress (a dead worker process, a lock): look at its stack, then rerun with a"
        " cold cache\n{show}\n{cold}"
    ),
    (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS): (
        "call new_group on every rank, members or not, equally often, in the same order and with the same ranks:"
        " compare the lines named above\n{show}\n{rerun}"
    ),
    (Code.STRAGGLER, VerdictCause.LEFT_EARLY): (
        "find the branch that lets {who} return without the collectives that the others wait in\n{show}\n{rerun}"
    ),
    (Code.STRAGGLER, VerdictCause.FROZEN): (
        "something stopped {who} (SIGSTOP, a debugger, a frozen container): rerun\n{rerun}"
    ),
    (Code.STRAGGLER, VerdictCause.GIL_HELD): "release the GIL in the native code that {who} called\n{show}\n{rerun}",
    (Code.STRAGGLER, VerdictCause.DEVICE_BUSY): (
        f"find the kernel that {{who}} launched before that: {_BLOCK} and rerun; if it is only slow, raise the limit\n"
        "{rerun}\n{raise_stall}"
    ),
    (Code.HANG, VerdictCause.DEVICE_BUSY): (
        f"find the kernel that {{who}} launched before the collective: {_BLOCK} and rerun; if it is only slow, raise "
        "the limit\n{rerun}\n{raise_test}"
    ),
    (Code.OVERTIME, VerdictCause.RUN_LIMIT): "raise the run limit, or select fewer tests\n{rerun}",
    (
        Code.STARTUP_FAILURE,
        Stage.IMPORT,
    ): "fix the error that the test file raises when {who} imports it\n{show}\n{rerun}",
    (Code.STARTUP_FAILURE, Stage.RENDEZVOUS): (
        "make every rank join once, with its own rank number and the same address and world size; see what"
        " {who} did instead\n{show}\n{rerun}"
    ),
    (Code.STARTUP_FAILURE, Stage.COLLECTION): (
        "make collection the same on every rank: no branches on RANK, no parameters that differ between processes (sort"
        " what comes from a set)\n{show}\n{rerun}"
    ),
    (Code.STARTUP_FAILURE, VerdictCause.STARTUP_LIMIT): (
        "see how far {who} got; if imports are only slow, raise the limit\n{show}\n{raise_startup}"
    ),
    **{
        (
            Code.ENVIRONMENT,
            cause,
        ): "a GPU of this box is broken: take the box out of service and rerun on another\n{rerun}"
        for cause in (VerdictCause.ECC, *(f"xid:{code}" for code in BROKEN))
    },
    (Code.ENVIRONMENT, VerdictCause.NVLS): (
        "run without NVLink SHARP: NCCL_NVLS_ENABLE=0, the default of every lane; if it was 0, update NCCL and the"
        " driver, or ask the operator of the machine (Fabric Manager, NVSwitches, gVisor's nvproxy)\n"
        "{rerun}"
    ),
    (Code.BOX_LOST, VerdictCause.OOM): (
        "use less memory (caches, pinned memory, DataLoader workers; the smaller preset), or give the box more"
        " (on Modal: memory_mib in [tool.pytest_megacpp.modal])\n{diagnostic}\n{rerun}"
    ),
    (Code.BLOCKED, ProblemCause.SEED): (
        "warm up first, on all ranks together: this command warms up and then measures\n{remedy}"
    ),
    (Code.NOT_RUN, VerdictCause.SKIPPED): (
        "remove the skip, or allow it by naming the test in may_skip of its gate rule, then rerun\n{rerun}"
    ),
}

VARIANTS = {
    ALONE: (
        "find out why only {who} compiles: a branch on the rank, other shapes or settings there (TORCH_LOGS=recompiles"
        " shows its guards); call the compiled function on all ranks, or on none\n{show}\n{rerun}"
    ),
    HANDLED: (
        "fix what {who} raised; a collective in `finally` or `except` only works where every rank gets there after the"
        " same collectives\n{rerun}"
    ),
}

# For a compile skew although the cache was warm.
WARM_SKEW = (
    "the cache was warm: find out what {who} still compiled or loaded (loading torch's compiler takes seconds);"
    " raise the limit, or try the diagnostic preset\n{show}\n{raise_skew}\n{diagnostic}"
)

# For the result of several attempts.
INFRASTRUCTURE = (
    "send the lines under 'for a support ticket' to the operator of the machine, and rerun on another\n{rerun}"
)
SAME_AT_BOTH_SIZES = (
    "make the test smaller for the diagnostic preset (lane.pick); if that hangs too, send the lines under"
    " 'for a support ticket' to the operator of the machine\n{show}\n{triage}"
)
DIAGNOSTIC_PASSES = (
    "look for what only the full preset has: its size, its layers and experts, what it compiles\n{show}\n{rerun}"
)


def next_step(finding: Finding, command: Commands, remedy: str = "") -> str:
    """Returns what to do next. `remedy` is what the box itself proposed."""
    special = VARIANTS.get(finding.variant) or STEPS.get((finding.code, finding.cause or ""))
    if finding.code is Code.COMPILE_SKEW and command.warm:
        special = special or WARM_SKEW
    step = special or usual_step(finding.code)
    if remedy and "{remedy}" not in step:
        step = f"{{remedy}}\n{step.partition(chr(10))[2]}".rstrip()
    elif not remedy and special is None and finding.code.traits.triage and _may_be_triaged(finding, command):
        advice, _, rest = step.partition("\n")
        step = f"{advice} ({finding.code.traits.triage})\n{{triage}}\n{rest}"
    return fill(step, command, finding.blamed, remedy)


def _may_be_triaged(finding: Finding, command: Commands) -> bool:
    """Returns whether `--triage` would make another attempt.

    Torch compares collectives on gloo only, and no preset is smaller than the diagnostic one.
    """
    if command.was_escalated or finding.code is Code.COLLECTIVE_MISMATCH:
        return command.dry_run and not command.was_escalated
    return finding.code is Code.COMPILE_SKEW or command.preset is not Preset.DIAGNOSTIC


def fill(step: str, command: Commands, blamed: Sequence[int], remedy: str = "") -> str:
    """Returns a step with the commands and ranks of one test filled in. Its last line is a command that runs the test
    again.
    """
    diagnostic = command.rerun("--preset", Preset.DIAGNOSTIC.value)
    return step.format(
        remedy=remedy or command.rerun("--cache-seed", SeedMode.AUTO.value),
        who=ranks_named(blamed) if blamed else "the ranks",
        triage=command.rerun("--triage"),
        show=command.show(),
        rerun=command.rerun(),
        warm=command.rerun("--cache-seed", SeedMode.REFRESH.value),
        cold=command.rerun("--cache-seed", SeedMode.COLD.value),
        same_hashes=command.with_the_same_hashes(),
        diagnostic=diagnostic,
        raise_startup=command.with_double("startup"),
        raise_compile=command.with_double("compile"),
        raise_skew=command.with_double("skew"),
        raise_stall=command.with_double("stall"),
        raise_test=command.with_double("test"),
    ).rstrip()

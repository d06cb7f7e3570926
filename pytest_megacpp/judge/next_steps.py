"""Owns what to do after a verdict, with the exact command; must not know evidence.

Follows the order of diagnosis: the last useful line of each rank, the receipt, the one real traceback, the seed,
a rerun after a proper warm-up, at last the diagnostic preset (what hangs there too is infrastructure).
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
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import TestView, Timeline
from pytest_megacpp.recording.vocabulary import Preset, ProblemCause, Purpose, RunEnd, SeedMode, Stage, WarmUp

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
    climbed: bool = False  # the order of diagnosis was followed
    warm: bool = False  # it ran from a cache that has its graphs
    hash_seed: str = ""  # of rank 0, where ranks differed in theirs

    def rerun(self, *options: str) -> str:
        """The test alone, on the same surface and size."""
        words = ["pytest", "-m", self.lane, *self._launch(), *options, self.nodeid]
        return " ".join(shlex.quote(w) for w in words)

    def with_the_same_hashes(self) -> str:
        """The test alone, its sets in the order that they had; empty where that isn't known."""
        return self.rerun("--hash-seed", self.hash_seed) if self.hash_seed else ""

    def _launch(self) -> list[str]:
        surface = ["--surface", self.surface] if _SURFACE_NAME.fullmatch(self.surface) else []
        dry = ["--dry-run"] if self.dry_run else []
        other_size = bool(self.ranks) and not self.lane.endswith(f"x{self.ranks}")
        return [*surface, *dry, *(["--ranks", str(self.ranks)] if other_size else [])]

    def show(self) -> str:
        return f"megacpp show {shlex.quote(self.run_id)}" if self.run_id else "megacpp show"

    def with_double(self, limit: str) -> str:
        """The test alone, with twice the limit."""
        return self.rerun("--lane-limit", f"{limit}={2 * getattr(self.limits, limit):g}")


def commands(timeline: Timeline, nodeid: str, index: int, *, climbed: bool = False) -> Commands:
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
        climbed,
        _was_warm(timeline, index),
        _hash_seed(timeline, test),
    )


def _hash_seed(timeline: Timeline, test: TestView | None) -> str:
    world = timeline.worlds.get(test.world) if test is not None else None
    seeds = world.hash_seeds if world is not None else {}
    return seeds.get(0, "") if len(set(seeds.values())) > 1 else ""


def _was_warm(timeline: Timeline, index: int) -> bool:
    """By what the box saw of the seed, or by a warm-up before it."""
    test, planned = timeline.tests.get(index), timeline.planned.get(index)
    if planned is None or planned.of is None:
        return test is not None and test.warmup is WarmUp.SEED_WARM
    before = [number for number in timeline.attempts(planned.of) if number < index]
    views = (timeline.tests.get(number) for number in before)
    plans = (timeline.planned.get(number) for number in before)
    warmed = any(v is not None and v.warmup is WarmUp.RUNS for v in views)
    return warmed or any(p is not None and p.purpose is Purpose.WARM_UP for p in plans)


def usual_step(code: Code) -> str:
    """What to do about a verdict, where its cause asks for nothing else. Fields: {who}, {show}, {rerun}, {warm},
    {diagnostic}, {cold}, {same_hashes}, {triage}, {raise_LIMIT} (a rerun with that limit doubled).
    """
    match code:
        case Code.PASSED | Code.SKIPPED | Code.XFAILED:
            return ""
        case Code.XPASSED:
            return "remove the xfail mark, or find out why it passes"
        case Code.TEST_FAILED:
            return "read the traceback of {who}, then rerun\n{rerun}"
        case Code.RANK_DEATH:
            return "read what {who} wrote last; what others show follows from it\n{show}\n{rerun}"
        case Code.COMPILE_SKEW:
            return (
                "warm the cache on all ranks together and rerun; if it skews again, try the diagnostic preset\n"
                "{warm}\n{diagnostic}"
            )
        case Code.COMPILE_STALL:
            return "see which graph {who} compiled; if it only needs longer, raise the limit\n{show}\n{raise_compile}"
        case Code.COLLECTIVE_MISMATCH:
            return (
                "make every rank issue the same collectives in the same order: look for branches on the rank and for"
                " loops over sets, whose order differs by process\n{show}\n{same_hashes}"
            )
        case Code.STRAGGLER:
            return "see what kept {who} from coming; if that is only slow, raise the limit\n{show}\n{raise_stall}"
        case Code.HANG:
            return (
                "see what each rank waits for; if the diagnostic preset hangs too, it is the infrastructure\n"
                "{show}\n{diagnostic}"
            )
        case Code.OVERTIME:
            return "raise the limit, or make the test smaller\n{raise_test}\n{diagnostic}"
        case Code.UNCLEAR:
            return (
                "read the last line of each rank; if the diagnostic preset stops too, it is the infrastructure\n"
                "{show}\n{diagnostic}"
            )
        case Code.STARTUP_FAILURE:
            return "read what {who} wrote before the test could begin\n{show}"
        case Code.ENVIRONMENT:
            return "mend the box, then rerun: megacpp doctor says what is wrong with it\n{rerun}"
        case Code.BOX_LOST:
            return "the box is gone, not the test: rerun\n{rerun}"
        case Code.BLOCKED:
            return "mend what the refusal says, then rerun\n{rerun}"
        case Code.NOT_RUN:
            return "rerun what is missing\n{rerun}"
        case _:
            assert_never(code)


# Of a code and a cause, in place of the code's usual step; the fields are the same.
STEPS: Mapping[tuple[Code, str], str] = {
    (Code.TEST_FAILED, VerdictCause.CUDA_OOM): "the device's memory is full: try the smaller preset\n{diagnostic}",
    (Code.TEST_FAILED, VerdictCause.SKIPPED_ON_SOME_RANKS): (
        "make the condition of the skip the same on every rank, then\n{rerun}"
    ),
    (Code.TEST_FAILED, VerdictCause.XPASSED_STRICT): "remove the strict xfail mark: the test passes now",
    (Code.RANK_DEATH, VerdictCause.EXCEPTION): "read the traceback of {who}; what others show follows from it\n{rerun}",
    (Code.RANK_DEATH, VerdictCause.OOM_KILLED): (
        "the host's memory was full (caches, pinned memory, DataLoader workers): try the smaller preset\n{diagnostic}"
    ),
    (
        Code.RANK_DEATH,
        VerdictCause.CUDA_OOM,
    ): "the device memory of {who} is full: try the smaller preset\n{diagnostic}",
    (Code.RANK_DEATH, VerdictCause.CUDA_ERROR): (
        "a kernel of {who} failed on the device: rerun with CUDA_LAUNCH_BLOCKING=1 to see which\n"
        "CUDA_LAUNCH_BLOCKING=1 {rerun}"
    ),
    (Code.RANK_DEATH, VerdictCause.EXIT_0): (
        "find what ends {who} with success: os._exit, pytest.exit, a library's own exit\n{show}"
    ),
    (Code.COMPILE_SKEW, VerdictCause.NO_PROGRESS): (
        "the compiler of {who} doesn't move (a dead child, a lock): look at its stack, then rerun from a cold cache\n"
        "{show}\n{cold}"
    ),
    (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS): (
        "call new_group on every rank, members or not, equally often, in the same order and with the same ranks:"
        " compare the lines that are named\n{show}"
    ),
    (Code.STRAGGLER, VerdictCause.LEFT_EARLY): (
        "find the branch that lets {who} return without the collectives that the others wait in\n{show}"
    ),
    (Code.STRAGGLER, VerdictCause.FROZEN): (
        "something stopped {who} (SIGSTOP, a debugger, a frozen container): rerun\n{rerun}"
    ),
    (Code.STRAGGLER, VerdictCause.GIL_HELD): "release the GIL in the native call of {who}\n{show}",
    (Code.HANG, VerdictCause.DEVICE_BUSY): (
        "find the kernel that {who} launched before the collective; if it is only long, raise the limit\n"
        "CUDA_LAUNCH_BLOCKING=1 {rerun}\n{raise_test}"
    ),
    (Code.OVERTIME, VerdictCause.RUN_LIMIT): "raise the limit of the run, or select fewer tests\n{rerun}",
    (Code.STARTUP_FAILURE, Stage.IMPORT): "mend what keeps the test file from being imported on {who}\n{show}",
    (Code.STARTUP_FAILURE, Stage.RENDEZVOUS): (
        "make every rank join once, with its own number, the same address and size: see what {who} did instead\n{show}"
    ),
    (Code.STARTUP_FAILURE, Stage.COLLECTION): (
        "make collection the same on every rank: no branches on RANK, no parameters that differ by process (sort what"
        " comes from a set)\n{show}"
    ),
    (Code.STARTUP_FAILURE, VerdictCause.STARTUP_LIMIT): (
        "see how far {who} came; if imports are only slow, raise the limit\n{show}\n{raise_startup}"
    ),
    **{
        (Code.ENVIRONMENT, cause): "a GPU of this box is broken: take the box out of use, rerun on another\n{rerun}"
        for cause in (VerdictCause.ECC, *(f"xid:{code}" for code in BROKEN))
    },
    (Code.ENVIRONMENT, VerdictCause.NVLS): (
        "run without NVLink SHARP: NCCL_NVLS_ENABLE=0, which lanes have unless you set it otherwise; if it was 0,"
        " update NCCL and the driver, or ask whoever runs the machine (Fabric Manager, NVSwitches, gVisor's nvproxy)\n"
        "{rerun}"
    ),
    (Code.BOX_LOST, VerdictCause.OOM): (
        "use less memory (caches, pinned memory, DataLoader workers; the smaller preset), or give the box more"
        " (on Modal: memory_mib in [tool.pytest_megacpp.modal])\n{diagnostic}\n{rerun}"
    ),
    (Code.BLOCKED, ProblemCause.SEED): (
        "warm it up first, all ranks together: the same command, which then measures\n{mend}"
    ),
    (Code.NOT_RUN, VerdictCause.SKIPPED): (
        "take the skip away, or allow it: name the test under may_skip of its gate rule, then\n{rerun}"
    ),
    (Code.NOT_RUN, RunEnd.STOPPED): "rerun what is left\n{rerun}",
}

VARIANTS = {
    ALONE: (
        "find out why only {who} compiles: a branch on the rank, other shapes or settings there (TORCH_LOGS=recompiles"
        " says what it guards on); let all ranks call the compiled function, or none\n{show}"
    ),
}

# Where a warm-up would change nothing.
WARM_SKEW = (
    "its cache was warm: see what {who} compiled or loaded all the same (loading torch's compiler takes seconds);"
    " raise the limit, or try the diagnostic preset\n{show}\n{raise_skew}\n{diagnostic}"
)

# What all attempts together say.
INFRASTRUCTURE = "hand the lines for a support ticket to whoever runs the machine, and rerun on another\n{rerun}"
SAME_AT_BOTH_SIZES = (
    "let the test build less for the diagnostic preset (lane.pick); if that hangs too, hand the lines for a"
    " support ticket to whoever runs the machine\n{triage}\n{show}"
)
DIAGNOSTIC_PASSES = "look for what only the full preset has: its size, its layers and experts, what it compiles\n{show}"


def next_step(finding: Finding, command: Commands, mend: str = "") -> str:
    """What to do next; `mend` is what the box itself proposed."""
    special = STEPS.get((finding.code, finding.cause)) if finding.cause else VARIANTS.get(finding.variant)
    if finding.code is Code.COMPILE_SKEW and command.warm:
        special = special or WARM_SKEW
    step = special or usual_step(finding.code)
    if mend and "{mend}" not in step:
        step = f"{{mend}}\n{step.partition(chr(10))[2]}".rstrip()
    elif not mend and special is None and finding.code.traits.triage and _may_be_triaged(finding, command):
        said, _, rest = step.partition("\n")
        step = f"{said} ({finding.code.traits.triage})\n{{triage}}\n{rest}"
    return fill(step, command, finding.blamed, mend)


def _may_be_triaged(finding: Finding, command: Commands) -> bool:
    """Torch compares collectives on gloo only, and no preset is smaller than the diagnostic one."""
    if command.climbed or finding.code is Code.COLLECTIVE_MISMATCH:
        return command.dry_run and not command.climbed
    return finding.code is Code.COMPILE_SKEW or command.preset is not Preset.DIAGNOSTIC


def fill(step: str, command: Commands, blamed: Sequence[int], mend: str = "") -> str:
    """A step with the commands and ranks of one test."""
    diagnostic = command.rerun("--preset", Preset.DIAGNOSTIC.value)
    return step.format(
        mend=mend,
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

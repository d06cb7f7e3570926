"""Owns what GPU errors mean for a test: evidence beside a rank's failure, or a broken device; must not know how they
were read.

The codes are those of NVIDIA's Xid catalogue. Most follow from what a kernel did; the table names those that only the
hardware or its firmware can cause.
"""

from collections.abc import Collection, Iterable

from pytest_megacpp.judge import aftermath
from pytest_megacpp.judge.case import LATE_WORDS_S, Case, FailureSource, RankFailure, written
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.findings import Finding, Source, Uncertainty
from pytest_megacpp.judge.phrases import joined, plain
from pytest_megacpp.judge.verdicts import Certainty, Code, Evidence, Witness
from pytest_megacpp.recording.errors import Kind, nvls_line
from pytest_megacpp.recording.events import DeviceFault
from pytest_megacpp.recording.ranks import ranks_named
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import FaultKind, TestPhase

NVLS_VARIABLE = "NCCL_NVLS_ENABLE"
NVLS_FAILED = "NCCL could not set up NVLink SHARP (NVLS) on this machine, or its kernel refused a call to the driver"
UNCORRECTED = 2
KEPT_FAULTS = 4
BROKEN = {
    48: "a double-bit memory error",
    62: "the power or thermal controller stopped",
    64: "faulty memory that could not be retired",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    95: "an uncontained memory error",
    119: "the GPU firmware does not respond",
    120: "the GPU firmware failed",
    140: "an unrecovered memory error",
}
_MEANS = {
    13: "a kernel performed an illegal operation",
    31: "a kernel accessed unmapped memory",
    43: "a kernel was stopped after an error",
    45: "pending work was discarded after an error",
    94: "a contained memory error",
}


def broken(case: Case) -> Finding | None:
    """Returns the finding for a device that failed while the test ran, and the test with it; the code under test is not
    to blame.
    """
    faults = [(t, f) for t, f in _during(case) if _is_broken(f)]
    if not faults or not (case.failures or case.test.acted):
        return None
    time_s, first = faults[0]
    rank = rank_of(case, first)
    owner = f" (rank {rank})" if rank is not None else ""
    hit = sorted(case.failures)
    effect = f"{ranks_named(hit)} failed as a result" if hit else aftermath.sentence(case, ())
    return Finding(
        Code.ENVIRONMENT,
        joined((f"GPU {_place(first)}{owner} failed: {_meaning(first)}", effect)),
        (),
        _name(first),
        case.failures[hit[0]].phase if hit else TestPhase.CALL,
        (*(_evidence(case, t, f) for t, f in faults[:KEPT_FAULTS]), *_failures(case, hit)),
        aftermath.consequences(case, ()),
        certainty=Certainty.CERTAIN if hit else Certainty.LIKELY,
        time_s=time_s,
    )


def multicast(case: Case, first: RankFailure, uncertainties: tuple[Uncertainty, ...]) -> Finding:
    """Returns the finding for NVLink SHARP that NCCL could not set up, or of which the kernel refused a driver call.

    This is a problem of the machine. Which rank reports it first is chance, so none is blamed. `uncertainties` says
    whether another failure came before.
    """
    hit = sorted(t.rank for t in case.failures.values() if t.kind is Kind.NVLS)
    return Finding(
        Code.ENVIRONMENT,
        joined((f"{NVLS_FAILED}: {ranks_named(hit)} {aftermath.described(first)}", aftermath.sentence(case, hit))),
        (),
        VerdictCause.NVLS,
        first.phase,
        (*nvls_setting(case.timeline), *_failures(case, hit), *_written(case, first)),
        aftermath.consequences(case, ()),
        frozenset({Source.REPORTS, Source.EXITS} if first.source is FailureSource.EXIT else {Source.REPORTS}),
        uncertainties,
        certainty=Certainty.LIKELY if first.source is FailureSource.EXIT else Certainty.CERTAIN,
        time_s=first.time_s,
    )


def _written(case: Case, first: RankFailure) -> Iterable[Evidence]:
    """Yields what a process wrote about NVLS before it ended: likely the reason, but not certainly."""
    if first.source is FailureSource.EXIT:
        line = plain(nvls_line(written(case.ranks[first.rank])), 300)
        yield Evidence(first.rank, first.time_s, Witness.OUTPUT, f"stderr: {line}")


def nvls_setting(timeline: Timeline) -> tuple[Evidence, ...]:
    """Returns the value of the variable in the ranks' environment, if that is recorded."""
    setting = timeline.environment.get(NVLS_VARIABLE)
    if setting is None:
        return ()
    value = "unset" if setting.value is None else plain(setting.value, 20)
    return (Evidence(None, None, Witness.BOX, f"{NVLS_VARIABLE} was {value} ({setting.origin})"),)


def evidence(case: Case, ranks: Collection[int]) -> tuple[Evidence, ...]:
    """Returns what the drivers of these ranks' devices reported while the test ran."""
    found = [(t, f) for t, f in _during(case) if rank_of(case, f) in ranks]
    return tuple(_evidence(case, t, f) for t, f in found[:KEPT_FAULTS])


def rank_of(case: Case, fault: DeviceFault) -> int | None:
    """Returns the rank whose process the report names, else the rank that uses the device; None if that isn't known."""
    if fault.rank is not None:
        return fault.rank
    users = [r for r, used in case.world.devices.items() if fault.uuid and used.uuid == fault.uuid]
    if users or case.world.devices:
        return users[0] if len(users) == 1 else None
    return fault.device if fault.device is not None and fault.device in case.ranks else None


def _during(case: Case) -> Iterable[tuple[float, DeviceFault]]:
    end_s = case.end_s + LATE_WORDS_S
    return [(t, f) for t, f in case.world.faults if case.test.started_s <= t <= end_s]


def _is_broken(fault: DeviceFault) -> bool:
    return fault.code in BROKEN if fault.error is FaultKind.XID else fault.code == UNCORRECTED


def _name(fault: DeviceFault) -> str:
    return f"xid:{fault.code}" if fault.error is FaultKind.XID else VerdictCause.ECC


def _place(fault: DeviceFault) -> str:
    return str(fault.device) if fault.device is not None else plain(fault.uuid, 60) or "(unknown index)"


def _meaning(fault: DeviceFault) -> str:
    if fault.error is not FaultKind.XID:
        return "an uncorrectable memory error (ECC)" if fault.code == UNCORRECTED else "a corrected memory error"
    means = BROKEN.get(fault.code) or _MEANS.get(fault.code)
    return f"Xid {fault.code}{f', {means}' if means else ''}"


def _evidence(case: Case, time_s: float, fault: DeviceFault) -> Evidence:
    text = f": {plain(fault.text, 120)}" if fault.text else ""
    return Evidence(
        rank_of(case, fault), time_s, Witness.DEVICE, f"GPU {_place(fault)} reported {_meaning(fault)}{text}"
    )


def _failures(case: Case, ranks: Iterable[int]) -> tuple[Evidence, ...]:
    return aftermath.first_few(list(ranks), lambda r: aftermath.failure_evidence(case.failures[r]))

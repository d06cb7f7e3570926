"""Owns why a lane's GPUs can't be trusted with a test; must not ask a driver.

Only what the driver says plainly is a problem, and what it doesn't say never is. Old errors that a GPU recovered from
(ECC counts, Xids in the kernel log) are recorded, not held against it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_megacpp.box.gpus.survey import GpuState, GpuSurvey, Links, Matrix

BUSY_SHARE = 0.1
FULL_MESH_GPUS = 3  # fewer, or pairs of bridged cards, have no odd one out
SHOWN_PROCESSES = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a lane can't be run: `cause` is a word for machines, `text` a sentence with what to do."""

    cause: str
    text: str


def gpu_problems(survey: GpuSurvey, uuids: Sequence[str]) -> Iterable[Problem]:
    """Yields what is wrong with the GPUs of these ids, which are the lane's, in its order."""
    states = {state.uuid: (index, state) for index, state in enumerate(survey.states)}
    for rank, uuid in enumerate(uuids):
        if uuid in states:
            yield from _state_problems(rank, states[uuid][1])
    if all(uuid in states for uuid in uuids):
        yield from _link_problems([states[uuid][0] for uuid in uuids], survey)


def cuda_problems(built_for: str | None, survey: GpuSurvey, *, compat: bool) -> Iterable[Problem]:
    """Yields why torch can't use these GPUs. `built_for` is the CUDA of the installed torch, `compat` whether NVIDIA's
    compatibility libraries are there.
    """
    if built_for is None or survey.cuda is None or compat:
        return
    if _major(built_for) > _major(survey.cuda):
        yield Problem(
            "driver",
            f"the driver {survey.driver or ''} supports CUDA up to {survey.cuda}, torch is built for CUDA {built_for}: "
            "update the driver, or install a torch for the driver's CUDA",
        )


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdecimal() else 0


def _state_problems(rank: int, state: GpuState) -> Iterable[Problem]:
    it = f"GPU {rank} ({state.bus_id})"
    if (action := state.recovery) is not None and action != "None":
        yield Problem("health", f"the driver asks for {action!r} of {it}: do that, or take another machine")
    if state.remap_failed:
        yield Problem("health", f"{it} can't remap its faulty memory any more: it needs to be replaced")
    elif state.remap_pending:
        yield Problem("health", f"{it} has faulty memory to be taken out of use: reset it (nvidia-smi -r)")
    if state.fabric is not None and state.fabric not in ("Completed", "Not Supported"):
        yield Problem("fabric", f"the NVSwitch fabric of {it} is {state.fabric!r}: is nvidia-fabricmanager running?")
    if state.mig:
        yield Problem("mig", f"{it} is split into MIG instances: nvidia-smi -mig 0")
    if state.compute_mode == "Prohibited":
        yield Problem("compute-mode", f"{it} is closed to CUDA (compute mode Prohibited): nvidia-smi -c DEFAULT")
    if (users := _users(state)) is not None:
        yield Problem(
            "busy", f"{it} is in use: {state.used_mib} of {state.memory_mib} MiB are taken by {users}. End them"
        )


def _users(state: GpuState) -> str | None:
    """Returns the processes that compute on a GPU of which a good part of the memory is taken. Processes that draw a
    desktop don't count.
    """
    if state.used_mib is None or not state.memory_mib or state.used_mib < BUSY_SHARE * state.memory_mib:
        return None
    computing = [process for process in state.processes if "C" in process.kind]
    if not computing:
        return None if state.processes else "processes that can't be seen from here"
    shown = ", ".join(f"{process.name or 'a process'} (pid {process.pid})" for process in computing[:SHOWN_PROCESSES])
    more = len(computing) - SHOWN_PROCESSES
    return f"{shown} and {more} more" if more > 0 else shown


def _link_problems(indices: Sequence[int], survey: GpuSurvey) -> Iterable[Problem]:
    """Yields GPUs that lack the NVLinks that most GPUs of the lane have among each other."""
    if survey.topology is None or not indices or max(indices) >= len(survey.topology):
        return
    odd, usual = odd_ones_out([[survey.topology[a][b] for b in indices] for a in indices])
    for rank in odd:
        links = _links_of(survey, survey.states[indices[rank]].uuid)
        active = (
            f", {links.active} of its {links.total} NVLinks are active" if links is not None and links.total else ""
        )
        yield Problem(
            "nvlink",
            f"GPU {rank} is not connected to the others as they are among each other ({usual}){active}: "
            "take another machine, or look at nvidia-smi topo -m and nvidia-smi nvlink -s",
        )


def _links_of(survey: GpuSurvey, uuid: str) -> Links | None:
    return next((links for links in survey.links or () if links.uuid == uuid), None)


def odd_ones_out(matrix: Matrix | Sequence[Sequence[str]]) -> tuple[list[int], str]:
    """Returns the GPUs outside the full mesh of one kind of NVLink that most of them form, and that kind; no GPUs where
    there is no such mesh.
    """
    size = len(matrix)
    pairs = Counter(matrix[a][b] for a in range(size) for b in range(size) if a != b)
    for usual, _ in pairs.most_common():
        if not usual.startswith("NV"):
            continue
        inside = [a for a in range(size) if _reaches_most(matrix[a], a, usual)]
        meshed = all(matrix[a][b] == usual for a in inside for b in inside if a != b)
        if meshed and len(inside) >= FULL_MESH_GPUS and 2 * len(inside) > size:
            return [a for a in range(size) if a not in inside], usual
    return [], ""


def _reaches_most(row: Sequence[str], own: int, usual: str) -> bool:
    others = [how for index, how in enumerate(row) if index != own]
    return 2 * others.count(usual) > len(others)

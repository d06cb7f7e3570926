"""Owns what `megacpp doctor` reports about this machine: what a lane would find here; must not know a run.

torch is inspected as files and metadata, never imported.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pytest_megacpp.box.gpus.survey import GpuSurvey, Matrix
from pytest_megacpp.box.host import contract, kernel, loopback, preflight
from pytest_megacpp.box.host.survey import Survey, cpu_count, survey_host
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import grouped, wrapped
from pytest_megacpp.surfaces import registry
from pytest_megacpp.surfaces.local.tools import Tool, tools
from pytest_megacpp.surfaces.local.variable_readers import Readers, find_readers
from pytest_megacpp.surfaces.protocol import Lane, SurfaceOptions
from pytest_megacpp.surfaces.registry import HERE


class LocalExamination:
    """See `Examination`: it is `ready` if a dry run can start here."""

    def __init__(self, options: SurfaceOptions, lanes: Sequence[Lane]) -> None:
        self._lane_dir = options.lane_dir
        self._tables = options.tables
        self._environment = options.environment
        self._lanes = lanes
        self.ready = False

    def lines(self) -> Iterator[str]:
        survey = survey_host(self._lane_dir)
        self.ready = not preflight.problems(survey, requested_gpu=None, requested_count=0, dry_run=True)
        gpus = bool(survey.devices.devices)
        found = tools({**os.environ, **self._environment}, gpus=gpus)
        yield from _wrong_or_missing(survey, found)
        yield from _pairs("beside torch", {tool.name: tool.found or "none" for tool in found})
        yield from _pairs("versions", survey.versions)
        yield from _pairs("machine", {name: _shown(name, value) for name, value in survey.facts.items()})
        yield from _kernel(self._lane_dir)
        yield from _devices(survey)
        for lane in self._lanes:
            yield from _lane(lane, survey)
        for name in registry.names(self._tables):
            if name != HERE:
                yield f"surface {name:<16}not looked at here: megacpp doctor --surface {name}"
        yield ""
        yield from _variables(survey, self._lanes, self._environment)


def _wrong_or_missing(survey: Survey, found: Sequence[Tool]) -> Iterator[str]:
    """Yields what keeps lanes from running here, then what they may miss, each with what fixes it."""
    devices = survey.devices.devices
    problems = preflight.problems(survey, requested_gpu=None, requested_count=len(devices), dry_run=not devices)
    missing = [tool for tool in found if not tool.found]
    yield "wrong or missing"
    for problem in problems:
        yield from wrapped(one_line(problem.text, 600), "  ", "      ")
    for tool in missing:
        yield from wrapped(f"{tool.name} is not installed: {tool.lost}", "  ", "      ")
        yield f"      {tool.remedy}"
    if not problems and not missing:
        yield "  nothing that ranks need or use on this machine"
    yield ""


def _pairs(title: str, values: Mapping[str, str]) -> Iterator[str]:
    yield title
    yield from (f"  {name:<21} {one_line(value)}" for name, value in values.items())
    yield ""


def _shown(name: str, value: object) -> str:
    if value is None:
        return "unknown"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / (1 << 30):.1f} GiB"
    return str(value)


def _kernel(directory: Path) -> Iterator[str]:
    """Yields every interface that box and ranks use, and the consequences where it is missing."""
    missing = kernel.missing(directory)
    yield f"kernel {platform.release()}"
    for row in kernel.INTERFACES:
        why = missing.get(row.name)
        yield f"  {row.name:<21} {'works' if why is None else f'missing: {one_line(why)}'} ({row.call})"
        if why is not None:
            yield from wrapped(f"for: {row.purpose}", "      ")
            yield from wrapped(f"instead: {row.fallback}", "      ")
            yield from wrapped(f"lost: {row.lost}", "      ")
    yield ""


def _devices(survey: Survey) -> Iterator[str]:
    found = survey.devices
    yield "devices"
    if found.failure:
        yield f"  could not be listed: {one_line(found.failure)}"
    elif not found.devices:
        yield "  none: lanes run as dry runs here, on CPU and gloo"
    for device in found.devices:
        memory = "" if device.memory_mib is None else f"{device.memory_mib / 1024:.0f} GiB, "
        yield f"  {device.index:<22}{one_line(device.name)}, {memory}driver {one_line(device.driver)}"
    for name, value in _beyond_names(survey.gpus):
        yield f"  {name:<22}{one_line(value)}"
    yield ""


def _beyond_names(survey: GpuSurvey) -> Iterator[tuple[str, str]]:
    """Yields facts about all GPUs, as far as they are known."""
    if survey.cuda is not None:
        yield "cuda of the driver", survey.cuda
    if survey.topology is not None and len(survey.topology) > 1:
        yield "linked by", _ways(survey.topology)
    if survey.peers is not None and len(survey.peers) > 1:
        yield "peer access", _ways(survey.peers)
    if any(state.uncorrected for state in survey.states):
        yield "ECC, uncorrected", ", ".join(str(state.uncorrected) for state in survey.states)
    if survey.xids:
        yield "Xids in the log", ", ".join(f"{xid.code} ({xid.bus_id})" for xid in survey.xids)


def _ways(matrix: Matrix) -> str:
    """Returns for example `NV18 (56 ways)`; a pair has two ways, which may differ."""
    ways = Counter(how for row in matrix for how in row if how != "X")
    return ", ".join(f"{how} ({count} ways)" for how, count in ways.most_common())


def _lane(lane: Lane, survey: Survey) -> Iterator[str]:
    """Yields how the lane could run here, and the reasons if it can't run on GPUs."""
    real = preflight.problems(survey, requested_gpu=lane.gpu, requested_count=lane.ranks, dry_run=False)
    dry = preflight.problems(survey, requested_gpu=lane.gpu, requested_count=lane.ranks, dry_run=True)
    answer = "can't run here" if dry else "dry run only" if real else "can run here"
    yield f"lane {lane.name:<19}{answer} ({lane.gpu}, {lane.ranks} ranks)"
    yield from (f"  {problem.text}" for problem in dry or real)


def _variables(survey: Survey, lanes: Iterable[Lane], environment: Mapping[str, str]) -> Iterator[str]:
    """Yields each contract variable as a rank of the largest lane gets it and what reads it; then other lanes' own."""
    largest, *others = sorted(lanes, key=lambda lane: -lane.ranks)
    settings = _resolved(survey, largest, environment)
    readers = find_readers(setting.name for setting in settings)
    redactor = Redactor({**os.environ, **environment, **largest.environment})
    yield f"environment of every rank (lane {largest.name}, FSDP)"
    yield from _table(settings, readers, redactor)
    yield from (f"  {refusal}" for refusal in contract.refusals(settings))
    yield "  before: an import of torch or triton, the first process group, the first compile"
    yield "  read by: the first file that names it"
    yield "  * not referenced by the installed torch, triton or NCCL: setting it has no effect here"
    if not readers.complete:
        yield "  The search for readers ran out of time: 'nothing installed reads it' may be wrong"
    for lane in others:
        yield from _differences(lane, settings, _resolved(survey, lane, environment), environment)


def _resolved(survey: Survey, lane: Lane, environment: Mapping[str, str]) -> tuple[contract.Setting, ...]:
    shape = contract.LaunchShape(
        cuda=bool(survey.devices.devices),
        ranks=lane.ranks,
        cpus=cpu_count(),
        cache_dir="(the run's own)",
        fsdp=True,
        loopback=loopback.for_gloo(),
    )
    configured = {**environment, **lane.environment}
    return contract.resolve({**os.environ, **configured}, shape=shape, chosen=configured.keys())


def _differences(
    lane: Lane,
    shown: Sequence[contract.Setting],
    settings: Sequence[contract.Setting],
    environment: Mapping[str, str],
) -> Iterator[str]:
    """Yields the variables in which this lane differs from those shown, each with its source."""
    redactor = Redactor({**os.environ, **environment, **lane.environment})
    own = [f"{_assigned(setting, redactor)} ({setting.source})" for setting in settings if setting not in shown]
    gone = sorted({setting.name for setting in shown} - {setting.name for setting in settings})
    lines = [*own, *(f"{name} not set" for name in gone), *contract.refusals(settings)]
    yield f"environment of lane {lane.name}: as above{', except' if lines else ''}"
    yield from (f"  {line}" for line in lines)


def _assigned(setting: contract.Setting, redactor: Redactor) -> str:
    if setting.value is None:
        return f"{setting.name} unset"
    shown = redactor.environment({setting.name: setting.value})[setting.name]
    return f"{setting.name} = {one_line(shown, 60)}"


def _table(settings: Sequence[contract.Setting], readers: Readers, redactor: Redactor) -> Iterator[str]:
    for setting in settings:
        if setting.value is not None:
            yield f"  {_assigned(setting, redactor)}"
            about = f"{setting.source}, before {setting.phase}, {_reader(setting, readers)}"
            yield from wrapped(f"{about}: {one_line(redactor.text(setting.reason))}", "      ")
    removed = grouped((s.reason, s.name) for s in settings if s.value is None)
    for reason, names in removed.items():
        yield from wrapped(f"unset: {' '.join(names)}", "  ", "      ")
        yield from wrapped(one_line(redactor.text(reason)), "      ")


def _reader(setting: contract.Setting, readers: Readers) -> str:
    """Returns what reads a variable. Those of NCCL and its backend can't be looked up in a build without NCCL."""
    if setting.name in readers.found:
        return f"read by {readers.found[setting.name]}"
    if "nvidia" not in readers.packages and setting.read_by in (contract.NCCL, contract.NCCL_BACKEND, contract.NCCL2):
        return f"read by {setting.read_by}, which isn't installed here"
    return "nothing installed reads it *"

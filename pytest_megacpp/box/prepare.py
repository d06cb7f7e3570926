"""Owns what comes before the first test: environment contract, preflight, seed, socket for ranks, interpreters, data
sets. Must not know worlds.

Every step gets what earlier ones returned, so none can run too early, and `Prepared` is complete.
"""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.box.context import RunContext
from pytest_megacpp.box.data.data_sets import Fetch
from pytest_megacpp.box.event_loop import TICK_S
from pytest_megacpp.box.gpus.faults import FaultWatch, GpuFault, device_of, open_fault_sources
from pytest_megacpp.box.host import contract, kernel, loopback, preflight
from pytest_megacpp.box.host.survey import Survey, cpu_count, survey_host
from pytest_megacpp.box.naming import name_planned_tests
from pytest_megacpp.box.seed.loading import LoadedSeed, load
from pytest_megacpp.box.seed.shape import left_to_user, shape_of
from pytest_megacpp.box.seed.working_copy import WorkingCopy
from pytest_megacpp.box.worlds.admission import Admission
from pytest_megacpp.box.worlds.interpreters import EVERY_RANK_NEEDS, Interpreters, hash_seeds
from pytest_megacpp.box.worlds.world import StartFailed
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.texts import beginning
from pytest_megacpp.recording.vocabulary import BoxStep, ProblemCode

LET_GO_S = 5.0  # for a copier to end, which a mount that doesn't answer may hold for ever


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the loop needs: `seed` filled the compile cache, ranks connect to `admission` and are forked from
    `interpreters`, which may still be importing.
    """

    seed: LoadedSeed
    admission: Admission
    interpreters: Interpreters


class Refused(Exception):
    """No test can begin; `problem` says why and is not recorded yet."""

    def __init__(self, problem: ev.ProblemFound) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def prepare(context: RunContext) -> Prepared:
    """Does all that comes before the first world. Raises Refused where no test can begin, and RecordingFailed."""
    cache = context.scratch / "cache"
    settings = _apply_contract(context, cache)
    survey = _survey(context)
    if context.plan.read:
        name_planned_tests(context)
    seed = _load_seed(context, cache, settings, survey)
    _record_capabilities(context)
    admission = _listen_for_ranks(context)
    _watch_for_faults(context, survey)
    interpreters = _start_interpreters(context)
    _fetch_data(context)
    return Prepared(seed, admission, interpreters)


def _apply_contract(context: RunContext, cache: Path) -> tuple[contract.Setting, ...]:
    """Applies the environment contract to this process, which every rank inherits from."""
    configured = context.plan.environment
    shape = contract.LaunchShape(
        cuda=not context.plan.dry_run,
        ranks=context.plan.ranks,
        cpus=cpu_count(),
        cache_dir=str(cache),
        fsdp=context.plan.fsdp,
        loopback=loopback.for_gloo(),
    )
    inherited = {**os.environ, **configured}
    settings = contract.resolve(inherited, shape=shape, chosen=configured.keys())
    for s in settings:
        context.recorder.write(ev.EnvironmentSet(s.name, s.value, s.source, s.reason, s.phase))
    if refused := contract.refusals(settings):
        remedy = (
            "fix the variable where it is set (the image or a secret), "
            "or override it in [tool.pytest_megacpp.environment]"
        )
        raise Refused(ev.ProblemFound(ProblemCode.BLOCKED, "environment", " ".join(refused), remedy))
    child = contract.apply(inherited, settings)
    os.environ.clear()
    os.environ.update(child)
    return settings


def _survey(context: RunContext) -> Survey:
    """Records what the box is. Raises Refused where that is not what was asked for."""
    plan = context.plan
    survey = survey_host(context.directory, list_devices=not plan.dry_run, ordered_bytes=plan.memory_bytes)
    names = tuple(d.name for d in survey.devices.devices)
    image: dict[str, ev.Json] = {"image": plan.seed.image} if plan.seed.image else {}
    context.recorder.write(ev.BoxReady(survey.versions, survey.all_facts() | image, names))
    found = preflight.problems(
        survey,
        requested_gpu=plan.gpu,
        requested_count=plan.ranks if plan.dry_run else plan.devices,
        dry_run=plan.dry_run,
    )
    if found:
        text = " ".join(problem.text for problem in found)
        raise Refused(ev.ProblemFound(ProblemCode.ENVIRONMENT, found[0].cause, text))
    return survey


def _load_seed(context: RunContext, cache: Path, settings: tuple[contract.Setting, ...], survey: Survey) -> LoadedSeed:
    """Fills the compile cache from a seed, before anything costs time. Raises Refused where a test needs a better one
    than there is.
    """
    shape = shape_of(context.plan, survey, settings, os.environ)
    cache.mkdir(parents=True)
    why_unused = left_to_user(settings, os.environ)

    def say(text: str) -> None:
        context.recorder.write(ev.Progress(BoxStep.SEED, text))

    def is_stopped() -> bool:
        context.pump.once(0.0)  # reads what the desk said meanwhile
        context.on_step()  # and what other processes asked for
        return context.supervisor.stop is not None

    seed = load(WorkingCopy(context.plan, shape, cache, why_unused, say, is_stopped))
    context.recorder.write(seed.checked)
    if (problem := seed.refusal()) is not None:
        raise Refused(problem)
    context.supervisor.attempts.plan_warm_ups(seed.reasons())
    return seed


def _record_capabilities(context: RunContext) -> None:
    missing = kernel.missing(context.directory)
    for interface in kernel.INTERFACES:
        why = missing.get(interface.name, "")
        context.recorder.write(ev.Capability(interface.name, not why, why))


def _listen_for_ranks(context: RunContext) -> Admission:
    try:
        return Admission(str(context.scratch / "box"), context.pump.register, context.pump.forget)
    except OSError as e:
        detail = f"ranks can't reach the box: a unix socket in {context.scratch} failed ({e})"
        remedy = "set TMPDIR to a short path on a file system that holds sockets, or allow AF_UNIX in the sandbox"
        raise Refused(ev.ProblemFound(ProblemCode.ENVIRONMENT, "kernel", detail, remedy)) from e


def _watch_for_faults(context: RunContext, survey: Survey) -> None:
    """Has errors of the lane's GPUs recorded from now on."""
    states = {state.uuid: state.bus_id for state in survey.gpus.states}
    bus_ids = {d.uuid: states.get(d.uuid, "") for d in survey.devices.devices}  # in the lane's order
    if not bus_ids:
        return

    def report(fault: GpuFault) -> None:
        """Called from the watch's thread."""
        device, uuid = device_of(fault, bus_ids)
        owner = context.owner_of(fault.pid) if fault.pid is not None else None
        world, rank = owner or (context.newest_world(), None)
        context.report(world, ev.DeviceFault(fault.kind, fault.code, device, uuid, rank, fault.text))

    found, missing = open_fault_sources(tuple(bus_ids))
    for source in found:
        FaultWatch(source, report).start()
    context.recorder.write(ev.Capability("device_faults", bool(found), beginning("; ".join(missing.values()), 200)))


def _start_interpreters(context: RunContext) -> Interpreters:
    """Has torch imported beside what comes next; whether that went well is asked when the first world starts."""
    seeds = hash_seeds(os.environ, context.plan.hash_seed)
    detail = f"importing torch for all ranks, hash seeds {', '.join(seeds)}"
    context.recorder.write(ev.Progress(BoxStep.PRELOAD, detail))
    interpreters = Interpreters(seeds, (*EVERY_RANK_NEEDS, *context.plan.preload), context.scratch)
    try:
        interpreters.begin()
    except Exception as e:
        traceback.print_exception(e)  # in box.log
        failed = StartFailed(context.plan.ranks, e)
        raise Refused(ev.ProblemFound(ProblemCode.ENVIRONMENT, failed.cause, str(failed), failed.remedy)) from e
    return interpreters


def _fetch_data(context: RunContext) -> None:
    """Brings the data to where ranks read it. A run that is stopped meanwhile gets its end from the loop."""
    if not context.plan.data:
        return
    fetch = Fetch(context.plan.data, context.plan.run_id)
    fetch.start()
    ending, over = False, False
    while not (over or ending):
        ending = context.is_to_end()
        if ending:
            fetch.cancel()
        over = context.wait_until(lambda: not fetch.is_alive(), LET_GO_S if ending else TICK_S)
        for progress in fetch.news(context.recorder.now_s()):
            context.recorder.write(progress)
    if fetch.problem is not None:
        raise Refused(fetch.problem)

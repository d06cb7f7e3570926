"""Owns what of a launch makes it able to share compiled code with another one: its shape, and whether the user keeps
the caches; must not know a cache directory or a store.
"""

from collections.abc import Iterable, Mapping

from pytest_megacpp.box.host.contract import CACHE_KEY_TAG, Setting
from pytest_megacpp.box.host.survey import Survey, cpu_model
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.seed import Shape
from pytest_megacpp.recording.vocabulary import SettingOrigin

CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_SWITCHES = {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # values that end caching
_OF_COMPILERS = ("TORCHINDUCTOR_", "TRITON_", "TORCH_COMPILE")
_NOT_IN_KEYS = (*CACHE_VARIABLES, "TORCHINDUCTOR_COMPILE_THREADS", "TORCHINDUCTOR_WORKER_START")
_VERSIONS = ("python", "torch", "triton", "cuda")


def shape_of(plan: Plan, survey: Survey, settings: Iterable[Setting], environ: Mapping[str, str]) -> Shape:
    """Returns the launch shape. `settings` is the resolved contract, `environ` what ranks inherit."""
    ranks = plan.seed.ranks or plan.ranks  # of the lane: a selection of smaller tests has the same shape
    devices = tuple(device.name for device in survey.devices.devices)[:ranks] or (cpu_model(),)
    versions = {name: survey.versions[name] for name in _VERSIONS if name in survey.versions}
    if survey.devices.devices:
        versions["driver"] = survey.devices.devices[0].driver
    inherited = {name: value for name, value in environ.items() if name.startswith(_OF_COMPILERS)}
    resolved = {s.name: s.value for s in settings if s.name.startswith(_OF_COMPILERS) and s.value is not None}
    return Shape(
        lane=plan.lane,
        gpu="cpu" if plan.dry_run else plan.gpu,
        devices=devices,
        ranks=ranks,
        preset=plan.seed.preset,
        image=plan.seed.image,
        versions=versions,
        settings={n: v for n, v in sorted({**inherited, **resolved}.items()) if n not in _NOT_IN_KEYS},
        project=plan.seed.project,
    )


def left_to_user(settings: Iterable[Setting], environ: Mapping[str, str]) -> str:
    """Returns why seeds have no part in a run: the operator decides where the compile cache lies, or that there is
    none. Empty where they have.
    """
    settings = tuple(settings)
    moved = next((s.name for s in settings if s.name in CACHE_VARIABLES and s.source is not SettingOrigin.PLUGIN), None)
    if moved is not None:
        return f"{moved} is set by you: no seed fills or reads that cache"
    if any(s.name == CACHE_KEY_TAG and not s.value for s in settings):
        return f"{CACHE_KEY_TAG} is set empty by you: keys don't tell ranks apart, and a seed is shared by all"
    off = next((f"{name}={value}" for name, value in _SWITCHES.items() if environ.get(name) == value), None)
    return f"{off} is set by you: without that cache there is nothing to keep" if off else ""

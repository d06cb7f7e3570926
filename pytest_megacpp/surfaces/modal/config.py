"""Owns what a Modal box is asked to be, as data, and what a box for somebody else's code may be; must not know `modal`.

Paths are the box's. A volume is written `NAME` or `NAME/DIRECTORY/IN/IT`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_megacpp.recording.plan import DataSet
from pytest_megacpp.recording.seed_layout import BAKED_DIR
from pytest_megacpp.surfaces.data_config import VOLUME, Bucket, DataConfig

HOME = "/megacpp"
PACKAGE_DIR = f"{HOME}/package"
SOURCE_DIR = f"{HOME}/source"
RUN_DIR = f"{HOME}/run"
CACHE_DIR = f"{HOME}/cache"
RUNS_DIR = f"{HOME}/runs"
DATA_DIR = f"{HOME}/data"
CACHE_VOLUME = "megacpp-cache"
SEEDS = "seeds"  # in the volume of compile caches
BUCKETS_DIR = f"{HOME}/buckets"
COPY = "files"  # in a data set's directory of its volume; beside it is what the copier remembers

LONGEST_S = 86_400.0  # Modal's own limit
COMMIT_S = 120.0  # kept back for evidence, last writes and the volumes' commit
GVISOR, VM = "gvisor", "vm"
RUNTIMES = (GVISOR, VM)  # those of `Sandbox.create` (client 1.6.4)
RUNTIME_VARIABLE = "MODAL_FUNCTION_RUNTIME"  # of the desk; the client passes it on where nothing else was asked for


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The user's own image (`factory`, `package.module:name`, or `reference`, of a registry), else the default one.

    `add_python` brings a Python into a registry's image, `pull_secret` is the Modal secret to pull it with.
    `python` (`3.12`), `packages` and `torch_index` (a URL; else PyPI) are for the default image. `baked_seed` is a
    directory of the project with seeds to put into any of them.
    """

    factory: str | None = None
    reference: str | None = None
    add_python: str | None = None
    pull_secret: str | None = None
    python: str | None = None
    packages: tuple[str, ...] = ()
    torch_index: str | None = None
    baked_seed: str | None = None

    @property
    def name(self) -> str:
        """What a seed remembers of it, beside the versions found in it."""
        return self.reference or self.factory or "default"


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """A Volume, or a directory of it, at `path`. One that is `made` is created when it isn't there."""

    path: str
    name: str
    directory: str = ""
    read_only: bool = False
    made: bool = False


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What the box may reach: everything, or only `cidrs` and `domains`; `blocked` without any is nothing."""

    blocked: bool = False
    cidrs: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        return not (self.blocked or self.cidrs or self.domains)


@dataclass(frozen=True, slots=True)
class ModalConfig:
    """`[tool.pytest_megacpp.modal]`. `pass_env` names variables of the desk that the box gets, `secrets` Modal secrets.

    `runtime` is one of `RUNTIMES`, None leaves the choice to Modal. `capacity_s` is how long to wait for GPUs,
    `timeout_s` the container's own limit, `lease_s` how long a box outlives its desk.
    """

    app: str = "megacpp"
    environment: str | None = None
    image: ImageConfig = field(default_factory=ImageConfig)
    secrets: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cache_volume: VolumeConfig | None = None
    runs_volume: VolumeConfig | None = None
    data: tuple[DataConfig, ...] = ()
    volumes: tuple[VolumeConfig, ...] = ()
    region: tuple[str, ...] = ()
    cloud: str | None = None
    runtime: str | None = None
    cpu: float | None = None
    memory_mib: int | None = None
    capacity_s: float = 900.0
    timeout_s: float = 14_400.0
    lease_s: float = 60.0
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def mounts(self, run_id: str) -> tuple[VolumeConfig, ...]:
        """All volumes of a run. Of the run records it sees its own directory only."""
        runs = self.runs_volume
        own = (replace(runs, directory=f"{runs.directory}/{run_id}".strip("/")),) if runs is not None else ()
        cache = (self.cache_volume,) if self.cache_volume is not None else ()
        return (*cache, *own, *(_copy_of(one) for one in self.data if _has_copy(one)), *self.volumes)

    def seed_stores(self) -> tuple[str, ...]:
        """Where a box finds seeds: the volume, which gets its own as well, then those that the image brought along."""
        return (f"{CACHE_DIR}/{SEEDS}" if self.cache_volume is not None else "", BAKED_DIR)

    def buckets(self) -> dict[str, Bucket]:
        """What is mounted beside volumes, to copy from, by its path."""
        found = ((one.name, one.source) for one in self.data if _is_copied(one))
        return {f"{BUCKETS_DIR}/{name}": bucket for name, bucket in found if isinstance(bucket, Bucket)}

    def data_sets(self) -> tuple[DataSet, ...]:
        """The data sets as the box finds them."""
        return tuple(_data_set(one) for one in self.data)

    def machine(self, ranks: int) -> tuple[float, int]:
        """Cores and MiB that are reserved and paid for: each rank compiles and loads on its own."""
        return self.cpu or float(max(4, 2 * ranks)), self.memory_mib or 4096 + 2048 * ranks

    def preemptible_by(self, *, gpu: bool) -> tuple[str, ...]:
        """What makes Modal treat the sandbox as preemptible (modal.com/docs/guide/preemption); empty: it is exempt."""
        asked = (("a GPU", gpu), ("region", bool(self.region)), ("cloud", self.cloud is not None))
        return tuple(name for name, is_asked in asked if is_asked)

    def machine_notices(self, *, gpu: bool) -> tuple[str, ...]:
        """What a user should know of the machine before it is rented, a line each."""
        runtime = f"runtime {self.runtime}" if self.runtime else "runtime chosen by Modal (gVisor by default)"
        why = self.preemptible_by(gpu=gpu)
        ends = "Modal may end it at any time" if why else "not preemptible"
        lines = [f"sandbox: {runtime}; {f'preemptible because of {_listed(why)}: {ends}' if why else ends}"]
        if self.runtime == VM:
            lines.append(
                "sandbox: signals to a process group do nothing on the vm runtime, so what a test starts itself may"
                " outlive it until the sandbox ends"
            )
        return tuple(lines)

    def times(self, run_s: float, budget_s: float = 0.0) -> tuple[float, float]:
        """The container's limit and the run's inside it, which ends early enough to leave its results. `budget_s`, what
        money buys, bounds the container as well: a box whose code took its supervisor down must not burn more.
        """
        timeout_s = min(run_s + COMMIT_S, LONGEST_S) if run_s else self.timeout_s
        bounded_s = min(timeout_s, budget_s + COMMIT_S) if budget_s else timeout_s
        return bounded_s, timeout_s - COMMIT_S


def _listed(words: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _has_copy(one: DataConfig) -> bool:
    """A directory of another machine can't come along, but a volume may have the same."""
    return not isinstance(one.source, Path) or one.volume is not None


def _is_copied(one: DataConfig) -> bool:
    return isinstance(one.source, Bucket) and not one.as_copied


def _copy_of(one: DataConfig) -> VolumeConfig:
    """Written where there is a bucket to copy from; else it must be there, and nothing writes to it."""
    name, directory = (VOLUME, one.own_directory) if one.volume is None else (one.volume, one.directory)
    copied = _is_copied(one)
    return VolumeConfig(f"{DATA_DIR}/{one.name}", name, directory, read_only=not copied, made=copied)


def _data_set(one: DataConfig) -> DataSet:
    if not _has_copy(one):
        why = f"a box on Modal doesn't reach {one.source}: name a volume that has it (volume), or a bucket (source)"
        return DataSet(one.name, "", absent=why)
    mount = f"{DATA_DIR}/{one.name}"
    if not isinstance(one.source, Bucket):
        return DataSet(one.name, mount)
    source = f"{BUCKETS_DIR}/{one.name}" if _is_copied(one) else ""
    return DataSet(one.name, f"{mount}/{COPY}", source, one.origin, one.include, one.exclude)


class NotForStrangers(ValueError):
    """The configuration would give untrusted code more than it may have; the text says what, and how to fix it."""


def for_strangers(config: ModalConfig) -> ModalConfig:
    """The configuration for code that nobody has read yet, such as a fork's pull request (docs/threat-model.md).

    What is safe to leave out is left out: the compile cache, which later runs would execute from, and buckets with
    their secrets; data is what a trusted run copied, read-only. What the tests may need is refused by name, so that
    nobody believes they have it.

    Raises:
        NotForStrangers
    """
    if named := (*config.secrets, *config.pass_env):
        raise NotForStrangers(
            f"untrusted code would see {', '.join(named)}: take them out of secrets and pass_env for this launch"
        )
    if config.network.is_open:
        raise NotForStrangers(
            'untrusted code would have an open network: say network = "none", or list what it may reach'
        )
    if written := [volume.path for volume in config.volumes if not volume.read_only]:
        raise NotForStrangers(
            f"untrusted code could write to the volumes at {', '.join(written)}: mount them with read_only = true"
        )
    return replace(config, cache_volume=None, data=tuple(replace(one, as_copied=True) for one in config.data))

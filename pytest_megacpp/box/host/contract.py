"""Owns the environment contract of a launch, as one table; must not know a process, torch or the machine.

Every rank must see these variables before Python imports torch. So the box resolves the contract once,
applies it to its own environment, and only then starts what imports torch: a preloading fork server inherits
it, and a variable that must be *absent* can't be taken away from its children later.

For each row, the first that holds:

1. A value that the operator set and that would break or blind the launch is `refused`: nothing starts.
2. A row without a value (fabric tuning of the host) is taken away and its reason says what was there, unless
   the operator chose it for this very launch.
3. A value that the operator set wins and is shown as `user`.
4. The table's value is set and shown as `plugin`.

Of `LD_LIBRARY_PATH` single directories are taken away, by the second rule, and the rest is kept.

The values come from records of 8-GPU launches. `phase` says until when a variable counts, `read_by` what reads it with
torch 2.11 to 2.15 and triton 3.6 to 3.9; what the installed ones read is the doctor's question.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_megacpp.recording.plan import RELAXED_HEARTBEAT_S
from pytest_megacpp.recording.vocabulary import SettingOrigin, SettingPhase

DEBUG_LEVEL = "TORCH_DISTRIBUTED_DEBUG"
FLIGHT_RECORDER = "TORCH_FR_BUFFER_SIZE"
OLDER_FLIGHT_RECORDER = "TORCH_NCCL_TRACE_BUFFER_SIZE"
FLIGHT_RECORDER_ENTRIES = 64
"""Ring size that a look reads in about 1 ms; torch's own default of 2000 takes 70 ms."""
DUMP_WAIT_MS = 1000
LIBRARY_PATH = "LD_LIBRARY_PATH"


@dataclass(frozen=True, slots=True)
class LaunchShape:
    """What the values depend on; `cpus` are the box's, `loopback` is the interface that gloo can listen on, if any."""

    cuda: bool
    ranks: int
    cpus: int
    cache_dir: str
    fsdp: bool = False
    loopback: str | None = "lo"


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved variable; `value` None means that the ranks must not see it."""

    name: str
    value: str | None
    source: SettingOrigin
    reason: str
    phase: SettingPhase
    read_by: str


class ContractRefused(ValueError):
    """The operator's environment would break the launch; the text says how to fix it."""


Objection = Callable[[str], str | None]
"""Why an operator's value can't be launched with, remedy included, or None when it can."""


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    value: str | None
    phase: SettingPhase
    read_by: str
    reason: str
    older_name: str | None = None
    filtered: bool = False
    user_value_stays: bool = False  # also where the table has no value

    def becomes(self, value: str | None, source: SettingOrigin, reason: str, name: str | None = None) -> Setting:
        return Setting(name or self.name, value, source, reason, self.phase, self.read_by)


NOTHING = "nothing"
NCCL = "NCCL"
NCCL_BACKEND = "torch's NCCL backend"
NCCL2 = "torch's nccl2 backend"
CACHE_KEY_TAG = "TORCH_COMPILE_CACHE_KEY_TAG"
_TORCH = "torch's C++ library"
_INDUCTOR = "torch/_inductor/config.py"


def _debug_level_objection(value: str) -> str | None:
    match value.upper():
        case "OFF" | "INFO":
            return None
        case "DETAIL":
            return (
                "it wraps every process group with a second gloo group, which deadlocks fully_shard and "
                "reports a compiling, a hung and a dead rank alike. Unset it or use INFO; the flight "
                "recorder already gives the evidence"
            )
        case _:
            return "torch fails to import with it. Unset it, or use OFF or INFO"


def _integer_objection(value: str) -> str | None:
    if re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return None
    return "torch aborts on a value that is not an integer. Unset it or give an integer"


OBJECTIONS: Mapping[str, Objection] = {
    DEBUG_LEVEL: _debug_level_objection,
    **dict.fromkeys(
        (
            "TORCHINDUCTOR_COMPILE_THREADS",
            FLIGHT_RECORDER,
            OLDER_FLIGHT_RECORDER,
            "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC",
            "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC",
            "TORCH_FR_WAIT_TIMEOUT_DUMP_MILSEC",
        ),
        _integer_objection,
    ),
}
"""Of the variables with values that can't be launched with."""


def objection(name: str, value: str) -> str | None:
    """Returns why nothing can be launched with this value, and what to do about it; None where it is fine."""
    return OBJECTIONS[name](value) if name in OBJECTIONS else None


def _table(shape: LaunchShape) -> tuple[_Row, ...]:
    return (
        *_launcher_rows(shape),
        *_inductor_rows(shape),
        *_cache_rows(shape),
        *_distributed_rows(shape),
        *_single_host_rows(),
    )


_LIBRARY_PATH_ROW = _Row(
    LIBRARY_PATH,
    None,
    SettingPhase.IMPORT,
    "the dynamic loader",
    "directories of CUDA, cuDNN and NCCL are left out: the image's libraries must not shadow those that torch"
    " brings; the driver's directory stays",
    filtered=True,
)


def _launcher_rows(shape: LaunchShape) -> Iterable[_Row]:
    yield _LIBRARY_PATH_ROW
    if shape.ranks > 1:
        about = "torchrun's default for more than one rank on a host"
        yield _Row("OMP_NUM_THREADS", "1", SettingPhase.IMPORT, "OpenMP", about)
    if shape.cuda:
        yield _Row(
            "PYTORCH_NVML_BASED_CUDA_CHECK",
            "1",
            SettingPhase.IMPORT,
            "torch/cuda/__init__.py",
            "asking whether CUDA is there must not start it: ranks are forked from a process that imported torch",
        )
    else:
        about = "no CUDA: Triton kernels run in the interpreter"
        yield _Row("TRITON_INTERPRET", "1", SettingPhase.IMPORT, "triton/knobs.py", about)


def _inductor_rows(shape: LaunchShape) -> Iterable[_Row]:
    threads = max(1, shape.cpus // max(1, shape.ranks))
    yield _Row(
        "TORCHINDUCTOR_COMPILE_THREADS",
        str(threads),
        SettingPhase.COMPILE,
        _INDUCTOR,
        f"{shape.cpus} CPUs shared by {shape.ranks} ranks; the default is up to 32 workers per rank",
    )
    yield _Row(
        "TRITON_DEFAULT_NUM_STAGES",
        "2",
        SettingPhase.IMPORT,
        NOTHING,
        "four stages exceed an H200's shared memory; for older stacks: torch 2.13, triton 3.7 don't read it",
    )
    yield _Row(
        "TORCHINDUCTOR_MAX_AUTOTUNE_PRUNE_CHOICES_BASED_ON_SHARED_MEM",
        "1",
        SettingPhase.COMPILE,
        _INDUCTOR,
        "drops GEMM choices that exceed the device's shared memory",
    )
    yield _Row(
        "TORCHINDUCTOR_DISTRIBUTED_MAX_AUTOTUNE_GEMM",
        "0",
        SettingPhase.COMPILE,
        _INDUCTOR,
        "shared autotuning makes compiling wait for peers, and its subprocess ran out of device memory",
    )
    if shape.fsdp:
        yield _Row(
            "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM",
            "0",
            SettingPhase.COMPILE,
            _INDUCTOR,
            "FSDP lane: the autotune subprocess has a CUDA context of its own and competes for device memory",
        )


def _cache_rows(shape: LaunchShape) -> Iterable[_Row]:
    root, box = shape.cache_dir.rstrip("/"), "the box's compile cache, where the seed is"
    where = "torch/_inductor/runtime/cache_dir_utils.py"
    yield _Row("TORCHINDUCTOR_CACHE_DIR", f"{root}/inductor", SettingPhase.COMPILE, where, box)
    yield _Row("TRITON_CACHE_DIR", f"{root}/triton", SettingPhase.COMPILE, "triton/knobs.py", box)
    needed = "the seed is of no use without it"
    yield _Row("TORCHINDUCTOR_FX_GRAPH_CACHE", "1", SettingPhase.COMPILE, _INDUCTOR, needed)
    yield _Row("TORCHINDUCTOR_AUTOGRAD_CACHE", "1", SettingPhase.COMPILE, "torch/_functorch/config.py", needed)
    yield _Row(
        CACHE_KEY_TAG,
        "megacpp",
        SettingPhase.IMPORT,
        "torch/compiler/config.py",
        "some passes compile the rank into code, and torch's keys leave it out: each rank adds it; empty: it doesn't",
    )


def _distributed_rows(shape: LaunchShape) -> Iterable[_Row]:
    yield _Row(DEBUG_LEVEL, "INFO", SettingPhase.IMPORT, _TORCH, "more words from torch.distributed at no cost")
    yield from _flight_recorder_rows()
    yield from _nccl_watchdog_rows()
    yield from _nccl2_rows()
    yield _Row(
        "TORCH_NCCL_ENABLE_TIMING",
        "1",
        SettingPhase.GROUP,
        NCCL_BACKEND,
        "the flight recorder then knows which collectives a device has started: one that waits from one still busy",
    )
    yield _Row(
        "TORCH_NCCL_AVOID_RECORD_STREAMS",
        "1",
        SettingPhase.GROUP,
        NCCL_BACKEND,
        "FSDP2 memory: without it some runs ended out of memory near step 60",
    )
    older = "parity with older stacks; torch 2.13 does not read it"
    yield _Row("FSDP_USE_ORIG_PARAMS", "true", SettingPhase.IMPORT, NOTHING, older)
    yield _gloo_interface_row(shape.loopback)


def _gloo_interface_row(interface: str | None) -> _Row:
    about = "one host: no host name to resolve, no outer interface"
    if interface is None:
        about = "the kernel lists no loopback interface, or not in one order: gloo goes by the host's name"
    return _Row("GLOO_SOCKET_IFNAME", interface, SettingPhase.GROUP, _TORCH, about, user_value_stays=True)


def _flight_recorder_rows() -> Iterable[_Row]:
    """Yields the rows of the flight recorder. The older name isn't set too: torch would print a deprecation warning in
    every rank.
    """
    yield _Row(
        FLIGHT_RECORDER,
        str(FLIGHT_RECORDER_ENTRIES),
        SettingPhase.GROUP,
        _TORCH,
        "flight recorder on, with a ring small enough to be polled",
        older_name=OLDER_FLIGHT_RECORDER,
    )


def _nccl_watchdog_rows() -> Iterable[_Row]:
    yield _Row(
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC",
        str(RELAXED_HEARTBEAT_S),
        SettingPhase.GROUP,
        NCCL_BACKEND,
        "the box decides first: torch's 480 s kill a long compile. torch reads it once for each group and can't change"
        " it later; groups made after `lane.warmup` get the test's limits and 600 s",
    )
    yield _Row(
        "TORCH_NCCL_ENABLE_MONITORING",
        "1",
        SettingPhase.GROUP,
        NCCL_BACKEND,
        "the flight recorder's dump on timeout needs the monitor; its heartbeat is relaxed",
    )
    yield _Row(
        "TORCH_NCCL_DUMP_ON_TIMEOUT",
        "1",
        SettingPhase.GROUP,
        NCCL_BACKEND,
        "evidence of last resort, should a group's own timeout be the shorter one",
    )
    yield _Row(
        "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC",
        str(DUMP_WAIT_MS),
        SettingPhase.GROUP,
        NCCL_BACKEND,
        "after a group's timeout torch sleeps four times this long before it ends the rank (60 s by default)",
    )


def _nccl2_rows() -> Iterable[_Row]:
    yield _Row(
        "TORCH_DIST_USE_NCCL2",
        "0",
        SettingPhase.IMPORT,
        NCCL2,
        "from torch 2.15 on nccl is nccl2: its recorder doesn't tell when a device begins, nor to the box what is over",
    )
    yield _Row(
        "TORCH_FR_WAIT_TIMEOUT_DUMP_MILSEC",
        str(DUMP_WAIT_MS),
        SettingPhase.GROUP,
        NCCL2,
        "should you choose nccl2: on a group's timeout it waits this long for a dump, and once more (15 s by default)",
    )


def _single_host_rows() -> Iterable[_Row]:
    yield _Row(
        "NCCL_NVLS_ENABLE",
        "0",
        SettingPhase.GROUP,
        NCCL,
        "NVLink SHARP often can't be set up in containers (Failed to bind … Multicast memory, CUDA error 401;"
        " NVIDIA/nccl#1788, pytorch#177472), and NCCL fails then; NVLink is used without it",
    )
    one_host = "one host: NVLink and shared memory, no fabric"
    yield _Row("NCCL_NET_PLUGIN", "none", SettingPhase.GROUP, NCCL, one_host)
    yield _Row("NCCL_IB_DISABLE", "1", SettingPhase.GROUP, NCCL, one_host)
    for name in FABRIC_TUNING:
        about = "one host: fabric tuning of the image or machine must not reach NCCL"
        yield _Row(name, None, SettingPhase.GROUP, NCCL, about)


FABRIC_TUNING = (
    "NCCL_NET",
    "NCCL_CROSS_NIC",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_TUNER_CONFIG_PATH",
    "NCCL_IB_ADAPTIVE_ROUTING",
    "NCCL_IB_FIFO_TC",
    "NCCL_IB_QPS_PER_CONNECTION",
    "NCCL_IB_TC",
    "NCCL_NVLS_CHUNKSIZE",
    "NCCL_P2P_NET_CHUNKSIZE",
)


def resolve(
    user_env: Mapping[str, str], *, shape: LaunchShape, chosen: Collection[str] = frozenset()
) -> tuple[Setting, ...]:
    """Decides every variable of the contract, in the table's order. `user_env` is the environment that the box inherits
    plus what the operator configured. `chosen` names variables that the operator set for this launch on purpose (not
    inherited from an image or a shell): only those keep a value that the table takes away.
    """
    return tuple(_resolve_row(row, user_env, chosen) for row in _table(shape))


def _resolve_row(row: _Row, user_env: Mapping[str, str], chosen: Collection[str]) -> Setting:
    for name in filter(None, (row.older_name, row.name)):
        if name in user_env and (why := objection(name, user_env[name])) is not None:
            return row.becomes(user_env[name], SettingOrigin.REFUSED, why, name)
    user_value = user_env.get(row.name)
    if user_value is None:
        return _without_user_value(row, user_env)
    if row.filtered and row.name not in chosen:
        return _without_vendor_directories(row, user_value)
    if row.value is None and row.name not in chosen and not row.user_value_stays:
        return row.becomes(None, SettingOrigin.PLUGIN, f"{row.reason} (was {user_value!r})")
    return row.becomes(user_value, SettingOrigin.USER, _user_reason(row, user_value))


_VERSION = r"\d[\d.]*(?:-\d+)?(?:\+cuda[\d.]+)?(?:_(?:x86_64|aarch64))?"  # as NVIDIA's archives are named
_BUT_COMPAT = r"(?!(?:.*/)?compat(?:/|$))"
_VENDOR_DIRECTORY = re.compile(
    rf"/(?:usr/local|opt)/cuda(?:[-_]?[\d.]+)?(?:/{_BUT_COMPAT}|$)"  # a toolkit: lib64, targets, extras/CUPTI
    r"|/(?:site|dist)-packages/nvidia/"  # Python's nvidia-* packages, of whichever environment
    rf"|/nvidia/hpc_sdk/{_BUT_COMPAT}"
    rf"|/(?:lib)?(?:nccl|cudnn)(?:[-_]?v?{_VERSION}|-linux-[\w.-]+-archive)?(?:/|$)"  # an NCCL or cuDNN of its own
)


def is_vendor_directory(path: str) -> bool:
    """Returns whether libraries of NVIDIA that torch brings along would be found there first: below a CUDA toolkit, in
    a `nvidia-*` package, the HPC SDK, or below an NCCL or cuDNN. Not so the driver's libraries, which nobody else
    brings: `/usr/local/nvidia/lib64`, and a toolkit's `compat` for a driver that is older than torch's CUDA.
    """
    return _VENDOR_DIRECTORY.search(os.path.normpath(path)) is not None


def library_path(user_env: Mapping[str, str], chosen: Collection[str] = ()) -> str | None:
    """Returns what ranks get as `LD_LIBRARY_PATH`, None where it is unset."""
    return _resolve_row(_LIBRARY_PATH_ROW, user_env, chosen).value


def _without_vendor_directories(row: _Row, user_value: str) -> Setting:
    directories = user_value.split(":")
    removed = [path for path in directories if is_vendor_directory(path)]
    if not removed:
        return row.becomes(user_value, SettingOrigin.USER, f"your value is kept as it is: {row.reason}")
    kept = ":".join(path for path in directories if path not in removed)
    return row.becomes(kept or None, SettingOrigin.PLUGIN, f"{row.reason} (removed: {', '.join(removed)})")


def _without_user_value(row: _Row, user_env: Mapping[str, str]) -> Setting:
    if row.older_name is None or row.older_name not in user_env:
        return row.becomes(row.value, SettingOrigin.PLUGIN, row.reason)
    newer = f"the newer name of {row.older_name}, which you set"
    return row.becomes(user_env[row.older_name], SettingOrigin.USER, newer)


def _user_reason(row: _Row, user_value: str) -> str:
    if row.filtered:
        return f"you chose it for this launch, so it is kept whole; else {row.reason}"
    if row.value is None:
        return f"you chose it; else it would be unset: {row.reason}"
    if row.value == user_value:
        return f"you set the value that the lane uses: {row.reason}"
    return f"your value is kept; the lane's would be {row.value}: {row.reason}"


def refusals(settings: Iterable[Setting]) -> tuple[str, ...]:
    """Returns one text for each variable that forbids the launch, with what to do about it; none where it may start."""
    return tuple(refusal(s.name, s.value or "", s.reason) for s in settings if s.source is SettingOrigin.REFUSED)


def refusal(name: str, value: str, why: str, where: str = "") -> str:
    """Returns `NAME='value' in PLACE is refused: …`."""
    return f"{name}={value!r}{f' in {where}' if where else ''} is refused: {why}."


def apply(env: Mapping[str, str], settings: Iterable[Setting]) -> dict[str, str]:
    """Returns the environment of the children: `env` with every setting applied. Raises ContractRefused where a setting
    forbids the launch.
    """
    settings = tuple(settings)
    if refused := refusals(settings):
        raise ContractRefused("\n".join(refused))
    child = dict(env)
    for setting in settings:
        if setting.value is None:
            child.pop(setting.name, None)
        else:
            child[setting.name] = setting.value
    return child

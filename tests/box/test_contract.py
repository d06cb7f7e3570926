"""The environment contract: what is set, who wins, what is refused, and that its document says the same."""

import importlib.util
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_megacpp.box.host import contract
from pytest_megacpp.box.host.contract import LaunchShape, Setting, apply, refusals, resolve
from pytest_megacpp.recording.vocabulary import SettingOrigin

H200X8 = LaunchShape(cuda=True, ranks=8, cpus=64, cache_dir="/cache", fsdp=True)
DRY_RUN = LaunchShape(cuda=False, ranks=8, cpus=2, cache_dir="/cache")

EVERY_LANE = {
    "OMP_NUM_THREADS": "1",
    "TRITON_DEFAULT_NUM_STAGES": "2",
    "TORCHINDUCTOR_MAX_AUTOTUNE_PRUNE_CHOICES_BASED_ON_SHARED_MEM": "1",
    "TORCHINDUCTOR_DISTRIBUTED_MAX_AUTOTUNE_GEMM": "0",
    "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
    "TRITON_CACHE_DIR": "/cache/triton",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
    "TORCH_COMPILE_CACHE_KEY_TAG": "megacpp",
    "TORCH_DISTRIBUTED_DEBUG": "INFO",
    "TORCH_FR_BUFFER_SIZE": "64",
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "7200",
    "TORCH_NCCL_ENABLE_MONITORING": "1",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "1000",
    "TORCH_DIST_USE_NCCL2": "0",
    "TORCH_FR_WAIT_TIMEOUT_DUMP_MILSEC": "1000",
    "TORCH_NCCL_ENABLE_TIMING": "1",
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
    "FSDP_USE_ORIG_PARAMS": "true",
    "GLOO_SOCKET_IFNAME": "lo",
    "LD_LIBRARY_PATH": None,
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_NET_PLUGIN": "none",
    "NCCL_IB_DISABLE": "1",
    **dict.fromkeys(contract.FABRIC_TUNING),
}


ON_DEVICES = {"TORCHINDUCTOR_MAX_AUTOTUNE_GEMM": "0", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def by_name(env: Mapping[str, str], shape: LaunchShape = H200X8, chosen: set[str] | None = None) -> dict[str, Setting]:
    return {setting.name: setting for setting in resolve(env, shape=shape, chosen=chosen or set())}


@pytest.mark.parametrize(
    ("shape", "own"),
    [
        (H200X8, {"TORCHINDUCTOR_COMPILE_THREADS": "8", **ON_DEVICES}),
        (DRY_RUN, {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TRITON_INTERPRET": "1"}),
    ],
    ids=["h200x8-fsdp", "dry-run"],
)
def test_an_empty_environment_gets_the_whole_table_from_the_plugin(shape: LaunchShape, own: dict[str, str]) -> None:
    settings = by_name({}, shape)
    assert {name: setting.value for name, setting in settings.items()} == EVERY_LANE | own
    assert {setting.source for setting in settings.values()} == {SettingOrigin.PLUGIN}


def test_one_rank_gets_no_thread_limit_as_with_torchrun() -> None:
    assert "OMP_NUM_THREADS" not in by_name({}, LaunchShape(cuda=True, ranks=1, cpus=8, cache_dir="/c"))


def test_an_unknown_loopback_interface_is_not_guessed() -> None:
    shape = LaunchShape(cuda=False, ranks=2, cpus=2, cache_dir="/c", loopback=None)
    assert by_name({}, shape)["GLOO_SOCKET_IFNAME"].value is None
    assert by_name({"GLOO_SOCKET_IFNAME": "eth9"}, shape)["GLOO_SOCKET_IFNAME"].value == "eth9"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCH_DISTRIBUTED_DEBUG", "OFF"),
        ("TORCH_DISTRIBUTED_DEBUG", "info"),
        ("OMP_NUM_THREADS", "4,2"),
        ("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "600"),
        ("NCCL_IB_DISABLE", "0"),
        ("TORCHINDUCTOR_CACHE_DIR", "/mine"),
        ("TRITON_DEFAULT_NUM_STAGES", "2"),
        ("NCCL_NVLS_ENABLE", "1"),
    ],
)
def test_the_operators_value_wins_and_is_shown(name: str, value: str) -> None:
    setting = by_name({name: value})[name]
    assert (setting.value, setting.source) == (value, SettingOrigin.USER)
    assert str(EVERY_LANE[name]) in setting.reason or EVERY_LANE[name] == value


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("TORCH_DISTRIBUTED_DEBUG", "DETAIL", "use INFO"),
        ("TORCH_DISTRIBUTED_DEBUG", "Detail", "use INFO"),
        ("TORCH_DISTRIBUTED_DEBUG", "", "Unset it"),
        ("TORCH_DISTRIBUTED_DEBUG", "verbose", "Unset it"),
        ("TORCH_FR_BUFFER_SIZE", "", "give an integer"),
        ("TORCH_NCCL_TRACE_BUFFER_SIZE", "", "give an integer"),
        ("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "2h", "give an integer"),
    ],
)
def test_a_value_that_breaks_the_launch_is_refused_with_its_remedy(name: str, value: str, remedy: str) -> None:
    settings = resolve({name: value}, shape=H200X8)
    (text,) = refusals(settings)
    assert text.startswith(f"{name}={value!r} is refused: ")
    assert remedy in text
    with pytest.raises(contract.ContractRefused, match=re.escape(text)):
        apply({name: value}, settings)


def test_inherited_fabric_tuning_is_taken_away_and_the_reason_says_what_it_was() -> None:
    env = {"NCCL_NET": "AWS Libfabric"}
    setting = by_name(env)["NCCL_NET"]
    assert (setting.value, setting.source) == (None, SettingOrigin.PLUGIN)
    assert "'AWS Libfabric'" in setting.reason
    assert "NCCL_NET" not in apply(env, [setting])


def test_fabric_tuning_that_was_chosen_for_this_launch_stays() -> None:
    env = {"NCCL_NVLS_CHUNKSIZE": "65536"}
    setting = by_name(env, chosen=set(env))["NCCL_NVLS_CHUNKSIZE"]
    assert (setting.value, setting.source) == ("65536", SettingOrigin.USER)


DRIVER = "/usr/local/nvidia/lib:/usr/local/nvidia/lib64"


@pytest.mark.parametrize(
    ("theirs", "kept", "removed"),
    [
        (f"/usr/local/cuda/lib64:{DRIVER}", DRIVER, "/usr/local/cuda/lib64"),  # nvidia/cuda:devel
        (
            "/usr/local/cuda12.4/lib64:/opt/cuda_13/lib:/usr/local/cuda:/mine",
            "/mine",
            "/usr/local/cuda12.4/lib64, /opt/cuda_13/lib, /usr/local/cuda",
        ),
        (
            "/usr/local/cuda-12.4/targets/x86_64-linux/lib:/opt/cuda/extras/CUPTI/lib64",
            None,
            "/usr/local/cuda-12.4/targets/x86_64-linux/lib, /opt/cuda/extras/CUPTI/lib64",
        ),
        (
            "/venv/lib/python3.11/site-packages/nvidia/nccl/lib:/mine",
            "/mine",
            "/venv/lib/python3.11/site-packages/nvidia/nccl/lib",
        ),
        (
            "/home/me/compat/venv/lib/python3.12/site-packages/nvidia/nccl/lib:/opt/compat/nccl-2.19/lib:/mine",
            "/mine",
            "/home/me/compat/venv/lib/python3.12/site-packages/nvidia/nccl/lib, /opt/compat/nccl-2.19/lib",
        ),
        ("/opt/compat/../cuda/lib64", None, "/opt/compat/../cuda/lib64"),
        (
            "/opt/nccl/build/lib:/usr/local/cudnn-9.1/lib:/mine",
            "/mine",
            "/opt/nccl/build/lib, /usr/local/cudnn-9.1/lib",
        ),
        (
            "/opt/nccl_2.18.3-1+cuda12.1_x86_64/lib:/opt/cudnn-linux-x86_64-8.9.7.29_cuda12-archive/lib:/o/libcudnn8",
            None,
            "/opt/nccl_2.18.3-1+cuda12.1_x86_64/lib, /opt/cudnn-linux-x86_64-8.9.7.29_cuda12-archive/lib, /o/libcudnn8",
        ),
    ],
)
def test_vendor_libraries_of_the_image_are_left_out_and_named(theirs: str, kept: str | None, removed: str) -> None:
    setting = by_name({"LD_LIBRARY_PATH": theirs})["LD_LIBRARY_PATH"]
    assert (setting.value, setting.source) == (kept, SettingOrigin.PLUGIN)
    assert setting.reason.endswith(f"(removed: {removed})")
    assert apply({"LD_LIBRARY_PATH": theirs}, [setting]).get("LD_LIBRARY_PATH") == kept


@pytest.mark.parametrize(
    "theirs",
    [
        DRIVER,
        f"/usr/local/lib/python3.12/dist-packages/torch/lib:/usr/local/cuda/compat/lib:{DRIVER}",  # nvcr.io/pytorch
        "/usr/local/cuda-13.0/compat",
        "/usr/local/cuda//./lib64/../compat/lib.real",
        "/opt/nvidia/hpc_sdk/Linux_x86_64/25.1/cuda/12.6/compat",
        "/usr/local/cuda-samples/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/home/me/cuda/lib",
        "/home/u/nccl-tests/lib",
        "/home/u/nccl2-tests/lib",
        "/opt/cudnn-frontend-x",
        "/opt/aws-ofi-nccl/lib",
        "/opt/lib:",
        "",
    ],
)
def test_other_directories_stay(theirs: str) -> None:
    setting = by_name({"LD_LIBRARY_PATH": theirs})["LD_LIBRARY_PATH"]
    assert (setting.value, setting.source) == (theirs, SettingOrigin.USER)


def test_libraries_that_were_chosen_for_this_launch_stay() -> None:
    env = {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}
    setting = by_name(env, chosen=set(env))["LD_LIBRARY_PATH"]
    assert (setting.value, setting.source) == ("/usr/local/cuda/lib64", SettingOrigin.USER)


def test_the_older_name_of_the_ring_size_rules_the_newer_one() -> None:
    env = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "5000"}
    setting = by_name(env)["TORCH_FR_BUFFER_SIZE"]
    assert (setting.value, setting.source) == ("5000", SettingOrigin.USER)
    assert "TORCH_NCCL_TRACE_BUFFER_SIZE" in setting.reason
    both = {**env, "TORCH_FR_BUFFER_SIZE": "64"}
    assert by_name(both)["TORCH_FR_BUFFER_SIZE"].value == "64"


def test_other_variables_pass_untouched() -> None:
    assert apply({"PATH": "/bin"}, resolve({"PATH": "/bin"}, shape=H200X8))["PATH"] == "/bin"


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = sorted(
    {"TORCH_NCCL_TRACE_BUFFER_SIZE"}
    | {setting.name for shape in (H200X8, DRY_RUN) for setting in resolve({}, shape=shape)}
)
SHAPES = st.builds(
    LaunchShape,
    cuda=st.booleans(),
    ranks=st.integers(1, 64),
    cpus=st.integers(1, 512),
    cache_dir=st.just("/cache"),
    fsdp=st.booleans(),
    loopback=st.sampled_from(["lo", "lo0", None]),
)
VALUES = st.sampled_from(["", "0", "1", "DETAIL", "INFO", "off", "600"]) | st.text(max_size=8)
ENVIRONMENTS = st.dictionaries(st.sampled_from([*NAMES, "PATH", "HOME"]), VALUES)
CHOSEN = st.sets(st.sampled_from(contract.FABRIC_TUNING))


@patient
@given(ENVIRONMENTS, SHAPES, CHOSEN)
def test_a_users_value_wins_or_is_refused_or_its_removal_is_said(
    env: dict[str, str], shape: LaunchShape, chosen: set[str]
) -> None:
    for setting in resolve(env, shape=shape, chosen=chosen):
        assert setting.reason
        if setting.name not in env:
            assert setting.source is not SettingOrigin.REFUSED
        elif setting.name in contract.FABRIC_TUNING and setting.name not in chosen:
            assert setting.value is None
            assert repr(env[setting.name]) in setting.reason
        else:
            assert setting.value == env[setting.name]
            assert setting.source in (SettingOrigin.USER, SettingOrigin.REFUSED)


@patient
@given(ENVIRONMENTS, SHAPES, CHOSEN)
def test_applying_twice_is_applying_once(env: dict[str, str], shape: LaunchShape, chosen: set[str]) -> None:
    settings = resolve(env, shape=shape, chosen=chosen)
    assert len({setting.name for setting in settings}) == len(settings)
    if refusals(settings):
        with pytest.raises(contract.ContractRefused):
            apply(env, settings)
        return
    child = apply(env, settings)
    assert apply(child, settings) == child
    again = resolve(child, shape=shape, chosen=chosen)
    assert [(s.name, s.value) for s in again] == [(s.name, s.value) for s in settings]
    assert {name: value for name, value in child.items() if name not in NAMES} == {
        name: value for name, value in env.items() if name not in NAMES
    }


# -- the document ------------------------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "environment.md"
END_OF_TEXT = "tests/box/test_contract.py -->\n"
WHERE = {
    "on GPUs": (H200X8, replace(H200X8, cuda=False)),
    "in dry runs": (replace(H200X8, cuda=False), H200X8),
    "where a test shards": (H200X8, replace(H200X8, fsdp=False)),
    "with several ranks": (H200X8, replace(H200X8, ranks=1)),
}


def documented() -> str:
    """The table of all variables, as Markdown."""
    shape = replace(H200X8, cache_dir="CACHE")
    settings = by_name({}, replace(shape, cuda=False)) | by_name({}, shape)
    rows = [_row(setting) for setting in settings.values()]
    head = ("| variable | value | before | read by | why |", "|---|---|---|---|---|")
    return "\n".join(("", *head, *rows, ""))


def _row(setting: Setting) -> str:
    only = [
        w for w, (has, lacks) in WHERE.items() if setting.name in by_name({}, has).keys() - by_name({}, lacks).keys()
    ]
    if setting.name == contract.LIBRARY_PATH:
        return f"| `{setting.name}` | yours, filtered | {setting.phase} | {setting.read_by} | {setting.reason} |"
    value = "unset" if setting.value is None else f"`{setting.value}`" + "".join(f", {where}" for where in only)
    return f"| `{setting.name}` | {value} | {setting.phase} | {setting.read_by} | {setting.reason} |"


def test_the_document_says_what_the_table_says() -> None:
    text, end, table = DOCUMENT.read_text(encoding="utf-8").partition(END_OF_TEXT)
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        DOCUMENT.write_text(text + end + documented(), encoding="utf-8")
    assert table == documented()


def _installed(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


ROWS = [*(by_name({}, DRY_RUN) | by_name({})).values()]


@pytest.mark.parametrize("setting", [row for row in ROWS if "/" in row.read_by], ids=lambda row: row.name)
def test_a_file_that_is_said_to_read_a_variable_does(setting: Setting) -> None:
    package, _, file = setting.read_by.partition("/")
    root = _installed(package)
    if root is None:
        pytest.skip(f"{package} isn't installed")
    assert f'"{setting.name}"' in (root / file).read_text(encoding="utf-8")


def test_what_torch_s_library_is_said_to_read_stands_in_it() -> None:
    root = _installed("torch")
    assert root is not None
    with (root / "lib" / "libtorch_cpu.so").open("rb") as file:
        library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    names = [row.name for row in ROWS if row.read_by == "torch's C++ library"]
    assert len(names) == 3
    assert [name for name in names if library.find(f"\0{name}\0".encode()) < 0] == []

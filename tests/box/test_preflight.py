"""What the box is, and why a lane can't be run on it."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_megacpp.box.gpus.devices import Device, DeviceList, devices, parse_devices, visible_devices
from pytest_megacpp.box.gpus.fitness import Problem
from pytest_megacpp.box.host import preflight, survey
from pytest_megacpp.box.host.preflight import problems
from pytest_megacpp.box.host.survey import Survey, survey_host
from pytest_megacpp.recording.events import Json

H200 = "".join(f"{i}, NVIDIA H200, GPU-{i}7a1c4e2-0000-4a4a-8c8c-00000000000{i}, 143771, 570.86.15\n" for i in range(8))
MIXED = """\
0, NVIDIA H200, GPU-a0, 143771, 570.86.15
1, NVIDIA H100 80GB HBM3, GPU-a1, 81559, 570.86.15
"""
UNKNOWN_MEMORY = "0, NVIDIA GB10, GPU-c0, [N/A], 580.95.05\n"
WARNED = "WARNING: infoROM is corrupted at gpu 0000:19:00.0\n0, Tesla T4, GPU-b0, 15360, 535.129.03\n"


def device(name: str, memory_mib: int | None = None, index: int = 0) -> Device:
    return Device(index, name, f"GPU-{index}", memory_mib, "570.86.15")


def test_the_drivers_list_is_read() -> None:
    found = parse_devices(H200)
    assert [d.index for d in found] == list(range(8))
    assert found[3] == Device(3, "NVIDIA H200", "GPU-37a1c4e2-0000-4a4a-8c8c-000000000003", 143771, "570.86.15")


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (MIXED, ["NVIDIA H200", "NVIDIA H100 80GB HBM3"]),
        (UNKNOWN_MEMORY, ["NVIDIA GB10"]),
        (WARNED, ["Tesla T4"]),
        ("", []),
        ("No devices were found\n", []),
    ],
)
def test_odd_lists_are_read_too(output: str, names: list[str]) -> None:
    assert [d.name for d in parse_devices(output)] == names


def test_a_list_without_a_device_line_is_an_error() -> None:
    with pytest.raises(ValueError, match='Field "uuid" is not a valid field'):
        parse_devices('Field "uuid" is not a valid field to query.\n')


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_any_output_is_read_or_refused_as_a_value(output: str) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(d, Device) for d in parse_devices(output))


@pytest.mark.parametrize(
    ("visible", "indexes"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("2, 0", [2, 0]),
        ("GPU-37a1c4e2,1", [3, 1]),
        ("1,9,2", [1]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_only_visible_devices_count(visible: str | None, indexes: list[int]) -> None:
    assert [d.index for d in visible_devices(parse_devices(H200), visible)] == indexes


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_drivers_tool_is_asked() -> None:
    found = devices(command=python(f"print({MIXED!r})"), visible="1")
    assert [d.uuid for d in found.devices] == ["GPU-a1"]
    assert found.failure is None


def test_no_tool_means_no_devices() -> None:
    assert devices(command=["no-such-nvidia-smi"]) == DeviceList()


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (
            "import sys; print('cannot reach the driver'); sys.exit(9)",
            "exit status 9: cannot reach the driver",
        ),
        ("print('nonsense')", "could not be read: no device in 'nonsense'"),
        ("import signal; signal.pause()", "did not answer in 0.3 s"),
    ],
    ids=["fails", "nonsense", "stuck"],
)
def test_a_broken_tool_is_said_and_never_waited_for(code: str, failure: str) -> None:
    found = devices(command=python(code), deadline_s=0.3 if "pause" in code else 30)
    assert found.devices == ()
    assert found.failure is not None
    assert failure in found.failure


@pytest.mark.parametrize(
    ("requested", "name", "memory_mib", "fits"),
    [
        ("H200", "NVIDIA H200", 143771, True),
        ("H200:8", "NVIDIA H200", 143771, True),
        ("h200", "NVIDIA H200 NVL", 143771, True),
        ("H200", "NVIDIA GH200 480GB", 97871, False),
        ("H200", "NVIDIA H100 80GB HBM3", 81559, False),
        ("H100!", "NVIDIA H100 80GB HBM3", 81559, True),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB", 81920, True),
        ("A100-80GB", "NVIDIA A100-SXM4-40GB", 40960, False),
        ("A100-40GB", "NVIDIA A100-PCIE-40GB", 40960, True),
        ("A100", "NVIDIA A100 80GB PCIe", 81920, True),
        ("L4", "NVIDIA L40S", 46068, False),
        ("L40S", "NVIDIA L40S", 46068, True),
        ("A10", "NVIDIA A10G", 23028, True),
        ("T4", "Tesla T4", 15360, True),
        ("B200", "NVIDIA B200", 183359, True),
        ("B200+", "NVIDIA B300 SXM6 AC", 275040, True),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, True),
        ("A100-80GB", "NVIDIA A100 PG509", None, True),
        ("any", "Tesla T4", 15360, True),
        (None, "Tesla T4", 15360, True),
    ],
)
def test_device_types(requested: str | None, name: str, memory_mib: int | None, fits: bool) -> None:
    assert preflight.is_type(device(name, memory_mib), requested) is fits


GOOD_FACTS: dict[str, Json] = {"shm_bytes": 8 << 30, "free_disk_bytes": 8 << 30}


def box(
    devices: str = H200,
    facts: dict[str, Json] | None = None,
    torch: str | None = "2.13.0+cu130",
    pytest_version: str | None = "9.0.1",
    failure: str | None = None,
) -> Survey:
    versions = {"python": "3.12.1", "pytest": pytest_version, "torch": torch}
    installed = {name: version for name, version in versions.items() if version is not None}
    return Survey(installed, GOOD_FACTS | (facts or {}), DeviceList(parse_devices(devices), failure))


def found(survey: Survey, gpu: str | None = "H200", count: int = 8, dry_run: bool = False) -> tuple[Problem, ...]:
    return problems(survey, requested_gpu=gpu, requested_count=count, dry_run=dry_run)


def test_eight_h200_are_what_the_lane_asked_for() -> None:
    assert found(box()) == ()
    assert found(box(), count=2) == ()


@pytest.mark.parametrize(
    ("survey", "cause", "text"),
    [
        (
            box(torch=None),
            "torch",
            "torch is not installed here, and ranks need it: pip install 'pytest-megacpp[local]'",
        ),
        (box(pytest_version=None), "pytest", "pytest is not installed here, and ranks need it"),
        (box(pytest_version="7.4.0"), "pytest", "pytest 7.4.0 is not supported (at least 8.2): pip install"),
        (box(torch="2.4.1"), "torch", "torch 2.4.1 is not supported (at least 2.11, below 3.0)"),
        (box(torch="3.0.0"), "torch", "torch 3.0.0 is not supported"),
        (box(torch="odd"), "torch", "torch odd is not supported"),
        (box(devices=""), "devices", "the lane asked for 8 × H200; this box shows no devices. Use --dry-run"),
        (
            box(devices=H200.replace("7, ", "x, ", 1)),
            "devices",
            "the lane asked for 8 × H200; this box shows 7 × NVIDIA H200",
        ),
        (
            box(devices=H200.replace("5, NVIDIA H200", "5, NVIDIA H100 80GB HBM3")),
            "devices",
            "device 5 of 7 × NVIDIA H200, 1 × NVIDIA H100 80GB HBM3 is 'NVIDIA H100 80GB HBM3', 143771 MiB",
        ),
        (
            box(devices="", failure="nvidia-smi did not answer in 20 s"),
            "devices",
            "did not answer in 20 s); the lane asked",
        ),
        (
            box(facts={"shm_bytes": 64 << 20}),
            "shared-memory",
            "/dev/shm has 64 MiB, NCCL needs about 512 MiB for 8 ranks",
        ),
        (box(facts={"free_disk_bytes": 3 << 20}), "disk", "the disk is almost full: 3 MiB free"),
        (
            box(facts={"descriptors": 64}),
            "descriptors",
            "too few open files are allowed here: 64, and a box with 8 ranks needs 112. Raise the limit (ulimit",
        ),
    ],
)
def test_each_problem_is_said_with_its_remedy(survey: Survey, cause: str, text: str) -> None:
    (said,) = found(survey)
    assert said.cause == cause
    assert text in said.text


def test_too_few_and_wrong_devices_are_both_said() -> None:
    too_few, wrong = found(box(devices=MIXED))
    assert "this box shows 1 × NVIDIA H200, 1 × NVIDIA H100 80GB HBM3" in too_few.text
    assert "device 1" in wrong.text


def test_what_cannot_be_read_is_no_problem() -> None:
    assert found(box(facts={"shm_bytes": None, "free_disk_bytes": None, "descriptors": None})) == ()


def test_a_dry_run_needs_torch_and_disk_but_no_devices() -> None:
    bare = box(devices="", facts={"shm_bytes": 0}, failure="broken")
    assert found(bare, dry_run=True) == ()
    assert len(found(box(torch=None, facts={"free_disk_bytes": 0}), dry_run=True)) == 2
    assert [problem.cause for problem in found(box(facts={"descriptors": 100}), dry_run=True)] == ["descriptors"]


def test_this_machine_is_surveyed(tmp_path: Path) -> None:
    found = survey_host(tmp_path / "not" / "there" / "yet")
    assert {"python", "pytest"} <= set(found.versions)
    assert json.loads(json.dumps(found.facts)) == found.facts
    for name in ("cpus", "memory_bytes", "free_disk_bytes"):
        value = found.facts[name]
        assert isinstance(value, int)
        assert value > 0
    assert survey_host(tmp_path, list_devices=False).devices == DeviceList()


@pytest.mark.parametrize(
    ("source", "cuda"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        ("cuda = '12.4'\n", "12.4"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", None),
        ("", None),
    ],
)
def test_the_cuda_that_torch_was_built_for_is_read(
    source: str, cuda: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (tmp_path / "torch" / "version.py").write_text(source)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert survey.versions().get("cuda") == cuda


def test_surveying_does_not_import_torch() -> None:
    code = (
        "import sys, pathlib; from pytest_megacpp.box.host import contract, survey; "
        "from pytest_megacpp.box.worlds import torchrun_env; "
        "survey.survey_host(pathlib.Path('.')); sys.exit('torch' in sys.modules)"
    )
    root = Path(preflight.__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60).returncode == 0

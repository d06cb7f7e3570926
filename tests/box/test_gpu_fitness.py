"""Which GPUs a lane may not run on, and which may, whatever happened to them before."""

from dataclasses import replace

import pytest

from pytest_megacpp.box.gpus.fitness import cuda_problems, gpu_problems, odd_ones_out
from pytest_megacpp.box.gpus.survey import GpuProcess, GpuState, GpuSurvey, Links

SOUND = GpuState(
    uuid="GPU-a0",
    bus_id="00000000:19:00.0",
    memory_mib=143771,
    used_mib=602,
    ecc=True,
    uncorrected=0,
    uncorrected_ever=4,
    remap_pending=False,
    remap_failed=False,
    mig=False,
    compute_mode="Default",
    recovery="None",
    fabric="Completed",
)
PYTHON = GpuProcess(4711, "C", "python3", 61500)
XORG = GpuProcess(12, "G", "Xorg", 20000)


def mesh(size: int, usual: str = "NV18", **other: str) -> list[list[str]]:
    """`other`: `_3="SYS"` is how GPU 3 reaches everybody."""
    ways = {int(name[1:]): how for name, how in other.items()}
    return [["X" if a == b else ways.get(a, ways.get(b, usual)) for b in range(size)] for a in range(size)]


def causes(*states: GpuState, **survey: object) -> list[str]:
    said = GpuSurvey("570.86.15", "12.8", states)
    return [p.cause for p in gpu_problems(replace(said, **survey), [s.uuid for s in states])]  # type: ignore[arg-type]


def test_a_sound_gpu_has_no_problem() -> None:
    assert causes(SOUND) == []
    assert causes(GpuState("GPU-a0", "00000000:19:00.0")) == []


@pytest.mark.parametrize(
    ("change", "cause", "text"),
    [
        ({"recovery": "Reset"}, "health", "the driver asks for 'Reset' of GPU 0 (00000000:19:00.0)"),
        ({"remap_pending": True}, "health", "reset it (nvidia-smi -r)"),
        ({"remap_failed": True, "remap_pending": True}, "health", "it needs to be replaced"),
        ({"fabric": "In Progress"}, "fabric", "is 'In Progress': is nvidia-fabricmanager running?"),
        ({"mig": True}, "mig", "nvidia-smi -mig 0"),
        ({"compute_mode": "Prohibited"}, "compute-mode", "nvidia-smi -c DEFAULT"),
        ({"used_mib": 62110, "processes": (PYTHON, XORG)}, "busy", "taken by python3 (pid 4711). End them"),
        ({"used_mib": 62110}, "busy", "taken by processes that can't be seen from here"),
        ({"used_mib": 90000, "processes": (PYTHON,) * 5}, "busy", "python3 (pid 4711) and 2 more"),
    ],
)
def test_what_a_driver_says_plainly_is_a_problem(change: dict[str, object], cause: str, text: str) -> None:
    state = replace(SOUND, **change)  # type: ignore[arg-type]
    (problem,) = gpu_problems(GpuSurvey("570", "12.8", (state,)), ["GPU-a0"])
    assert problem.cause == cause
    assert text in problem.text


@pytest.mark.parametrize(
    "change",
    [
        {"uncorrected": 3, "uncorrected_ever": 9},
        {"used_mib": 62110, "processes": (XORG,)},
        {"used_mib": 4000, "processes": (PYTHON,)},
        {"used_mib": None, "memory_mib": None, "processes": (PYTHON,)},
        {"compute_mode": "Exclusive_Process"},
        {"fabric": None},
        {"recovery": None},
    ],
)
def test_what_does_not_keep_a_test_from_running_is_none(change: dict[str, object]) -> None:
    assert causes(replace(SOUND, **change)) == []  # type: ignore[arg-type]


def test_other_gpus_of_the_machine_do_not_matter() -> None:
    ill = replace(SOUND, uuid="GPU-a1", remap_failed=True)
    assert list(gpu_problems(GpuSurvey(None, None, (SOUND, ill)), ["GPU-a0"])) == []


@pytest.mark.parametrize(
    ("matrix", "odd"),
    [
        (mesh(8), []),
        (mesh(8, _5="SYS"), [5]),
        (mesh(8, _5="NV17", _6="PHB"), [5, 6]),
        (mesh(8, "PIX"), []),
        (mesh(2, "SYS"), []),
        (
            [
                ["X", "NV4", "SYS", "SYS"],
                ["NV4", "X", "SYS", "SYS"],
                ["SYS", "SYS", "X", "PIX"],
                ["SYS", "SYS", "PIX", "X"],
            ],
            [],
        ),
        (mesh(4, _0="SYS"), [0]),
        ([], []),
    ],
    ids=["whole", "one-lost", "two-degraded", "no-nvlink", "pair", "bridged-pair", "first-lost", "none"],
)
def test_only_the_odd_ones_of_a_mesh_stand_out(matrix: list[list[str]], odd: list[int]) -> None:
    assert odd_ones_out(matrix)[0] == odd


def test_a_lost_nvlink_names_the_rank_not_the_machines_number() -> None:
    states = tuple(replace(SOUND, uuid=f"GPU-a{i}") for i in range(8))
    survey = GpuSurvey(None, None, states, tuple(map(tuple, mesh(8, _6="SYS"))), links=(Links("GPU-a6", 0, 18, None),))
    (problem,) = gpu_problems(survey, [f"GPU-a{i}" for i in (4, 5, 6, 7)])
    assert problem.cause == "nvlink"
    assert "GPU 2 is not connected to the others as they are among each other (NV18), 0 of its 18" in problem.text
    assert list(gpu_problems(survey, [f"GPU-a{i}" for i in (0, 1, 2, 3)])) == []


@pytest.mark.parametrize(
    ("built_for", "driver_cuda", "compat", "wrong"),
    [
        ("13.0", "12.8", False, True),
        ("13.0", "12.8", True, False),
        ("12.9", "12.2", False, False),
        ("12.4", "13.0", False, False),
        (None, "12.2", False, False),
        ("13.0", None, False, False),
    ],
)
def test_a_driver_must_know_the_cuda_of_torch(
    built_for: str | None, driver_cuda: str | None, compat: bool, wrong: bool
) -> None:
    found = list(cuda_problems(built_for, GpuSurvey("550.54", driver_cuda), compat=compat))
    assert [p.cause for p in found] == (["driver"] if wrong else [])

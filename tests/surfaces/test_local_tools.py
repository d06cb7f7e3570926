"""What `megacpp doctor` begins with on this machine."""

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.box.gpus.devices import Device, DeviceList
from pytest_megacpp.box.host.survey import Survey, survey_host
from pytest_megacpp.desk.config.lanes import read_lanes
from pytest_megacpp.surfaces.local import doctor, tools


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Packages and programs that aren't there."""
    names = set[str]()
    version, which = importlib.metadata.version, shutil.which

    def version_of(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name) if name != "triton" else "3.7.1"

    def where(name: str, **options: Any) -> str | None:
        return None if name in names else f"/usr/bin/{name}" if name in ("g++", "py-spy") else which(name, **options)

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    monkeypatch.setattr(shutil, "which", where)
    return names


def lines(environment: dict[str, str] | None = None) -> Iterator[str]:
    options: Any = SimpleNamespace(lane_dir=Path("/tmp"), environment=environment or {}, tables={})
    return doctor.LocalExamination(options, tuple(read_lanes({}).values())).lines()


def first_part(environment: dict[str, str] | None = None) -> list[str]:
    found: list[str] = []
    for line in lines(environment):
        if not line:
            return found
        found.append(line)
    return found


def test_nothing_is_missing(absent: set[str]) -> None:
    assert first_part() == ["wrong or missing", "  nothing that ranks need or use on this machine"]


@pytest.mark.parametrize(
    ("name", "lost", "remedy"),
    [
        ("numpy", "all_gather_object", "pip install numpy"),
        ("triton", "kernels written in Triton", "pip install triton"),
        ("py-spy", "no stack of a rank that holds its interpreter lock", "pip install py-spy"),
        ("g++", "torch.compile fails where it compiles for the CPU", "apt-get install g++"),
        ("torch", "ranks need it", "pip install 'pytest-megacpp[local]'"),
    ],
)
def test_what_is_missing_comes_first_with_what_follows_and_what_fixes_it(
    absent: set[str], name: str, lost: str, remedy: str
) -> None:
    absent.update({name, *(("clang++", "c++") if name == "g++" else ())})
    title, *said = first_part()
    assert title == "wrong or missing"
    text = " ".join(line.strip() for line in said)
    assert lost in text
    assert remedy in text
    assert text.count("is not installed") == 1


def test_a_compiler_is_the_one_that_ranks_get(absent: set[str]) -> None:
    """Of the configured environment, too."""
    absent.add("/opt/c++17")
    text = "\n".join(first_part({"CXX": "/opt/c++17"}))
    assert "C++ compiler is not installed" in text


def test_triton_matters_more_with_gpus(absent: set[str]) -> None:
    absent.add("triton")
    of_gpus, of_none = (
        next(tool for tool in tools.tools({}, gpus=gpus) if tool.name == "triton").lost for gpus in (True, False)
    )
    assert "torch.compile fails on a GPU" in of_gpus
    assert "torch.compile" not in of_none


def test_what_is_wrong_with_gpus_is_wrong_here(absent: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_gpu(directory: Path) -> Survey:
        found = DeviceList((Device(0, "NVIDIA H200", "GPU-1", 143_000, "580"),))
        seen = survey_host(directory)
        return dataclasses.replace(seen, devices=found, facts={**seen.facts, "shm_bytes": 1 << 20})

    monkeypatch.setattr(doctor, "survey_host", with_a_gpu)
    assert any("too little shared memory" in line for line in first_part())

"""Which builds are found, what is said where there is none, and that CI is not green without one."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.gvisor import builds, running
from tests.gvisor.builds import Build, Unusable
from tests.gvisor.conftest import unavailable
from tests.gvisor.sandbox import Files, Job

MADISON = """\
     runsc | 0.0~20240729.0-4~bpo12+2 | http://deb.debian.org/debian bookworm-backports/main amd64 Packages
     runsc | 0.0~20221219.0-2+b3 | http://deb.debian.org/debian bookworm/main amd64 Packages
     runsc | 0.0~20221219.0-2+b3 | http://mirror.example/debian bookworm/main amd64 Packages
golang-gvisor | 0.0~20221219.0-2 | http://deb.debian.org/debian bookworm/main Sources
"""


def program(directory: Path, version: str) -> Path:
    path = directory / "runsc"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho runsc version {version}\necho spec: 1.0.2-dev\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The installed build is of 2022-12; the same and one of 2024-07 are unpacked."""
    monkeypatch.setattr(builds, "UNPACKED", tmp_path / "unpacked")
    program(tmp_path / "unpacked" / "a" / "usr" / "bin", "0.0~20221219.0")
    program(tmp_path / "unpacked" / "b" / "usr" / "bin", "0.0~20240729.0")
    return {"PATH": str(program(tmp_path / "bin", "0.0~20221219.0").parent)}


def test_versions_that_apt_offers() -> None:
    assert list(builds.versions_in(MADISON)) == ["0.0~20240729.0-4~bpo12+2", "0.0~20221219.0-2+b3"]


@pytest.mark.parametrize(
    ("version", "month"), [("0.0~20221219.0", "2022-12"), ("release-20260821.0", "2026-08"), ("HEAD", "HEAD")]
)
def test_a_build_is_named_by_its_month(version: str, month: str) -> None:
    assert Build(Path("runsc"), version).month == month


def test_the_installed_build_is_the_default(machine: Mapping[str, str], tmp_path: Path) -> None:
    assert builds.found(environment=machine) == [Build(tmp_path / "bin" / "runsc", "0.0~20221219.0")]


def test_all_builds_once_each(machine: Mapping[str, str], tmp_path: Path) -> None:
    found = builds.found(environment={**machine, "RUNSC": "all"})
    assert [(build.month, build.path.parent.name) for build in found] == [("2022-12", "bin"), ("2024-07", "bin")]
    assert found[0].path == tmp_path / "bin" / "runsc"


def test_one_by_its_path(machine: Mapping[str, str], tmp_path: Path) -> None:
    path = tmp_path / "unpacked" / "b" / "usr" / "bin" / "runsc"
    assert [build.month for build in builds.found(str(path), machine)] == ["2024-07"]


@pytest.mark.parametrize("choice", ["", "all", "/no/such/runsc"])
def test_none_is_an_error_that_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setattr(builds, "UNPACKED", tmp_path)
    with pytest.raises(Unusable, match="apt-get install runsc"):
        builds.found(choice, {"PATH": str(tmp_path)})


def test_a_missing_build_fails_in_ci_and_skips_elsewhere() -> None:
    with pytest.raises(pytest.fail.Exception, match="there is no runsc"):
        unavailable("there is no runsc", in_ci=True)
    with pytest.raises(pytest.skip.Exception, match="there is no runsc"):
        unavailable("there is no runsc", in_ci=False)


def test_a_sandbox_that_does_not_start_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with (
        pytest.raises(OSError, match="no more processes"),
        running.sandboxed(Build(Path("runsc"), "0.0~20221219.0"), Job(["true"], {}, "/"), Files()),
    ):
        pytest.fail("it started")
    assert list(tmp_path.iterdir()) == []

"""Far machines. What is missing fails these tests in CI and skips them elsewhere, with what to install."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.far.machines import Machine, Unusable, slurm, sshd
from tests.plugin.project import Project


def unavailable(why: str) -> NoReturn:
    """CI must not be green because it tried nothing."""
    if os.environ.get("CI"):
        pytest.fail(f"there is no far machine: {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One behind ssh."""
    try:
        with sshd(tmp_path_factory.mktemp("sshd")) as machine:
            yield machine
    except Unusable as e:
        unavailable(str(e))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A node of a Slurm cluster."""
    try:
        with slurm(tmp_path_factory.mktemp("slurm")) as machine:
            yield machine
    except Unusable as e:
        unavailable(str(e))


@pytest.fixture(scope="session")
def container(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """What a container is to its processes: the far program is the first of them, and its end is theirs."""
    words = ("unshare", "--fork", "--pid", "--mount-proc")
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        unavailable(f"no namespace of processes can be made: {e}")
    cache = tmp_path_factory.mktemp("container") / "cache"
    return Machine(("env", f"XDG_CACHE_HOME={cache}", *words), cache)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")

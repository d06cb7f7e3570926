"""Hypothesis on a machine that others use too: no deadline, and a slow draw is no failure. One emulator of Modal for
all tests of a process, since the client keeps one connection per process; no test finds a developer's own credentials.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy  # noqa: F401 (a run inside this process drops what it imported, and numpy can't be loaded twice)
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.modal_emulator import Emulator

settings.register_profile("shared", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(scope="session", autouse=True)
def no_credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`--surface auto` must not spend anybody's money."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_PROFILE"):
            patch.delenv(name, raising=False)
        patch.setenv("MODAL_CONFIG_PATH", str(tmp_path_factory.mktemp("home") / "modal.toml"))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests compile is nothing for a developer's own runs to begin with, and the other way round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_bytecode() -> Iterator[None]:
    """Sessions that tests start keep the bytecode that pytest makes of the plugin's modules, whatever the machine's
    environment says: each of them takes about two seconds to make it anew.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_interpreter() -> Iterator[None]:
    """A hash seed of the user's makes ranks come from one interpreter: each box imports torch once, not twice. That
    there are two by default is what tests/plugin/test_environment.py and the drills see.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "1")
        yield


@pytest.fixture(scope="session")
def shared_emulator(no_credentials: None) -> "Iterator[Emulator]":
    pytest.importorskip("modal", reason="the modal client isn't installed: pip install -e '.[test]'")
    from tests.modal_emulator import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(shared_emulator: "Emulator", monkeypatch: pytest.MonkeyPatch) -> "Iterator[Emulator]":
    """Without faults, before and after; no sandbox outlives its test."""
    for name, value in shared_emulator.environment.items():
        monkeypatch.setenv(name, value)
    yield shared_emulator
    shared_emulator.reset()

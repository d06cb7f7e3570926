"""One emulator for all tests of this directory: the client keeps one connection per process."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("modal", reason="the modal client isn't installed: pip install -e '.[test]'")

if TYPE_CHECKING:
    from tests.modal_emulator import Emulator


@pytest.fixture(scope="session")
def shared_emulator() -> "Iterator[Emulator]":
    from tests.modal_emulator import Emulator

    with Emulator() as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment.items():
            patch.setenv(name, value)
        yield emulator


@pytest.fixture
def emulator(shared_emulator: "Emulator") -> "Iterator[Emulator]":
    """Without faults, before and after; no sandbox outlives its test."""
    yield shared_emulator
    shared_emulator.reset()

"""Which kernels are taken for gVisor's, and which aren't."""

from pathlib import Path

import pytest

from pytest_megacpp.box.host import kernel_identity
from pytest_megacpp.box.host.kernel_identity import BUILT, GREETING, names_gvisor

LINUX_LOG = "[    0.000000] Linux version 6.12.0 (gcc)\n[   12.000000] runsc: Starting gVisor...\n"


@pytest.mark.parametrize(
    ("release", "version", "log"),
    [
        ("4.19.0-gvisor", "#1 SMP", ""),
        ("4.4.0", BUILT, ""),
        ("4.4.0", "#1 SMP", f"{GREETING}...\n[    0.2] Gathering forks...\n"),
    ],
    ids=["release", "built", "log"],
)
def test_one_witness_is_enough(tmp_path: Path, release: str, version: str, log: str) -> None:
    assert names_gvisor(release, version, tmp_path, lambda: log)


def test_a_file_that_only_its_proc_has(tmp_path: Path) -> None:
    (tmp_path / "sentry-meminfo").touch()
    assert names_gvisor("4.4.0", "#1 SMP", tmp_path, lambda: "")


@pytest.mark.parametrize("log", ["", LINUX_LOG])
def test_a_linux_is_none_even_where_its_log_speaks_of_gvisor(tmp_path: Path, log: str) -> None:
    assert not names_gvisor("6.12.0-cloud", "#1 SMP PREEMPT_DYNAMIC", tmp_path, lambda: log)


def test_a_refused_log_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        @staticmethod
        def klogctl(*_: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda _: Refusing)
    assert kernel_identity.kernel_log_head() == ""

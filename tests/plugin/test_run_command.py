"""`megacpp run`: the exit code says whether the code under test is to blame. Nothing here starts a box."""

from pathlib import Path

import pytest

from tests.plugin.gated import GATE, Gated
from tests.plugin.project import DRY, LANE

PASSED, FAILED, UNTESTED = 0, 1, 2


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path / "project")


def test_a_gate_that_needs_nothing_passes(gated: Gated) -> None:
    gated.write("README.md", "changed")
    ran = gated.megacpp("run", *GATE)
    assert ran.code == PASSED
    assert "megacpp run: passed" in ran.text
    shown = gated.megacpp("show")
    assert shown.code == 0
    assert "rule kernels: not triggered: no file that it watches changed" in shown.text


def test_a_gate_that_is_not_complete_fails(gated: Gated) -> None:
    gated.write("kernels/rms.py", "changed")
    ran = gated.megacpp("run", *GATE, "-k", "one")
    assert ran.code == FAILED
    assert "megacpp run: failed: suites/kernels/test_rms.py::test_two was guarded by a triggered rule" in ran.text
    shown = gated.megacpp("show")
    assert shown.code == FAILED
    assert "test_two was guarded by a triggered rule" in shown.text


def test_a_blocked_run_tested_nothing(gated: Gated) -> None:
    gated.write("kernels/rms.py", "changed")
    ran = gated.megacpp("run", "-m", "h200x8", "--surface", "local", "--gate-since", "main")
    assert ran.code == UNTESTED
    assert "megacpp run: untested: what failed was not the code under test" in ran.text


def test_a_file_that_does_not_import_failed(gated: Gated) -> None:
    gated.write("suites/kernels/test_rms.py", "import no_such_module\n")
    assert gated.megacpp("run", *LANE).code == FAILED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tests",), "no lane was asked for; add -m LANE or --surface"),
        ((*LANE, "tests"), "no test was selected"),
        ((*LANE, "--collect-only", "suites"), "no lane test was run"),
        ((*DRY, "tests"), "no lane test was run"),
        ((*LANE, "--no-such-option"), "pytest refused to start"),
        ((*LANE, "--gate-since", "nonsense"), "pytest refused to start"),
    ],
)
def test_what_tests_nothing_is_no_success(gated: Gated, arguments: tuple[str, ...], said: str) -> None:
    ran = gated.megacpp("run", *arguments)
    assert (ran.code, f"megacpp run: untested: {said}" in ran.text) == (UNTESTED, True)

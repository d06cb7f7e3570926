"""The board of real sessions, on a terminal."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.plugin.project import Desk, Project
from tests.terminal import Terminal

LANE = ("-m", "h200x8", "--surface", "local", "--dry-run")
TESTS = """
    import time

    import pytest
    import torch
    import torch.distributed as dist

    @pytest.mark.h200x8(ranks=3, test=60)
    def test_first(modal_h200x8):
        pass

    @pytest.mark.h200x8(ranks=3, stall=60, test=60)
    def test_straggler(modal_h200x8):
        dist.barrier()  # so that the others come at the same time
        if modal_h200x8.rank == 1:
            time.sleep(SECONDS)
        dist.all_reduce(torch.ones(3))

    @pytest.mark.h200x8(ranks=3, test=60)
    def test_red(modal_h200x8):
        assert modal_h200x8.rank != 2, "on purpose"

    @pytest.mark.h200x8(ranks=3, test=60)
    def test_last(modal_h200x8):
        pass
"""
TERM = {"TERM": "xterm-256color"}
BOARD = re.compile(r"^h200x8 [0-4]/4 tests · ")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write("test_it.py", TESTS.replace("SECONDS", "3"))
    return project


@contextmanager
def session(
    project: Project, columns: int, lines: int, *args: str, script: str = ""
) -> Iterator[tuple[Desk, Terminal]]:
    with Terminal(columns, lines) as terminal:
        before = terminal.attributes()
        with project.start(*LANE, *args, env=TERM, terminal=terminal, script=script) as desk:
            yield desk, terminal
            desk.wait()
            desk.assert_nothing_left()
            assert terminal.attributes() == before
        terminal.close()
        assert not terminal.is_cursor_hidden
        assert b"\x1b[?" not in terminal.raw  # no mode is set that an end in the middle would leave
        assert not [line for line in terminal.everything() if BOARD.match(line) or line.startswith("> ")]


def shown(terminal: Terminal, pattern: str) -> bool:
    """Whether a row of some moment was this, on a screen that has the board's first row above it."""
    rows = (line for screen in terminal.seen if any(map(BOARD.match, screen)) for line in screen)
    return any(re.search(pattern, row) for row in rows)


def test_at_eighty_columns(project: Project) -> None:
    with session(project, 80, 24) as (desk, terminal):
        pass
    assert desk.child.returncode == 1
    text = [line for line in terminal.everything() if line]
    assert "test_it.py ..F.                                                          [100%]" in text
    assert any(line.startswith("=") and " FAILURES " in line for line in text)
    assert any(line.startswith("FAILED test_it.py::test_red - test-failed") for line in text)
    assert any(re.search(r"=+ 1 failed, 3 passed in ", line) for line in text)
    assert shown(terminal, r"^h200x8 1/4 tests · 0:\d\d")
    assert shown(terminal, r"^0:0\d  test_it\.py::test_straggler · 0:5\d of limit (stall|test) left$")
    assert shown(terminal, r"^  ranks 0,2 have waited [1-4] s for rank 1, which is at test_at_eighty_col")
    assert shown(terminal, r"^>   1  at \S+test_it\.py:16$")
    assert shown(terminal, r"^  0,2  waiting in all_reduce #2 for rank 1$")
    assert not [line for line in text if "have waited" in line]


def test_on_a_narrow_and_low_terminal(project: Project) -> None:
    """No row is wrapped, and results scroll as ever."""
    with session(project, 44, 7, "-x", "--tb=no") as (desk, terminal):
        pass
    assert desk.child.returncode == 1
    text = [line for line in terminal.everything() if line]
    assert any(line.startswith("test_it.py ..F") for line in text)
    assert any(re.search(r"1 failed, 2 passed", line) for line in text)
    assert shown(terminal, r"^  ranks 0,2 have waited \d s for rank 1, w\w*…$")


def test_with_names_of_tests(project: Project) -> None:
    with session(project, 120, 40, "-v", "--tb=no") as (_, terminal):
        pass
    text = [line for line in terminal.everything() if line]
    for name, word in (("first", "PASSED"), ("straggler", "PASSED"), ("red", "FAILED"), ("last", "PASSED")):
        assert sum(bool(re.match(rf"test_it\.py::test_{name} {word} +\[ *\d+%\]$", line)) for line in text) == 1
    assert shown(terminal, r"^  ranks 0,2 have waited ")


def test_a_quiet_session_has_lines(project: Project) -> None:
    with session(project, 120, 24, "-q", "--lane-heartbeat", "1") as (_, terminal):
        pass
    text = terminal.everything()
    assert any(re.match(r"megacpp: \d/4 tests · ", line) for line in text)
    assert not shown(terminal, "")


def test_ctrl_c_in_the_middle(project: Project) -> None:
    project.write("test_it.py", TESTS.replace("SECONDS", "50"))
    with session(project, 80, 24) as (desk, terminal):
        desk.wait_until(lambda: shown(terminal, r"have waited"))
        desk.child.send_signal(signal.SIGINT)
    assert desk.child.returncode == 2
    text = [line for line in terminal.everything() if line]
    assert "test_it.py .^C" in text or "test_it.py ." in text
    assert any("KeyboardInterrupt" in line for line in text)
    assert any(re.search(r"=+ 1 passed in ", line) for line in text)


SHELL = '"$@"; echo "[$(jobs -r | wc -l) run]"; echo "$ fg"; read -r; fg > /dev/null'


@pytest.mark.parametrize("args", [(), ("-v",)], ids=["short", "names"])
def test_ctrl_z_and_back(project: Project, args: tuple[str, ...]) -> None:
    """The shell writes below pytest's line, on a screen without a board, and results go on with the name of their file
    in front.
    """
    project.write("test_it.py", TESTS.replace("SECONDS", "8"))
    with session(project, 80, 24, "--tb=no", *args, script=SHELL) as (desk, terminal):
        desk.wait_until(lambda: shown(terminal, r"have waited"))
        terminal.types(b"\x1a")
        desk.wait_until(lambda: terminal.has_seen(lambda screen: "$ fg" in screen))
        stopped = terminal.screen()
        before = len(terminal.seen)
        terminal.types(b"\n")
        desk.wait_until(lambda: any(any(map(BOARD.match, screen)) for screen in terminal.seen[before:]))
    assert desk.child.returncode == 1
    assert not [line for line in stopped if BOARD.match(line) or "have waited" in line]
    at = stopped.index("[0 run]")
    begun = "test_it.py::test_straggler" if args else "test_it.py ."
    above = [line for line in stopped[:at] if line and "Stopped" not in line]
    assert above[-1].startswith(begun)
    text = terminal.everything()
    after = [line for line in text[text.index("$ fg") + 1 :] if line]
    assert re.match(
        r"test_it\.py::test_straggler PASSED +\[ *50%\]$" if args else r"test_it\.py \.F\. +\[100%\]$", after[0]
    )

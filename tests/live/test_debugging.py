"""A debugger in one rank, through the terminal of the desk: what somebody types and sees there."""

import signal
from collections.abc import Callable

import pytest

from tests.plugin.project import LANE, Desk, Project, Ran
from tests.terminal import Terminal

SUITE = """
    import time
    import pytest
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2)

    def test_stops(modal_h200x8):
        answer = 40 + modal_h200x8.rank
        breakpoint()
        dist.barrier()
        assert answer in (42, 41)

    def test_after_it(modal_h200x8):
        dist.barrier()
"""
FAILING = """
    import pytest
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2)

    def test_fails(modal_h200x8):
        answer = 40 + modal_h200x8.rank
        if modal_h200x8.rank == 1:
            raise ValueError(answer)
        dist.barrier()

    def test_after_it(): pass
"""
SHORT = ("--lane-limit", "stall=1", "--lane-limit", "skew=1", "--lane-limit", "test=30", "--lane-limit", "run=40")
PROMPT = "(Pdb)"


def sees(terminal: Terminal, text: str) -> Callable[[], bool]:
    return lambda: any(text in line for line in terminal.everything())


def at_prompt(desk: Desk, terminal: Terminal, times: int) -> None:
    """Waits until there have been so many prompts."""
    desk.wait_until(lambda: sum(line.startswith(PROMPT) for line in terminal.everything()) >= times)


def ended(desk: Desk, terminal: Terminal) -> Ran:
    ran = desk.ran()
    terminal.close()
    return ran


def shown(terminal: Terminal) -> str:
    return "\n".join(terminal.everything())


def test_a_breakpoint_has_the_terminal_and_no_limit_runs(project: Project) -> None:
    """Rank 1 waits for longer than the stall limit while somebody talks to rank 0."""
    project.write("test_it.py", SUITE)
    with Terminal(100, 40) as terminal, project.start(*LANE, *SHORT, "--pdb-rank", "0", terminal=terminal) as desk:
        at_prompt(desk, terminal, 1)
        terminal.types(b"import time; time.sleep(3)\n")
        at_prompt(desk, terminal, 2)
        terminal.types(b"print('it is', answer)\n")
        desk.wait_until(sees(terminal, "it is 40"))
        terminal.types(b"answer = 42\n")
        at_prompt(desk, terminal, 4)
        terminal.types(b"c\n")
        ran = ended(desk, terminal)
    assert ran.outcomes() == {"test_stops": "passed", "test_after_it": "passed"}, shown(terminal)
    assert ran.code == pytest.ExitCode.OK
    assert "-> dist.barrier()" in shown(terminal) or "-> breakpoint()" in shown(terminal)


def test_ctrl_c_is_for_the_debugger(project: Project) -> None:
    project.write("test_it.py", SUITE.replace("(42, 41)", "(40, 41)"))
    with Terminal(100, 40) as terminal, project.start(*LANE, "--pdb-rank", "0", terminal=terminal) as desk:
        at_prompt(desk, terminal, 1)
        terminal.types(b"import time; time.sleep(600)\n")
        desk.wait_until(sees(terminal, "sleep(600)"))
        desk.child.send_signal(signal.SIGINT)
        at_prompt(desk, terminal, 2)
        terminal.types(b"c\n")
        ran = ended(desk, terminal)
    assert ran.outcomes() == {"test_stops": "passed", "test_after_it": "passed"}, shown(terminal)


def test_a_failure_opens_it_and_quitting_ends_the_session(project: Project) -> None:
    project.write("test_it.py", FAILING)
    arguments = (*LANE, *SHORT, "--pdb", "--pdb-rank", "1")
    with Terminal(100, 40) as terminal, project.start(*arguments, terminal=terminal) as desk:
        at_prompt(desk, terminal, 1)
        terminal.types(b"print('it was', answer)\n")
        desk.wait_until(sees(terminal, "it was 41"))
        terminal.types(b"q\n")
        ran = ended(desk, terminal)
    assert ran.outcomes() == {"test_fails": "failed"}, shown(terminal)
    assert ran.verdict("test_fails")["blamed_ranks"] == [1]
    assert "rank 1 raised ValueError: 41" in ran.failure("test_fails")
    assert ran.code == pytest.ExitCode.INTERRUPTED
    assert "Quitting debugger" in shown(terminal)


def test_a_rank_that_dies_in_the_debugger_gives_the_terminal_back(project: Project) -> None:
    project.write("test_it.py", SUITE)
    with Terminal(100, 40) as terminal, project.start(*LANE, "--pdb-rank", "0", terminal=terminal) as desk:
        before = terminal.attributes()
        at_prompt(desk, terminal, 1)
        terminal.types(b"import os; os._exit(3)\n")
        ran = desk.ran()
        assert terminal.attributes() == before
        terminal.close()
    assert ran.outcomes() == {"test_stops": "failed", "test_after_it": "passed"}, shown(terminal)
    assert ran.verdict("test_stops")["code"] == "rank-death"


def test_a_breakpoint_without_a_terminal_says_what_to_do(project: Project) -> None:
    project.write("test_it.py", SUITE)
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_stops": "failed", "test_after_it": "passed"}
    assert "--surface local --pdb-rank 0 opens it in rank 0" in ran.failure("test_stops").splitlines()[0]


def test_pdb_alone_is_for_tests_of_the_desk(project: Project) -> None:
    project.write("test_it.py", FAILING)
    ran = project.pytest(*LANE, "--pdb")
    assert ran.outcomes() == {"test_fails": "failed", "test_after_it": "passed"}
    assert "megacpp: --pdb opens no debugger for lane tests, which run in ranks" in ran.text
    assert "entering PDB" not in ran.text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((*LANE, "--pdb-rank", "0"), "this session has no terminal to hand over"),
        ((*LANE, "--pdb-rank", "2"), "no selected test has rank 2: the largest has 2"),
        ((*LANE, "--pdb-rank", "-1"), "the rank must be a whole number of at least 0"),
        (("-m", "h200x8", "--surface", "modal", "--pdb-rank", "0"), "ranks on Modal have no terminal"),
    ],
)
def test_where_there_can_be_none_nothing_is_started(project: Project, arguments: tuple[str, ...], why: str) -> None:
    project.write("test_it.py", SUITE)
    ran = project.pytest(*arguments, env={"MODAL_TOKEN_ID": "ak-x", "MODAL_TOKEN_SECRET": "as-x"})
    assert ran.code == pytest.ExitCode.USAGE_ERROR, ran.text
    assert why in ran.text
    assert project.runs() == []

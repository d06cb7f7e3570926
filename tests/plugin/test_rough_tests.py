"""Tests that fork, flood, interrupt, or fail twice, under `filterwarnings = error`: nothing hangs or is lost."""

from pathlib import Path

import pytest

from tests.plugin.project import LANE, Project, Ran

ROUGH = """
    import os
    import signal
    import sys
    import time
    import pytest
    import torch.distributed as dist

    pytestmark = pytest.mark.h200x8(ranks=2, test=20, stall=4)

    @pytest.mark.expect_verdict("rank-death", ranks=1, cause="signal:SIGKILL")
    def test_killed_with_a_forked_child(modal_h200x8):
        if modal_h200x8.rank == 1:
            if os.fork() == 0:
                time.sleep(300)
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    def test_leaves_a_forked_child():
        if os.fork() == 0:
            time.sleep(300)

    def test_forked_child_returns():
        child = os.fork()
        if child:
            os.waitpid(child, 0)

    def asserted_in_a_child(condition):
        child = os.fork()
        if child == 0:
            assert condition, "the child's numbers differ"
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def test_forked_child_fails():
        assert asserted_in_a_child(False) == 1

    def test_forked_child_fails_unexpectedly():
        assert asserted_in_a_child(False) == 0, "the child failed"

    def test_forked_child_exits():
        child = os.fork()
        if child == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

    @pytest.fixture
    def broken_teardown():
        yield
        raise RuntimeError("second trouble")

    def test_fails_twice(broken_teardown):
        raise ValueError("first trouble")

    def test_more_records_than_a_receipt_holds(modal_h200x8):
        with pytest.raises(ValueError, match="holds 256 records"):
            for number in range(300):
                modal_h200x8.record(f"step {number}", number)

    def test_says_more_than_is_recorded(modal_h200x8):
        said = b'{"t":1,"kind":"phase-started","rank":0,"test":8,"name":"%s"}\\n' % (b"x" * 2_000)
        if modal_h200x8.rank == 0:
            for _ in range(5_000):
                modal_h200x8._agent._socket.sendall(said)
        dist.barrier()

    def test_closes_what_is_not_its_own():
        os.closerange(3, 1_000)

    def test_pytest_exit():
        pytest.exit("reason to leave")

    def test_keyboard_interrupt():
        raise KeyboardInterrupt("reason to stop")

    class HidesItsCause(Exception):
        @property
        def __cause__(self):
            raise KeyError("no cause for you")

    def test_an_exception_that_can_not_be_rendered():
        raise HidesItsCause("the loss didn't fall")

    def test_leaves_the_working_directory_and_removes_it(tmp_path):
        os.chdir(tmp_path)
        tmp_path.rmdir()

    def test_fails_without_a_working_directory():
        assert 1 == 2, "the numbers differ"

    def test_all_is_well_again():
        os.chdir("/")
"""


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("rough"))
    project.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
    project.write("test_rough.py", ROUGH)
    return project.pytest(*LANE)


@pytest.mark.parametrize(
    "name",
    [
        "test_killed_with_a_forked_child",
        "test_leaves_a_forked_child",
        "test_forked_child_returns",
        "test_forked_child_fails",
        "test_forked_child_exits",
        "test_more_records_than_a_receipt_holds",
        "test_says_more_than_is_recorded",
        "test_leaves_the_working_directory_and_removes_it",
        "test_all_is_well_again",
    ],
)
def test_no_harm_is_done(rough: Ran, name: str) -> None:
    assert rough.outcome(name) == "passed"


def test_a_child_that_fails_ends_as_under_pytest(rough: Ran) -> None:
    """With its reason in the log of the rank."""
    verdict = rough.verdict("test_forked_child_fails_unexpectedly")
    assert (verdict["code"], verdict["blamed_ranks"]) == ("test-failed", [0, 1])
    assert "the child's numbers differ" in rough.text


def test_both_failures_of_one_test_are_said(rough: Ran) -> None:
    phases = rough.of("test_fails_twice")
    assert (phases["call"]["outcome"], phases["teardown"]["outcome"]) == ("failed", "failed")
    reported = rough.verdict("test_fails_twice")["consequences"]
    assert any("second trouble" in consequence["text"] for consequence in reported)


def test_a_flood_is_cut_off_and_said(rough: Ran) -> None:
    verdict = rough.verdict("test_says_more_than_is_recorded")
    assert (verdict["code"], verdict["certainty"]) == ("passed", "likely")
    assert "rank 0 exceeded the event limit of a test" in verdict["evidence"][-1]["text"]
    assert rough.directory is not None
    assert (rough.directory / "recording.jsonl").stat().st_size < 30 << 20


def test_a_rank_that_closed_its_line_says_so(rough: Ran) -> None:
    assert rough.verdict("test_closes_what_is_not_its_own")["cause"] == "exit:71"
    assert "this rank's line to the box broke" in rough.failure("test_closes_what_is_not_its_own")


@pytest.mark.parametrize(
    ("name", "reason"), [("test_pytest_exit", "reason to leave"), ("test_keyboard_interrupt", "reason to stop")]
)
def test_an_interrupt_in_a_rank_keeps_its_reason(rough: Ran, name: str, reason: str) -> None:
    assert rough.outcome(name) == "failed"
    assert reason in rough.failure(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_an_exception_that_can_not_be_rendered", "the loss didn't fall"),
        ("test_fails_without_a_working_directory", "the numbers differ"),
    ],
)
def test_reporting_an_error_never_replaces_it(rough: Ran, name: str, said: str) -> None:
    verdict = rough.verdict(name)
    assert (verdict["code"], verdict["blamed_ranks"]) == ("test-failed", [0, 1])
    assert said in verdict["summary"]


def test_more_ranks_than_the_lane_has_devices(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(
        "test_many.py",
        """
        import pytest

        @pytest.mark.h200x8(ranks=16)
        def test_many(): pass
        """,
    )
    ran = project.pytest(*LANE)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "asks for 16 ranks, but lane h200x8 is H200:8" in ran.text


def test_the_configuration_of_the_project_above_the_rootdir_counts(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("pyproject.toml", '[tool.pytest_megacpp.lanes.l4x2]\ngpu = "L4:2"\nranks = 2\n')
    project.write("tests/pytest.ini", "[pytest]\n")
    project.write(
        "tests/test_lane.py",
        """
        import pytest

        @pytest.mark.l4x2
        def test_lane(): pass
        """,
    )
    ran = project.pytest("tests")
    assert ran.outcome("test_lane") == "skipped"

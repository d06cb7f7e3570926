"""Lane tests in sessions that the real pytest-xdist distributes: one box, every test once, whatever the mode."""

import pytest

from tests.plugin.project import DRY, Project, Ran

pytest.importorskip("xdist")

MIXED = """
    import os
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_ordinary(n):
        with open("noted", "a") as file:
            file.write(os.environ.get("PYTEST_XDIST_WORKER", "desk") + "\\n")

    @pytest.mark.h200x8(ranks=2, test=60)
    @pytest.mark.parametrize("n", range(3))
    def test_lane(n):
        assert os.environ["WORLD_SIZE"] == "2"
        assert "PYTEST_XDIST_WORKER" not in os.environ
        with open("lanes", "a") as file:
            file.write(os.environ["MEGACPP_RUN_ID"] + "\\n")
"""
LANES = tuple(f"test_lane[{n}]" for n in range(3))
ORDINARY = tuple(f"test_ordinary[{n}]" for n in range(4))

ORDERED = (*DRY, "-p", "no:randomly")  # the order of lane tests is asserted


def assert_ran_once(project: Project, ran: Ran, times: int = 1) -> None:
    """Every lane test on both ranks of one box, in order; every ordinary test `times` times."""
    assert ran.code == 0
    assert ran.outcomes() == dict.fromkeys((*ORDINARY, *LANES), "passed")
    called = [r["nodeid"].partition("::")[2] for r in ran.reports if r["when"] == "call"]
    assert [name for name in called if name in LANES] == list(LANES)
    assert sorted(name for name in called if name in ORDINARY) == sorted(ORDINARY * times)
    assert len(project.noted("lanes")) == 2 * len(LANES)
    assert len(set(project.noted("lanes"))) == len(project.runs()) == 1
    assert f"{len(LANES) + times * len(ORDINARY)} passed" in ran.text


@pytest.mark.parametrize("mode", ["load", "loadscope", "loadfile", "loadgroup", "worksteal"])
def test_every_mode_runs_lane_tests_once(project: Project, mode: str) -> None:
    project.write("test_mixed.py", MIXED)
    ran = project.pytest(*ORDERED, "-n", "2", "--dist", mode)
    assert_ran_once(project, ran)
    assert set(project.noted()) <= {"gw0", "gw1"}


def test_each_runs_ordinary_tests_on_each_worker_and_lane_tests_once(project: Project) -> None:
    project.write("test_mixed.py", MIXED)
    ran = project.pytest(*ORDERED, "--dist", "each", "--tx", "2*popen")
    assert_ran_once(project, ran, times=2)


@pytest.mark.parametrize("arguments", [("-n", "0"), ("--dist", "no"), ("-n", "2", "--dist", "no", "-n", "0")])
def test_no_distribution_is_an_ordinary_session(project: Project, arguments: tuple[str, ...]) -> None:
    project.write("test_mixed.py", MIXED)
    ran = project.pytest(*ORDERED, *arguments)
    assert_ran_once(project, ran)
    assert set(project.noted()) == {"desk"}


def test_only_lane_tests_leave_the_workers_idle(project: Project) -> None:
    project.write("test_mixed.py", MIXED)
    ran = project.pytest(*ORDERED, "-n", "2", "-m", "h200x8", "--junitxml=junit.xml")
    assert (ran.code, ran.outcomes()) == (0, dict.fromkeys(LANES, "passed"))
    assert (project.root / "junit.xml").read_text().count("<testcase") == 3


def test_lanes_that_were_not_asked_for_are_skipped_by_the_workers(project: Project) -> None:
    project.write("test_mixed.py", MIXED)
    ran = project.pytest("-n", "2", "-p", "no:randomly")
    assert ran.code == 0
    assert ran.outcomes() == dict.fromkeys(ORDINARY, "passed") | dict.fromkeys(LANES, "skipped")


FAILING = """
    import os
    import time
    import pytest

    @pytest.mark.parametrize("n", range(40))
    def test_slow(n):
        time.sleep(1)

    @pytest.mark.h200x8(ranks=1, test=60)
    def test_lane_fails():
        assert False, "the lane"

    @pytest.mark.h200x8(ranks=1, test=60)
    def test_lane_after(): pass
"""


def test_a_failing_lane_test_stops_the_workers(project: Project) -> None:
    project.write("test_failing.py", FAILING)
    ran = project.pytest(*ORDERED, "-n", "2", "-x")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "stopping after 1 failures" in ran.text
    assert ran.outcome("test_lane_fails") == "failed"
    assert ran.outcome("test_lane_after") == "absent"
    assert len([r for r in ran.reports if r["when"] == "call"]) < 40
    assert ran.run is not None
    assert ran.run["status"] == "failed"


def test_a_failing_ordinary_test_stops_the_lane(project: Project) -> None:
    project.write("test_mixed.py", MIXED.replace('open("noted", "a")', 'open("noted")'))
    ran = project.pytest(*ORDERED, "-n", "2", "-x")
    assert ran.code != 0
    assert "stopping after" in ran.text
    assert ran.run is not None
    assert ran.run["status"] in ("failed", "error")
    assert ran.run["finished_at"] is not None


def test_a_crashed_worker_costs_no_lane_test(project: Project) -> None:
    project.write("test_mixed.py", MIXED)
    project.write("test_crash.py", "import os\n\ndef test_crashes(): os._exit(3)\n")
    ran = project.pytest(*ORDERED, "-n", "2")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "crashed while running 'test_crash.py::test_crashes'" in ran.text
    assert {name: ran.outcome(name) for name in LANES} == dict.fromkeys(LANES, "passed")
    assert ran.run is not None
    assert ran.run["status"] == "passed"


def test_a_file_that_does_not_import_starts_nothing(project: Project) -> None:
    project.write("test_mixed.py", MIXED)
    project.write("test_broken.py", "import no_such_module\n")
    ran = project.pytest(*ORDERED, "-n", "2")
    assert ran.code == pytest.ExitCode.INTERRUPTED
    assert "1 error during collection" in ran.text
    assert project.runs() == []


@pytest.mark.parametrize(
    ("hook", "end"), [("tryfirst=True", "return is_desk"), ("wrapper=True", "return (yield)")], ids=["answers", "wraps"]
)
def test_a_controller_s_session_that_is_emptied_is_never_green_by_absence(
    project: Project, hook: str, end: str
) -> None:
    """Results come all the same, or the session is red."""
    project.write(
        "conftest.py",
        f"""
        import os
        import pytest

        @pytest.hookimpl({hook})
        def pytest_runtestloop(session):
            is_desk = True if "RANK" not in os.environ and "PYTEST_XDIST_WORKER" not in os.environ else None
            if is_desk:
                session.items[:] = []
            {end}
        """,
    )
    project.write("test_mixed.py", MIXED)
    ran = project.pytest(*ORDERED, "-n", "2", "-m", "h200x8")
    unreported = [name for name in LANES if name not in ran.outcomes()]
    assert ran.code == (1 if unreported else 0)
    assert len(unreported) in (0, 3)
    assert ("selected, but never reported" in ran.text) == bool(unreported)

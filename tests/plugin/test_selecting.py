"""Which tests run where: at the desk, in the ranks, not at all."""

import pytest

from tests.plugin.project import DRY, LANE, Project, Ran

LANES = """
    [tool.pytest.ini_options]
    addopts = ["--strict-markers"]

    [tool.pytest_megacpp.lanes.h100x2]
    gpu = "H100:2"

    [tool.pytest_megacpp.lanes.h200x8]
    ranks = 2
"""
MARKED = """
    import os
    import pytest

    def where():
        return f"rank of {os.environ['WORLD_SIZE']}" if "RANK" in os.environ else "desk"

    @pytest.mark.h200x8
    def test_mark():
        assert where() == "rank of 2"

    def test_fixture_alone(modal_h200x8):
        assert (modal_h200x8.lane, modal_h200x8.ranks, modal_h200x8.backend) == ("h200x8", 2, "gloo")

    def test_ordinary():
        assert where() == "desk"

    @pytest.mark.h100x2
    def test_configured_lane(modal_h100x2):
        assert (modal_h100x2.lane, modal_h100x2.ranks) == ("h100x2", 2)

    @pytest.mark.h100x2(ranks=1)
    @pytest.mark.h200x8(ranks=1)
    def test_both_lanes():
        assert where() == "rank of 1"

    class TestMixed:
        @pytest.fixture(scope="class", autouse=True)
        def place(self):
            made = where()
            yield made
            with open("torn_down", "a") as file:
                file.write(f"{made} of class left by {where()}\\n")

        def test_before(self, place):
            assert place == where() == "desk"

        @pytest.mark.h200x8
        def test_lane(self, place):
            assert place == where() == "rank of 2"

        def test_after(self, place):
            assert place == where() == "desk"

    @pytest.mark.h200x8(ranks=1)
    class TestMarkedClass:
        def test_inherits(self):
            assert where() == "rank of 1"

        @pytest.mark.h200x8(ranks=2)
        def test_overrides(self):
            assert where() == "rank of 2"
"""
MARKED_MODULE = """
    import os
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    @pytest.fixture(scope="module")
    def place():
        yield os.environ.get("RANK", "desk")
        with open("torn_down", "a") as file:
            file.write(f"module of {os.environ.get('RANK', 'desk')}\\n")

    def test_module_mark(place):
        assert place == os.environ["RANK"]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("selecting"))
    project.write("pyproject.toml", LANES)
    project.write("test_marked.py", MARKED)
    project.write("sub/test_module.py", MARKED_MODULE)
    return project


def test_lane_tests_are_skipped_unless_asked_for(project: Project) -> None:
    ran = project.pytest("-rs")
    assert ran.code == 0
    ordinary = {"test_ordinary", "TestMixed::test_before", "TestMixed::test_after"}
    assert {name for name, outcome in ran.outcomes().items() if outcome == "passed"} == ordinary
    assert set(ran.outcomes().values()) == {"passed", "skipped"}
    reason = "so it runs only when asked for: pytest -m h200x8 (without GPUs: pytest -m h200x8 --surface local)"
    assert f"needs a H200:8 box, {reason}" in ran.text
    assert "pytest -m h100x2" in ran.text
    assert "megacpp:" not in ran.text
    assert ran.directory is None
    assert not project.lane_dir.exists()


@pytest.mark.parametrize("expression", ["not h200x8", "not h200x8 and not h100x2", "h200x8_like"])
def test_an_expression_that_only_excludes_a_lane_does_not_ask_for_it(project: Project, expression: str) -> None:
    ran = project.pytest("-m", expression, "-q")
    assert "passed" not in ran.text or ran.code == 0
    assert set(ran.outcomes().values()) <= {"passed", "skipped"}
    assert not project.lane_dir.exists()


def test_collecting_starts_nothing(project: Project) -> None:
    ran = project.pytest(*LANE, "--collect-only", "-q")
    assert ran.code == 0
    assert "test_marked.py::test_fixture_alone" in ran.text
    assert "test_ordinary" not in ran.text
    assert not project.lane_dir.exists()


@pytest.fixture(scope="module")
def by_mark(project: Project) -> Ran:
    return project.pytest(*LANE)


def test_the_mark_selects_one_lane(by_mark: Ran) -> None:
    assert by_mark.outcomes() == dict.fromkeys(
        (
            *("test_mark", "test_fixture_alone", "test_both_lanes", "TestMixed::test_lane"),
            *("TestMarkedClass::test_inherits", "TestMarkedClass::test_overrides", "test_module_mark"),
        ),
        "passed",
    )
    assert by_mark.code == 0
    assert by_mark.run is not None
    assert by_mark.run["counts"]["selected"] == 7


def test_the_header_says_where_lanes_run(by_mark: Ran, project: Project) -> None:
    assert "megacpp: h200x8 (2 ranks of H200:8) on local dry run on CPU/gloo (requested)" in by_mark.text
    assert "megacpp: runs in .megacpp" in by_mark.text or f"megacpp: runs in {project.lane_dir}" in by_mark.text


@pytest.fixture(scope="module")
def by_surface(project: Project) -> Ran:
    (project.root / "torn_down").unlink(missing_ok=True)
    return project.pytest(*DRY)


def test_a_surface_asks_for_every_lane(by_surface: Ran) -> None:
    assert set(by_surface.outcomes().values()) == {"passed"}
    assert len(by_surface.outcomes()) == 11
    assert by_surface.code == 0


def test_tests_of_lane_and_desk_are_reported_in_their_order(by_surface: Ran) -> None:
    mixed = [name for name in by_surface.outcomes() if name.startswith("TestMixed")]
    assert mixed == ["TestMixed::test_before", "TestMixed::test_lane", "TestMixed::test_after"]


def test_each_side_has_fixtures_of_its_own(by_surface: Ran, project: Project) -> None:
    """The desk's class fixture is set up again after a lane test, which ran it in its ranks."""
    left = project.noted("torn_down")
    assert left.count("rank of 2 of class left by rank of 2") == 2
    assert set(left) == {
        "desk of class left by desk",
        "rank of 2 of class left by rank of 2",
        "module of 0",
        "module of 1",
    }


def test_a_surface_with_an_expression_of_other_marks_still_asks(project: Project) -> None:
    project.write(
        "other/test_other.py",
        """
        import os
        import pytest

        @pytest.mark.h200x8(ranks=1)
        @pytest.mark.usefixtures("tmp_path")
        def test_it():
            assert os.environ["WORLD_SIZE"] == "1"
        """,
    )
    ran = project.pytest(*DRY, "-m", "usefixtures", "other")
    assert ran.outcomes() == {"test_it": "passed"}


def test_a_keyword_and_a_path_select_as_ever(project: Project) -> None:
    ran = project.pytest(*LANE, "-k", "inherits or module_mark", "sub", "test_marked.py::TestMarkedClass")
    assert ran.outcomes() == {"test_module_mark": "passed", "TestMarkedClass::test_inherits": "passed"}
    assert ran.run is not None
    assert [t["nodeid"] for t in ran.run["tests"]] == [
        "sub/test_module.py::test_module_mark",
        "test_marked.py::TestMarkedClass::test_inherits",
    ]


def test_switched_off_the_plugin_is_absent(project: Project) -> None:
    ran = project.pytest("-p", "no:megacpp", "-o", "addopts=", "test_marked.py::test_fixture_alone")
    assert "fixture 'modal_h200x8' not found" in ran.text
    assert project.pytest("-p", "no:megacpp", "--surface", "local").code == pytest.ExitCode.USAGE_ERROR


def test_from_another_directory_with_importlib(project: Project) -> None:
    """The rootdir is the project's, and so are settings, runs and node ids."""
    elsewhere = project.root.parent
    ran = project.pytest(
        *LANE,
        "--import-mode=importlib",
        f"{project.root.name}/sub",
        f"{project.root.name}/test_marked.py",
        cwd=elsewhere,
    )
    assert set(ran.outcomes().values()) == {"passed"}
    assert ran.run is not None
    assert ran.run["status"] == "passed"
    assert ran.run["tests"][0]["nodeid"] == "sub/test_module.py::test_module_mark"
    assert not (elsewhere / ".megacpp").exists()


TIMEOUTS = """
    import time
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=1)

    def test_option():
        time.sleep(20)

    @pytest.mark.timeout(300)
    def test_mark():
        time.sleep(2.5)

    @pytest.mark.h200x8(test=200)
    @pytest.mark.timeout(1)
    def test_the_lane_s_own_limit():
        time.sleep(1.5)
"""


def test_a_timeout_is_the_limit_of_the_test_on_its_ranks(project: Project) -> None:
    pytest.importorskip("pytest_timeout")
    project.write("timeouts/test_timeouts.py", TIMEOUTS)
    ran = project.pytest(*LANE, "--timeout=2", "timeouts")
    assert ran.outcomes() == {"test_option": "failed", "test_mark": "passed", "test_the_lane_s_own_limit": "passed"}
    names = ("test_option", "test_mark", "test_the_lane_s_own_limit")
    assert [ran.receipt(name)["limits"]["test"] for name in names] == [2, 300, 200]
    assert "its limit of 2.0 s" in ran.failure("test_option").splitlines()[0]

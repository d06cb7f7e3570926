"""What a test did on its ranks, as pytest reports it at the desk."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.plugin.project import LANE, Project, Ran

CONFTEST = """
    import logging
    import os
    import pytest

    RANK = int(os.environ.get("RANK", -1))

    def tell(text):
        with open(os.path.join(os.path.dirname(__file__), "noted"), "a") as file:
            file.write(f"{RANK} {text}\\n")

    @pytest.fixture(scope="session")
    def world_of_the_session():
        tell("session up")
        yield object()
        tell("session down")

    @pytest.fixture(autouse=True)
    def around():
        os.environ["AROUND"] = "yes"
        yield
        del os.environ["AROUND"]

    def pytest_collection_modifyitems(items):
        for item in items:
            if "reversed" in item.name:
                item.add_marker(pytest.mark.xfail(reason="the conftest said so", strict=True))
"""
FATES = """
    import logging
    import os
    import sys
    import unittest
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60, stall=20)
    RANK = int(os.environ.get("RANK", -1))

    def test_passes(): pass

    def test_fails_on_one_rank():
        print("about to fail")
        print("only rank 1 says this", file=sys.stderr) if RANK == 1 else None
        assert RANK == 0, "rank 1 is odd"

    def test_fails_everywhere():
        logging.getLogger("user").warning("on its way")
        raise ValueError("wrong on all ranks")

    @pytest.mark.skip(reason="marked to skip")
    def test_skip_mark(): raise AssertionError

    @pytest.mark.skipif("sys.platform == 'linux'", reason="not on Linux")
    def test_skipif(): raise AssertionError

    def test_skips_inside():
        pytest.skip("decided inside")

    @pytest.fixture
    def skipping():
        pytest.skip("decided in a fixture")

    def test_skips_in_setup(skipping): raise AssertionError

    def test_importorskip():
        pytest.importorskip("no_such_module")

    def test_skips_on_one_rank():
        if RANK == 1:
            pytest.skip("rank 1 can't")

    @pytest.mark.xfail(reason="known")
    def test_xfails(): raise ValueError("expected")

    @pytest.mark.xfail(raises=ZeroDivisionError, reason="known")
    def test_xfails_otherwise(): raise ValueError("not that")

    @pytest.mark.xfail(reason="not run at all", run=False)
    def test_xfail_without_running(): os._exit(3)

    def test_xfails_inside():
        pytest.xfail("decided inside")

    @pytest.mark.xfail(reason="was thought to fail")
    def test_xpasses(): pass

    @pytest.mark.xfail(reason="must fail", strict=True)
    def test_xpasses_strictly(): pass

    @pytest.mark.xfail(reason="fails on one rank only")
    def test_xfails_on_one_rank():
        assert RANK == 0

    def test_reversed_by_the_conftest(): raise ValueError

    @pytest.fixture
    def broken_setup():
        assert RANK != 1, "no resource on rank 1"

    def test_setup_error(broken_setup): pass

    @pytest.fixture
    def broken_teardown():
        yield
        raise RuntimeError("could not release")

    def test_teardown_error(broken_teardown): pass

    def test_fails_and_teardown_too(broken_teardown): raise ValueError("the first failure")

    def test_no_such_fixture(nowhere_defined): pass

    @pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.skip(reason="too large"))])
    @pytest.mark.parametrize("name", ["a b", "ö/[x]"])
    def test_parametrized(size, name):
        assert size in (1, 2)

    class TestFamily:
        @pytest.fixture(scope="class")
        def shared(self):
            return []

        def test_first(self, shared):
            shared.append(1)

        def test_second(self, shared):
            assert shared == [1]

    class TestOldStyle(unittest.TestCase):
        def setUp(self):
            self.value = 3

        def test_of_unittest(self):
            self.assertEqual(self.value, 3)

        def test_of_unittest_failing(self):
            self.assertEqual(self.value, 4)

    @pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="pytest 9")
    def test_subtests(subtests):
        for i in range(3):
            with subtests.test(i=i):
                assert i != 1 or RANK == 0

    def test_record_property(record_property):
        record_property("rank_zero_says", "hello")
"""
HELPERS = """
    import logging
    import os
    import sys
    import warnings
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_capsys(capsys):
        print("into capsys")
        assert capsys.readouterr().out == "into capsys\\n"

    def test_capfd(capfd):
        os.system("echo into capfd")
        assert capfd.readouterr().out == "into capfd\\n"

    def test_caplog(caplog):
        with caplog.at_level(logging.INFO):
            logging.getLogger("x").info("noted")
        assert "noted" in caplog.text

    def test_tmp_path(tmp_path, tmp_path_factory):
        (tmp_path / "file").write_text(os.environ["RANK"])
        assert os.listdir(tmp_path) == ["file"]
        assert tmp_path_factory.mktemp("more").is_dir()

    def test_monkeypatch(monkeypatch):
        monkeypatch.setenv("PATCHED", "yes")
        assert os.environ["PATCHED"] == "yes"

    def test_nothing_is_left_of_it():
        assert "PATCHED" not in os.environ

    def test_autouse():
        assert os.environ["AROUND"] == "yes"

    def test_session_fixture(world_of_the_session): pass

    def test_session_fixture_again(world_of_the_session): pass

    def test_cache(cache):
        cache.set("x/y", 1)

    def test_standard_input():
        assert sys.stdin.read() == ""

    def test_a_warning():
        warnings.warn("mind the gap")

    def test_working_directory(pytestconfig):
        assert os.getcwd() == str(pytestconfig.rootpath)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("outcomes"))
    project.write("conftest.py", CONFTEST)
    project.write("test_helpers.py", HELPERS)
    project.write("test_fates.py", FATES)
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    return project.pytest(*LANE, "--junitxml=junit.xml", "-o", "junit_logging=all", "-rA")


@pytest.fixture(scope="module")
def junit(project: Project, ran: Ran) -> dict[str, ET.Element]:
    cases = ET.parse(Path(project.root) / "junit.xml").iter("testcase")
    return {case.attrib["name"]: case for case in cases}


FATE = {
    "test_passes": "passed",
    "test_fails_on_one_rank": "failed",
    "test_fails_everywhere": "failed",
    "test_skip_mark": "skipped",
    "test_skipif": "skipped",
    "test_skips_inside": "skipped",
    "test_skips_in_setup": "skipped",
    "test_importorskip": "skipped",
    "test_skips_on_one_rank": "failed",
    "test_xfails": "xfailed",
    "test_xfails_otherwise": "failed",
    "test_xfail_without_running": "xfailed",
    "test_xfails_inside": "xfailed",
    "test_xpasses": "xpassed",
    "test_xpasses_strictly": "failed",
    "test_xfails_on_one_rank": "xfailed",
    "test_reversed_by_the_conftest": "xfailed",
    "test_setup_error": "error",
    "test_teardown_error": "error",
    "test_fails_and_teardown_too": "error",
    "test_no_such_fixture": "error",
    "test_parametrized[a b-1]": "passed",
    "test_parametrized[a b-3]": "skipped",
    "TestFamily::test_first": "passed",
    "TestFamily::test_second": "passed",
    "TestOldStyle::test_of_unittest": "passed",
    "TestOldStyle::test_of_unittest_failing": "failed",
    "test_subtests": "failed" if hasattr(pytest, "Subtests") else "skipped",
    "test_record_property": "passed",
}


@pytest.mark.parametrize("name", FATE)
def test_fate(ran: Ran, name: str) -> None:
    assert ran.outcome(name) == FATE[name]


def test_all_that_was_selected_was_reported(ran: Ran, project: Project) -> None:
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert len(ran.outcomes()) == ran.run["counts"]["selected"]
    assert len(ran.run["tests"]) == sum(ran.run["counts"].values()) - ran.run["counts"]["selected"]
    assert [t["nodeid"] for t in ran.run["tests"]] == list(dict.fromkeys(r["nodeid"] for r in ran.reports))


def test_every_phase_is_reported_once(ran: Ran) -> None:
    for name in ran.outcomes():
        phases = [r["when"] for r in ran.reports if r["nodeid"].partition("::")[2] == name]
        assert phases in (["setup", "call", "teardown"], ["setup", "teardown"]), name


def test_pytest_s_helpers_work_in_ranks(ran: Ran) -> None:
    helpers = {r["nodeid"].partition("::")[2] for r in ran.reports if r["nodeid"].startswith("test_helpers.py")}
    assert {name: ran.outcome(name) for name in helpers} == dict.fromkeys(helpers, "passed")
    assert len(helpers) == 13


def test_parameters_of_all_kinds_keep_their_names(ran: Ran) -> None:
    parametrized = {name: outcome for name, outcome in ran.outcomes().items() if name.startswith("test_parametrized")}
    assert len(parametrized) == 6
    assert set(parametrized.values()) == {"passed", "skipped"}


def test_a_session_fixture_is_set_up_once_in_each_rank_and_torn_down(ran: Ran, project: Project) -> None:
    noted = project.noted()
    assert sorted(noted) == ["0 session down", "0 session up", "1 session down", "1 session up"]


def test_skip_reasons_and_places_come_from_the_ranks(ran: Ran) -> None:
    for reason in ("marked to skip", "not on Linux", "decided inside", "decided in a fixture", "could not import"):
        assert reason in ran.text
    assert "test_fates.py:" in ran.of("test_skips_inside")["call"]["text"] or "test_fates.py" in ran.text


def test_xfail_reasons_come_from_the_ranks(ran: Ran) -> None:
    assert ran.of("test_xfails")["call"]["xfail"] == "known"
    assert ran.of("test_xpasses")["call"]["xfail"] == "was thought to fail"
    assert ran.of("test_reversed_by_the_conftest")["call"]["xfail"] == "the conftest said so"


def test_a_failure_names_its_rank_and_shows_its_traceback(ran: Ran) -> None:
    text = ran.failure("test_fails_on_one_rank")
    assert "rank 1" in text.splitlines()[0]
    assert "AssertionError: rank 1 is odd" in text
    assert 'assert RANK == 0, "rank 1 is odd"' in text
    assert ran.receipt("test_fails_on_one_rank")["verdict"]["blamed_ranks"] == [1]
    assert ran.receipt("test_fails_on_one_rank")["verdict"]["code"] == "test-failed"


def test_output_is_shown_by_rank_and_equal_output_once(ran: Ran) -> None:
    sections = ran.sections("test_fails_on_one_rank")
    assert sections["Captured stdout of ranks 0,1"] == "about to fail\n"
    assert sections["Captured stderr of rank 1"] == "only rank 1 says this\n"
    assert "Captured stderr of rank 0" not in sections


def test_logging_is_shown_by_rank(ran: Ran) -> None:
    logged = {heading: text for heading, text in ran.sections("test_fails_everywhere").items() if "log" in heading}
    assert list(logged) == ["Captured log call of ranks 0,1"]
    assert "on its way" in logged["Captured log call of ranks 0,1"]


def test_skipping_on_some_ranks_is_a_failure(ran: Ran) -> None:
    verdict = ran.verdict("test_skips_on_one_rank")
    assert (verdict["code"], verdict["cause"], verdict["blamed_ranks"]) == (
        "test-failed",
        "skipped-on-some-ranks",
        [1],
    )


def test_a_strict_xpass_says_so(ran: Ran) -> None:
    assert "[XPASS(strict)] must fail" in ran.failure("test_xpasses_strictly")


def test_errors_name_their_phase(ran: Ran) -> None:
    assert ran.of("test_setup_error")["setup"]["outcome"] == "failed"
    assert ran.of("test_teardown_error")["teardown"]["outcome"] == "failed"
    assert "no resource on rank 1" in ran.failure("test_setup_error")
    assert "could not release" in ran.failure("test_teardown_error")
    assert ran.verdict("test_setup_error")["phase"] == "setup"
    assert ran.verdict("test_setup_error")["blamed_ranks"] == [1]
    assert "fixture 'nowhere_defined' not found" in ran.failure("test_no_such_fixture")
    assert "the first failure" in ran.failure("test_fails_and_teardown_too")


def test_durations_come_from_the_ranks(ran: Ran) -> None:
    assert 0 < ran.of("test_capfd")["call"]["duration"] < 5


def test_junit_has_every_test_with_its_outcome(ran: Ran, junit: dict[str, ET.Element]) -> None:
    assert len(junit) == len(ran.outcomes())
    kinds = {name: {child.tag for child in case} & {"failure", "error", "skipped"} for name, case in junit.items()}
    assert kinds["test_passes"] == set()
    assert kinds["test_fails_on_one_rank"] == {"failure"}
    assert kinds["test_setup_error"] == {"error"}
    assert kinds["test_skip_mark"] == kinds["test_xfails"] == {"skipped"}


def test_junit_carries_the_verdict(junit: dict[str, ET.Element]) -> None:
    properties = {p.attrib["name"]: p.attrib["value"] for p in junit["test_fails_on_one_rank"].iter("property")}
    assert properties["megacpp_verdict"] == "test-failed"
    assert properties["megacpp_blamed_ranks"] == "1"
    assert "rank_zero_says" in {p.attrib["name"] for p in junit["test_record_property"].iter("property")}


def test_junit_has_the_output_of_the_ranks(junit: dict[str, ET.Element]) -> None:
    assert "about to fail" in (junit["test_fails_on_one_rank"].findtext("system-out") or "")
    assert "only rank 1 says this" in (junit["test_fails_on_one_rank"].findtext("system-err") or "")


def test_the_summary_tells_the_cause_in_a_line(ran: Ran) -> None:
    line = next(
        line for line in ran.text.splitlines() if line.startswith("FAILED test_fates.py::test_fails_on_one_rank")
    )
    assert "test-failed · " in line
    assert "rank 1" in line


STOPPING = """
    import os
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_a(): pass
    def test_b(): assert os.environ["RANK"] == "0"
    def test_c(): raise ValueError
    def test_d(): raise ValueError
    def test_e(): pass
"""


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("stopping"))
    project.write("test_stopping.py", STOPPING)
    return project


def test_stopping_at_the_first_failure_then_the_last_failed(stopping: Project) -> None:
    ran = stopping.pytest(*LANE, "-x")
    assert ran.outcomes() == {"test_a": "passed", "test_b": "failed"}
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert "stopping after 1 failures" in ran.text
    assert ran.run is not None
    assert ran.run["status"] == "failed"
    assert ran.run["counts"]["selected"] == 5
    assert [t["outcome"] for t in ran.run["tests"]] == ["passed", "failed", None, None, None]
    assert stopping.pytest(*LANE, "--lf").outcomes() == {"test_b": "failed"}


def test_stopping_at_the_second_failure(stopping: Project) -> None:
    ran = stopping.pytest(*LANE, "--maxfail=2", "-p", "no:cacheprovider")
    assert ran.outcomes() == {"test_a": "passed", "test_b": "failed", "test_c": "failed"}
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert [t["outcome"] for t in ran.run["tests"]] == ["passed", "failed", "failed", None, None]

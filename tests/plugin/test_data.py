"""Data sets in whole runs: copied before the first test, found by name, and reported when ranks read past the copy."""

import fcntl
import signal

import pytest

from tests.plugin.project import LANE, Project, Ran

SETTINGS = """
    [tool.pytest.ini_options]
    addopts = ["--strict-markers"]
    [tool.pytest_megacpp.data.shards]
    source = "bucket"
    exclude = ["*.tmp"]
    [tool.pytest_megacpp.data.far]
    source = "s3://corpus/v1"
"""
TESTS = """
    import os
    import pathlib
    import subprocess
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2)
    BUCKET = pathlib.Path(__file__).parent / "bucket"

    def test_copy(modal_h200x8):
        copy = modal_h200x8.data("shards")
        assert not copy.is_relative_to(BUCKET)
        assert sorted(os.listdir(copy)) == ["a.bin", "sub"]
        assert (copy / "sub" / "b.bin").read_bytes() == b"b"
        shown = subprocess.run(["sh", "-c", "echo $MEGACPP_DATA_SHARDS"], capture_output=True, text=True)
        assert shown.stdout.strip() == str(copy)

    def test_names(modal_h200x8):
        with pytest.raises(LookupError, match="did you mean 'shards'. Configured: far, shards; write "):
            modal_h200x8.data("shard")
        with pytest.raises(LookupError, match="set MEGACPP_DATA_FAR to a directory"):
            modal_h200x8.data("far")

    def test_hot(modal_h200x8):
        (BUCKET / "a.bin").read_bytes()
        os.listdir(BUCKET / "sub")

    def test_hot_and_wrong(modal_h200x8):
        (BUCKET / "a.bin").read_bytes()
        assert modal_h200x8.rank == 0
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("data"))
    project.write("pyproject.toml", SETTINGS)
    project.write("test_it.py", TESTS)
    for name in ("a.bin", "sub/b.bin", "c.tmp"):
        project.write(f"bucket/{name}", name[-5:-4])
    return project


@pytest.fixture(scope="module")
def ran(project: Project) -> Ran:
    return project.pytest(*LANE, env={"XDG_CACHE_HOME": str(project.root / "cache")})


def test_tests_find_the_copy_by_name(ran: Ran) -> None:
    expected = {"test_copy": "passed", "test_names": "passed", "test_hot": "passed", "test_hot_and_wrong": "failed"}
    assert ran.outcomes() == expected, ran.text
    assert "megacpp: data shards 2 of 2 files, " in ran.text


def test_reads_past_the_copy_are_said(ran: Ran, project: Project) -> None:
    first = str(project.root / "bucket" / "a.bin")
    assert f"data: ranks 0,1 read the source of 'shards' in 2 tests ({first}): use lane.data('shards')" in ran.text
    assert "read data set 'shards' from its source instead of its local copy: use lane.data('shards')" in ran.failure(
        "test_hot_and_wrong"
    )
    for name, reads in (("test_copy", []), ("test_hot", [2]), ("test_hot_and_wrong", [1])):
        for rank in ran.receipt(name)["ranks"]:
            assert [one["reads"] for one in rank["bucket_reads"]] == reads
            assert {one["path"] for one in rank["bucket_reads"]} <= {first}


def test_a_run_that_waits_for_another_s_copy_can_be_left(project: Project, ran: Ran) -> None:
    """Who holds the lock here never lets it go."""
    assert ran.run is not None
    said = f"megacpp: data shards waits for run {ran.run['run_id']} on "
    (state,) = (project.root / "cache" / "pytest-megacpp" / "data").glob(".megacpp-shards-*")
    with (state / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with project.start(*LANE, env={"XDG_CACHE_HOME": str(project.root / "cache")}) as desk:
            desk.wait_until(lambda: said in desk.text)
            desk.child.send_signal(signal.SIGINT)
            waited = desk.ran()
    assert waited.code == pytest.ExitCode.INTERRUPTED
    assert waited.run is not None
    assert waited.run["status"] == "interrupted"


def test_a_source_that_is_not_there_runs_nothing(project: Project) -> None:
    project.write("pyproject.toml", SETTINGS.replace('"bucket"', '"unmounted"'))
    ran = project.pytest(*LANE, env={"XDG_CACHE_HOME": str(project.root / "cache")})
    assert set(ran.outcomes().values()) == {"error"}
    verdict = ran.verdict("test_copy")
    assert (verdict["code"], verdict["cause"]) == ("environment", "data")
    assert f"data set 'shards': {project.root}/unmounted can't be read" in verdict["summary"]
    assert "look at the source and the target of the data set" in verdict["next_step"]

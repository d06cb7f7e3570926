"""syrupy beside lane tests: rank 0 writes what all ranks compare, and nothing is lost or taken for unused."""

import pytest

from tests.plugin.project import LANE, Project

SUITE = """
    import os
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_a(modal_h200x8, snapshot):
        assert {"answer": 42 + DIFFERENCE * modal_h200x8.rank} == snapshot

    def test_b(modal_h200x8, snapshot):
        assert "of the second test" == snapshot

    @pytest.mark.skipif("DEATHS" not in os.environ, reason="not now")
    def test_dies(snapshot):
        assert "lost" == snapshot
        os._exit(3)
"""
UPDATE = (*LANE, "--snapshot-update")
NAMES = ("test_a", "test_b", "test_dies")


def suite(difference: int = 0) -> str:
    return SUITE.replace("DIFFERENCE", str(difference))


def written(project: Project) -> str:
    return (project.root / "__snapshots__" / "test_it.ambr").read_text()


def test_what_rank_0_wrote_is_there_and_compared_with(project: Project) -> None:
    project.write("test_it.py", suite())
    ran = project.pytest(*UPDATE)
    assert ran.code == pytest.ExitCode.OK, ran.text
    assert "syrupy: ranks compare snapshots, and rank 0 writes them" in ran.text
    assert [f"# name: {name}\n" in written(project) for name in NAMES] == [True, True, False]
    again = project.pytest(*LANE)
    assert again.code == pytest.ExitCode.OK, again.text
    project.write("test_it.py", suite(difference=1))
    other = project.pytest(*LANE)
    assert other.verdict("test_a")["blamed_ranks"] == [1]
    assert "42" in written(project)


def test_a_world_that_dies_loses_no_earlier_snapshot(project: Project) -> None:
    project.write("test_it.py", suite())
    ran = project.pytest(*UPDATE, env={"DEATHS": "1"})
    assert ran.outcomes() == {"test_a": "passed", "test_b": "passed", "test_dies": "failed"}
    assert [f"# name: {name}\n" in written(project) for name in NAMES[:2]] == [True, True]


@pytest.mark.parametrize("arguments", [LANE, UPDATE], ids=["compared", "updated"])
def test_what_nobody_used_is_neither_deleted_nor_red(project: Project, arguments: tuple[str, ...]) -> None:
    project.write("test_it.py", suite())
    assert project.pytest(*UPDATE).code == pytest.ExitCode.OK
    path = project.root / "__snapshots__" / "test_it.ambr"
    path.write_text(path.read_text() + "# name: test_of_long_ago\n  'x'\n# ---\n")
    ran = project.pytest(*arguments)
    assert ran.code == pytest.ExitCode.OK, ran.text
    assert [f"# name: {name}\n" in written(project) for name in ("test_a", "test_b", "test_of_long_ago")] == [True] * 3


def test_only_new_ones_are_written_and_others_compared_on_every_rank(project: Project) -> None:
    project.write("test_it.py", suite())
    assert project.pytest(*UPDATE).code == pytest.ExitCode.OK
    project.write("test_it.py", suite(difference=1) + "\n    def test_c(snapshot):\n        assert 3 == snapshot\n")
    ran = project.pytest(*LANE, "--snapshot-update-new-only")
    assert ran.outcomes() == {"test_a": "failed", "test_b": "passed", "test_dies": "skipped", "test_c": "passed"}
    assert ran.verdict("test_a")["blamed_ranks"] == [1]
    assert "# name: test_c\n  3\n" in written(project)


@pytest.mark.parametrize("option", ["--snapshot-update", "--snapshot-update-new-only"])
def test_where_no_file_comes_back_nothing_is_started(project: Project, option: str) -> None:
    project.write("test_it.py", suite())
    credentials = {"MODAL_TOKEN_ID": "ak-x", "MODAL_TOKEN_SECRET": "as-x"}
    ran = project.pytest("-m", "h200x8", "--surface", "modal", option, env=credentials)
    assert ran.code == pytest.ExitCode.USAGE_ERROR, ran.text
    assert f"{option}: lane tests would write their files on the box, and" in ran.text
    assert project.runs() == []

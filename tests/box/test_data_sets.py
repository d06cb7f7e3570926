"""Data sets on their way to a box: what is said meanwhile, and what the run can't do without."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_megacpp.box.data.copier import Copier, Tally
from pytest_megacpp.box.data.data_sets import Fetch, described
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import DataSet

GIB = 1 << 30


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"0123")
    return tmp_path / "source"


def fetched(*data: DataSet) -> Fetch:
    fetch = Fetch(data, "r1")
    fetch.run()
    return fetch


def copied(source: Path, target: Path, name: str = "shards") -> DataSet:
    return DataSet(name, str(target), str(source), "s3://corpus")


def test_each_is_copied_and_said_once(source: Path, tmp_path: Path) -> None:
    fetch = fetched(copied(source, tmp_path / "a"), copied(source, tmp_path / "b", "more"), DataSet("far", ""))
    assert fetch.problem is None
    assert [one.detail.partition(",")[0] for one in fetch.news(0.0)] == ["shards 1 of 1 files", "more 1 of 1 files"]
    assert list(fetch.news(100.0)) == []
    again = fetched(copied(source, tmp_path / "a"))
    assert [one.detail for one in again.news(0.0)] == ["shards 1 of 1 files, 3.7e-09 of 3.7e-09 GiB, nothing to copy"]


@pytest.mark.parametrize(
    ("tally", "running_s", "reported"),
    [
        (Tally(), 1.0, "is listed"),
        (Tally(3, 12, 6 * GIB // 5, 4 * GIB, GIB), 4.0, "3 of 12 files, 1.2 of 4.0 GiB, 268 MB/s"),
        (Tally(3, 12, 6 * GIB // 5, 4 * GIB, 0), 4.0, "3 of 12 files, 1.2 of 4.0 GiB"),
        (Tally(waits_for="run r0 on a, process 7"), 4.0, "waits for run r0 on a, process 7, which copies the same"),
    ],
)
def test_how_far_it_is(tally: Tally, running_s: float, reported: str) -> None:
    assert described(tally, running_s) == reported


def test_a_long_copy_is_told_of_less_and_less_often(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at as the box looks, twenty times a second for an hour."""
    said: list[float] = []
    fetch = Fetch([copied(source, tmp_path / "a")], "r1")
    monkeypatch.setattr(
        Copier, "copy", lambda _: said.extend(at / 20 for at in range(72_000) if [*fetch.news(at / 20)])
    )
    fetch.run()
    gaps = [b - a for a, b in pairwise(said)]
    assert said[0] >= 1.0
    assert min(gaps) >= 1.0
    assert max(gaps) < 11.0
    assert len(said) < 420


def test_a_cancelled_fetch_is_no_problem(source: Path, tmp_path: Path) -> None:
    fetch = Fetch([copied(source, tmp_path / "a")], "r1")
    fetch.cancel()
    fetch.run()
    assert fetch.problem is None
    assert not (tmp_path / "a" / "a").exists()


def problem(one: DataSet) -> ProblemFound:
    found = fetched(one).problem
    assert found is not None
    assert (found.code, found.cause) == ("environment", "data")
    return found


def test_what_is_wrong_is_said_with_its_name_and_mend(source: Path, tmp_path: Path) -> None:
    found = problem(copied(tmp_path / "gone", tmp_path / "a"))
    assert found.detail == f"data set 'shards': {tmp_path}/gone can't be read: No such file or directory"
    assert "at who may read and write there" in found.remedy


def test_whatever_goes_wrong_is_no_crash(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copier, "copy", None)
    assert "data set 'shards' can't be copied: TypeError" in problem(copied(source, tmp_path / "a")).detail


def test_what_nobody_copies_must_be_there_whole(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"there is nothing in {tmp_path}/a" in problem(DataSet("shards", str(tmp_path / "a"))).detail
    assert fetched(DataSet("shards", str(source))).problem is None
    monkeypatch.setattr(os, "fsync", None)
    problem(copied(source, tmp_path / "half"))
    assert "is a copy that isn't whole" in problem(DataSet("shards", str(tmp_path / "half"))).detail

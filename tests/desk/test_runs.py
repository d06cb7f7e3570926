from pathlib import Path

import pytest

from pytest_megacpp.desk.run.runs import RunNotFound, find_recording, find_run, read_timeline
from pytest_megacpp.recording.events import Event, RunStarted, TestPlanned
from pytest_megacpp.recording.wire import encode

RUNS = ("20261121-080000-aaaa", "20261122-080000-bbbb", "20261122-090000-cccc")


@pytest.fixture
def lane_dir(tmp_path: Path) -> Path:
    for name in RUNS:
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recording.jsonl").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"), [(RUNS[1], 1), ("20261121", 0), ("20261122-08", 1), ("latest", 2), ("last", 2), (RUNS[2], 2)]
)
def test_runs_are_found_by_name_and_beginning(lane_dir: Path, name: str, found: int) -> None:
    assert find_run(lane_dir, name).name == RUNS[found]


def test_latest_is_what_the_file_names_while_it_is_there(lane_dir: Path) -> None:
    (lane_dir / "latest").write_text(f"{RUNS[0]}\n")
    assert find_run(lane_dir).name == RUNS[0]
    (lane_dir / "latest").write_text("gone\n")
    assert find_run(lane_dir).name == RUNS[2]


@pytest.mark.parametrize("name", ["20261122", "2026"])
def test_a_beginning_of_several_is_refused_with_their_names(lane_dir: Path, name: str) -> None:
    with pytest.raises(RunNotFound, match=rf"is the beginning of \d runs: .*{RUNS[1]}"):
        find_run(lane_dir, name)


@pytest.mark.parametrize("name", ["nope", "", "a/b", "\0"])
def test_an_unknown_name_is_refused_with_the_newest(lane_dir: Path, name: str) -> None:
    with pytest.raises(RunNotFound, match=f"The newest are {RUNS[2]}"):
        find_run(lane_dir, name)


@pytest.mark.parametrize("name", ["20261122-0800-bbbb", "20261122-080000-bbbc"])
def test_an_unknown_name_is_refused_with_the_nearest(lane_dir: Path, name: str) -> None:
    with pytest.raises(RunNotFound, match=rf"no run '{name}' in .* The nearest are {RUNS[1]}"):
        find_run(lane_dir, name)


def test_no_runs_yet(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"no runs in .* yet"):
        find_run(tmp_path)


def test_paths_are_taken_too(lane_dir: Path) -> None:
    run = lane_dir / "runs" / RUNS[0]
    other = lane_dir / "copy.jsonl"
    other.touch()
    assert find_run(lane_dir, str(run)) == find_run(lane_dir, str(run / "recording.jsonl")) == run
    assert find_recording(lane_dir, str(run)) == run / "recording.jsonl"
    assert find_recording(lane_dir, str(other)) == other
    assert find_recording(lane_dir) == lane_dir / "runs" / RUNS[2] / "recording.jsonl"


def test_a_run_without_a_recording_is_said(lane_dir: Path) -> None:
    (lane_dir / "runs" / RUNS[2] / "recording.jsonl").unlink()
    with pytest.raises(RunNotFound, match=r"has no recording\.jsonl"):
        find_recording(lane_dir)


def test_a_recording_is_read_up_to_its_torn_tail(tmp_path: Path) -> None:
    started = Event("r1", "", "box", 0, 0.0, RunStarted("r1", "2026", "h200x8", "local", True, 2, 1))
    planned = Event("r1", "", "box", 1, 0.1, TestPlanned(0, "t", 2))
    whole = encode(started) + encode(planned)
    path = tmp_path / "recording.jsonl"
    path.write_bytes(whole + encode(planned)[:20])
    timeline = read_timeline(path)
    assert timeline.started is not None
    assert list(timeline.planned) == [0]
    assert len(timeline.damaged) == 1

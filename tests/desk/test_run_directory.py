import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.desk.run import directory
from pytest_megacpp.desk.run.directory import (
    LaneDirError,
    RunDirectory,
    changed_json,
    dump_json,
    iso,
    read_run_json,
    replace_file,
    run_paths,
)
from pytest_megacpp.desk.run.interrupted import mark_interrupted
from pytest_megacpp.recording.events import Json
from pytest_megacpp.report.shared_fields import SharedFields

MOMENT = datetime(2026, 11, 22, 21, 45, 1, tzinfo=UTC)


def now() -> datetime:
    return MOMENT


def test_a_run_has_an_id_a_place_and_is_the_latest(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "lane", now) as run:
        assert run.run_id.startswith("20261122-214501-")
        assert len(run.run_id) == 20
        assert run.path.is_dir()
        assert (tmp_path / "lane" / "latest").read_text() == f"{run.run_id}\n"
        assert (tmp_path / "lane" / ".gitignore").read_text() == "*\n"


def test_run_ids_never_collide(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path, now) for _ in range(20)]
    assert len({run.run_id for run in runs}) == 20
    for run in runs:
        run.close()


def test_a_directory_with_other_things_in_it_is_not_ignored_whole(tmp_path: Path) -> None:
    (tmp_path / "precious.py").touch()
    for _ in range(2):
        RunDirectory.create(tmp_path, now).close()
    assert not (tmp_path / ".gitignore").exists()
    assert (tmp_path / "runs" / ".gitignore").read_text() == "*\n"


def test_an_ignore_file_of_the_user_s_stays(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("runs/\n")
    RunDirectory.create(tmp_path, now).close()
    assert (tmp_path / ".gitignore").read_text() == "runs/\n"


def test_a_full_disk_has_room_for_the_last_run_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all else had been taken: the room is there as soon as the reserve is given up."""
    with RunDirectory.create(tmp_path, now) as run:
        run.write_json("run.json", {"status": "running"})
        reserve = run.path / directory.RESERVE
        assert reserve.stat().st_blocks * 512 >= directory.RESERVE_BYTES

        def full(target: Path, data: bytes, *, fsync: bool = False) -> None:
            if reserve.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace_file(target, data, fsync=fsync)

        monkeypatch.setattr(directory, "replace_file", full)
        with pytest.raises(OSError, match="No space left"):
            run.write_json("receipts/a.json", {})
        run.write_json("run.json", {"status": "error"})
    assert read_run_json(run.path) == {"status": "error"}
    assert sorted(p.name for p in run.path.iterdir() if p.is_file()) == [".lock", "run.json"]


def test_a_file_in_the_way_is_said_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "lane").write_text("a file")
    with pytest.raises(LaneDirError, match=r"lane can't be used: .*--lane-dir DIR"):
        RunDirectory.create(tmp_path / "lane", now)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_permission_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LaneDirError, match="Permission denied"):
        RunDirectory.create(tmp_path / "lane", now)


def test_files_appear_whole_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, now) as run:
        run.write_json("receipts/a.json", {"a": [1]}, fsync=True)
        run.write_json("receipts/a.json", {"a": [2]})
        assert [p.name for p in (run.path / "receipts").iterdir()] == ["a.json"]
        assert json.loads((run.path / "receipts" / "a.json").read_text()) == {"a": [2]}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    with pytest.raises(OSError):
        replace_file(target, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    "document", [{}, {"a": None, "b": {}, "c": [], "d": {"e": {"f": [1, "x"]}}, "g": [{"h": 1}, 2], "i": "\ud800\n✗"}]
)
def test_json_reads_back_as_it_was(document: dict[str, object]) -> None:
    assert json.loads(dump_json(document)) == document


def test_numbers_that_json_lacks_become_texts() -> None:
    assert json.loads(dump_json({"a": {"b": [float("nan"), (1.5, float("-inf"))]}})) == {
        "a": {"b": ["nan", [1.5, "-inf"]]}
    }


def left_behind(lane_dir: Path) -> Path:
    """A run that says running and that nobody holds."""
    with RunDirectory.create(lane_dir, now) as run:
        run.write_json("run.json", {"schema": "megacpp.run/1", "status": "running", "finished_at": None, "tests": []})
        return run.path


def test_a_run_whose_desk_died_is_swept_then_marked(tmp_path: Path) -> None:
    run = left_behind(tmp_path)
    (run / "recording.jsonl").write_bytes(b"")
    os.utime(run / "recording.jsonl", (1_800_000_000, 1_800_000_000))
    status_when_swept: list[object] = []

    def sweep(run_id: str) -> None:
        status_when_swept.append((run_id, (read_run_json(run) or {})["status"]))

    assert [entry.run_id for entry in mark_interrupted(tmp_path, sweep)] == [run.name]
    assert status_when_swept == [(run.name, "running")]
    document = read_run_json(run) or {}
    assert document["status"] == "interrupted"
    assert document["finished_at"] == iso(datetime.fromtimestamp(1_800_000_000, UTC))
    assert mark_interrupted(tmp_path, sweep) == ()


def test_without_a_recording_a_run_ended_now(tmp_path: Path) -> None:
    run = left_behind(tmp_path)
    mark_interrupted(tmp_path, None, now)
    assert (read_run_json(run) or {})["finished_at"] == "2026-11-22T21:45:01.000Z"


def test_a_run_that_somebody_holds_is_left_alone(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, now) as run:
        run.write_json("run.json", {"status": "running"})
        assert mark_interrupted(tmp_path) == ()


HOLDER = """
import sys
from pathlib import Path
from pytest_megacpp.desk.run.directory import RunDirectory
run = RunDirectory.create(Path(sys.argv[1]))
run.write_json("run.json", {"status": "running"})
print(run.run_id, flush=True)
sys.stdin.read()
"""


def test_a_killed_desk_lets_go(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    desk = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=-1, stdout=-1, cwd=root, text=True)
    assert desk.stdout is not None
    run_id = desk.stdout.readline().strip()
    assert mark_interrupted(tmp_path) == ()
    desk.kill()
    desk.communicate()
    assert [entry.run_id for entry in mark_interrupted(tmp_path)] == [run_id]


def test_a_sweep_that_fails_is_said_and_the_run_is_marked(tmp_path: Path) -> None:
    run = left_behind(tmp_path)

    def sweep(run_id: str) -> None:
        raise RuntimeError("no /proc")

    (entry,) = mark_interrupted(tmp_path, sweep)
    assert entry.problem == "its processes could not be ended: RuntimeError('no /proc')"
    assert (read_run_json(run) or {})["status"] == "interrupted"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"running"', b'{"status": "passed", "x": "running"}'])
def test_what_says_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    run = left_behind(tmp_path)
    (run / "run.json").write_bytes(content)
    assert mark_interrupted(tmp_path) == ()
    assert (run / "run.json").read_bytes() == content


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda nested: st.lists(nested, max_size=3) | st.dictionaries(st.text(), nested, max_size=3),
    max_leaves=6,
)


@given(
    document=st.dictionaries(st.sampled_from(["schema", "a", "b", "seed", "z"]), VALUES, min_size=1),
    changed=VALUES,
    data=st.data(),
)
def test_a_changed_field_is_as_if_written_with_the_others(
    document: dict[str, object], changed: object, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(document)))
    assert changed_json(dump_json(document), {name: changed}) == dump_json(document | {name: changed})


@pytest.mark.parametrize("content", [b"", b"{}", b'{\n "a": 1', b'{\n "b": 1\n}\n', b'{"a": 1}\n'])
def test_what_was_written_by_others_is_not_changed(content: bytes) -> None:
    with pytest.raises(ValueError):
        changed_json(content, {"a": 2})


def test_no_lane_directory_has_no_runs(tmp_path: Path) -> None:
    assert run_paths(tmp_path / "none") == []
    assert mark_interrupted(tmp_path / "none") == ()


def test_shared_fields_are_written_as_any_others() -> None:
    fields: dict[str, Json] = {"A": {"value": "1"}, "B": {"value": None}}
    shared = SharedFields(fields)
    for _ in range(2):
        assert dump_json({"environment": shared}) == dump_json({"environment": fields})
    assert dump_json({"environment": SharedFields()}) == dump_json({"environment": {}})

"""Commands that read a recording, on every one that is kept: they print, and nothing that a rank wrote acts."""

import json
import re
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli
from tests.golden.build import CASES

HERE = Path(__file__).parent
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_recording_is_printed(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, elsewhere = str(HERE / name), ["--lane-dir", str(tmp_path)]
    for command in (["show"], ["stacks"], ["stacks", "--threads"], ["logs"], ["logs", "--test", "test_step"]):
        assert cli.main([*command, run, *elsewhere]) in (0, 1)
        said = capsys.readouterr()
        assert not ACTING.search(said.out + said.err)
        assert "Traceback" not in said.err
    for command in (["show"], ["judge"], ["stacks"]):
        assert cli.main([*command, run, "--json", *elsewhere]) in (0, 1)
        json.loads(capsys.readouterr().out)


def test_stacks_tell_who_waits_for_whom(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["stacks", str(HERE / "straggler"), "--lane-dir", str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    assert "before the last event of its recording" in reported
    assert "ranks 0,1,3: waiting in all_reduce #4\n    no stack was taken of it" in reported
    assert "rank 2: at suite/train.py:88\n    load_batch (/repo/suite/train.py:88)" in reported


def test_a_recording_by_itself_will_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((HERE / "straggler" / "recording.jsonl").read_bytes())
    assert cli.main(["stacks", str(copy), "--lane-dir", str(tmp_path)]) == 0
    assert "load_batch" in capsys.readouterr().out
    written = HERE / "rank-death-exit-3" / "recording.jsonl"
    copy.write_bytes(written.read_bytes())
    cli.main(["logs", str(copy), "--lane-dir", str(tmp_path)])
    alone = capsys.readouterr().out
    cli.main(["logs", str(written.parent), "--lane-dir", str(tmp_path)])
    assert alone == capsys.readouterr().out

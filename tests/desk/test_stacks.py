"""What `megacpp stacks` says of ranks that did not answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli, stacks
from pytest_megacpp.desk.run.runs import GrowingRecording
from pytest_megacpp.recording.wire import encode
from tests.golden.build import in_step
from tests.scenario import FakeBox

RUN = "20261121-080000-aaaa"

Heads = Callable[[int, FakeBox], list[str]]


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Heads:
    """`heads(before, box)`: the lines that aren't frames, where `before` events were recorded when ranks were asked."""
    run = tmp_path / "lane" / "runs" / RUN
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"status": "detached", "surface": "local", "lane": "h200x8"}))
    monkeypatch.chdir(tmp_path)

    def shown(before: int, box: FakeBox) -> list[str]:
        events = [encode(event) for event in box.events]
        recording = run / "recording.jsonl"
        recording.write_bytes(b"".join(events[:before]))

        def asked(desk: object, looking: stacks.Looking, entry: object, into: Path) -> bool:
            looking.recording = GrowingRecording(recording)
            looking.read()
            looking.asked = True
            recording.write_bytes(b"".join(events))
            looking.read()
            return True

        monkeypatch.setattr(stacks, "_ask_elsewhere", asked)
        assert cli.main(["stacks", "--lane-dir", "lane"]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]

    return shown


def test_a_rank_that_did_not_answer_is_named(heads: Heads) -> None:
    """The others are where they are shown now; what is known of it is older."""
    box = in_step().at((0, 1, 2, 3), line=40)
    before = len(box.events)
    first, *groups = heads(before, box.after(5.0).at((0, 1, 2), line=40))
    assert first.endswith("rank 3 did not answer within 8 s; each stack says how old it is")
    assert [head.partition(":")[0] for head in groups] == ["ranks 0-2", "rank 3"]
    assert groups[0].endswith(" · now")
    assert groups[1].endswith(" s old")


def test_where_all_answered_no_stack_has_an_age(heads: Heads) -> None:
    box = in_step()
    before = len(box.events)
    first, *groups = heads(before, box.at((0, 1, 2, 3), line=40))
    assert first.endswith(" · now")
    assert not [head for head in groups if head.endswith(("now", "old"))]


def test_where_none_answered_the_age_is_that_of_all(heads: Heads) -> None:
    box = in_step().at((0, 1, 2, 3), line=40)
    first, *groups = heads(len(box.events), box)
    assert "its box did not answer within 8 s: taken " in first
    assert not [head for head in groups if head.endswith(("now", "old"))]

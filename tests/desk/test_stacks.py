"""What `megacpp stacks` says of ranks that did not answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.desk.commands import cli, stacks
from pytest_megacpp.desk.run.runs import GrowingRecording
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import StackMethod
from pytest_megacpp.recording.wire import encode
from tests.golden.build import in_step
from tests.scenario import FakeBox

RUN = "20261121-080000-aaaa"
ME = "me"

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
            looking.asker, looking.waited_s = ME, 11.2
            looking.read()
            recording.write_bytes(b"".join(events))
            looking.read()
            return True

        monkeypatch.setattr(stacks, "_ask_elsewhere", asked)
        assert cli.main(["stacks", "--lane-dir", "lane"]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]

    return shown


def looks(box: FakeBox, asker: str = ME) -> FakeBox:
    """The box begins to ask its ranks."""
    return box.say(ev.StacksAsked((asker,)), world="")


def read(directory: Path, box: FakeBox) -> stacks.Looking:
    """What is known of a run of which I asked."""
    recording = directory / "recording.jsonl"
    recording.write_bytes(b"".join(map(encode, box.events)))
    looking = stacks.Looking(GrowingRecording(recording), asker=ME)
    looking.read()
    return looking


def test_a_rank_that_did_not_answer_is_named(heads: Heads) -> None:
    """The others are where they are shown now; what is known of it is older."""
    box = in_step().at((0, 1, 2, 3), line=40)
    before = len(box.events)
    first, *groups = heads(before, looks(box.after(5.0)).at((0, 1, 2), line=40))
    assert first.endswith("rank 3 did not answer within 11 s; each stack says how old it is")
    assert [head.partition(":")[0] for head in groups] == ["ranks 0-2", "rank 3"]
    assert groups[0].endswith(" · now")
    assert groups[1].endswith(" s old")


def test_where_all_answered_no_stack_has_an_age(heads: Heads) -> None:
    box = in_step()
    before = len(box.events)
    first, *groups = heads(before, looks(box).at((0, 1, 2, 3), line=40))
    assert first.endswith(" · now")
    assert not [head for head in groups if head.endswith(("now", "old"))]


def test_where_none_answered_the_age_is_that_of_all(heads: Heads) -> None:
    box = in_step().at((0, 1, 2, 3), line=40)
    first, *groups = heads(len(box.events), box)
    assert "its box did not answer within 11 s: taken " in first
    assert not [head for head in groups if head.endswith(("now", "old"))]


@pytest.mark.parametrize("other", [False, True])
def test_only_stacks_of_the_own_look_are_now(heads: Heads, other: bool) -> None:
    """Stacks come in meanwhile that were taken before, as evidence or because somebody else asked."""
    box = in_step().at((0, 1, 2, 3), line=40)
    before = len(box.events)
    if other:
        looks(box, "somebody else")
    first, *_ = heads(before, box.after(5.0).at((0, 1, 2, 3), line=40))
    assert "its box did not answer within 11 s: taken " in first


def test_a_stack_that_was_late_to_be_recorded_is_not_now(tmp_path: Path) -> None:
    """What another thread took before the look began may be recorded after it."""
    box = looks(in_step())
    began_s = box.now_s
    box.now_s -= 1.0
    box.at((0, 1, 2, 3), line=40)
    looking = read(tmp_path, box)
    assert looking.began_s == began_s
    assert looking.silent("w1") == [0, 1, 2, 3]
    box.now_s = began_s
    assert read(tmp_path, box.at((0, 1, 2, 3), line=40)).is_over


def test_a_silent_worker_server_is_not_the_last_word(tmp_path: Path) -> None:
    """py-spy is asked next."""
    box = looks(in_step()).at((0, 1, 2), line=40).stack(3, ok=False)
    assert not read(tmp_path, box).is_over
    assert read(tmp_path, box.stack(3, ok=False, method=StackMethod.PY_SPY)).is_over


def test_of_a_detached_run_without_a_box_nothing_is_claimed(heads: Heads, capsys: pytest.CaptureFixture[str]) -> None:
    """What is here was recorded when its desk left."""
    (Path("lane") / "runs" / RUN / "recording.jsonl").write_bytes(FakeBox().recording())
    assert cli.main(["stacks", "--lane-dir", "lane"]) == 1
    said = capsys.readouterr().err
    assert f"no box of run {RUN} is running: pytest --attach {RUN} takes in its recording" in said
    assert f"no stack of run {RUN} is known here" in said


def test_where_no_rank_lives_nothing_is_waited_for(tmp_path: Path) -> None:
    assert read(tmp_path, looks(FakeBox(ranks=2))).is_over

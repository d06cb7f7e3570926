"""What a desk knew of a run before it attached outlives an attach that hears less."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.desk.run import replay
from pytest_megacpp.desk.run.artefacts import Reporting
from pytest_megacpp.desk.run.reattach import ASIDE, Recollection
from pytest_megacpp.desk.run.runs import read_timeline
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.vocabulary import ProblemCode
from pytest_megacpp.report.reporters import Receipts, RunJson
from pytest_megacpp.surfaces.modal import surface
from pytest_megacpp.surfaces.protocol import Address, Ended
from tests.scenario import NODEID, FakeBox

RUN = "20261129-233000-0a0b"
LOST = ProblemFound(ProblemCode.BOX_LOST, "connection", "no connection to the box for 91 s", "rerun")
TESTS = (NODEID, NODEID + "_2")


def two_tests() -> FakeBox:
    """The first one has passed, the second one is running."""
    return FakeBox(tests=TESTS).begins().passes().ends().begins(1)


def recorded(box: FakeBox) -> bytes:
    return box.recording().replace(b'"surface":"local"', b'"surface":"modal"')


def heard(box: FakeBox, events: int) -> bytes:
    return b"".join(recorded(box).splitlines(keepends=True)[:events])


def words_of(source: str) -> bytes:
    fields = {"v": 1, "run": RUN, "world": "", "src": source, "seq": 40, "t": 1.0, "kind": "progress", "phase": "lost"}
    return json.dumps(fields | {"detail": ""}, separators=(",", ":")).encode() + b"\n"


class SilentBox:
    """A sandbox that says the beginning of its recording and is lost then."""

    def __init__(self, run: Path, said: bytes, problem: ProblemFound | None) -> None:
        self._said, self._problem = said, problem
        (run / "recording.jsonl").write_bytes(said)

    def read(self) -> bytes:
        said, self._said = self._said, b""
        return said

    def ended(self) -> Ended | None:
        return None if self._said else Ended(self._problem)

    def address(self) -> Address:
        return Address()

    def end(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "lane" / "runs" / RUN
    path.mkdir(parents=True)
    return path


def attach(monkeypatch: pytest.MonkeyPatch, run: Path, said: bytes, problem: ProblemFound | None) -> dict[str, str]:
    """`CODE/CAUSE` of each test."""
    monkeypatch.setattr(surface.ModalSurface, "attach", lambda self, run_id, path: SilentBox(path, said, problem))
    asked: dict[str, object] = {
        "surface": "auto",
        "lanes": {},
        "tables": {},
        "data": (),
        "source": None,
        "untrusted": False,
    }
    options: Any = SimpleNamespace(lane_dir=run.parent.parent, **asked)
    followed, index_of = replay.Elsewhere(options, RUN, Reporting((Receipts(), RunJson()))).run(
        TESTS, (), lambda progress: None
    )
    verdicts = {nodeid: followed.wait_for(index).verdict for nodeid, (index,) in index_of.items()}
    followed.finish()
    return {nodeid: f"{verdict.code}/{verdict.cause}" for nodeid, verdict in verdicts.items()}


def test_what_only_the_earlier_recording_has_still_counts(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    box = two_tests()
    (run / "recording.jsonl").write_bytes(recorded(box) + words_of("surface") + words_of("desk"))
    judged = attach(monkeypatch, run, heard(box, 8), LOST)
    assert judged == {TESTS[0]: "passed/None", TESTS[1]: "box-lost/connection"}
    recording = (run / "recording.jsonl").read_bytes()
    assert all(recording.count(line) == 1 for line in recorded(box).splitlines())
    assert b'"seq":40' not in recording, "what an earlier desk said of its way is not the box's"
    assert not (run / ASIDE).exists()
    assert attach(monkeypatch, run, heard(box, 8), LOST) == judged, "however often"


def test_a_whole_recording_needs_no_earlier_one(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    box = two_tests()
    (run / "recording.jsonl").write_bytes(recorded(box))
    box.passes().ends().done()
    judged = attach(monkeypatch, run, recorded(box), None)
    assert judged == dict.fromkeys(TESTS, "passed/None")
    assert (run / "recording.jsonl").read_bytes() == recorded(box)
    assert not (run / ASIDE).exists()


def test_the_earlier_recording_is_kept_until_the_box_has_ended(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    box = two_tests()
    (run / "recording.jsonl").write_bytes(recorded(box))
    before = Recollection.of(run.parent.parent, RUN)
    before.put_aside()
    (run / "recording.jsonl").write_bytes(heard(box, 8))
    assert (run / ASIDE).read_bytes() == recorded(box)
    assert before.rejoin() == recorded(box).removeprefix(heard(box, 8))
    assert read_timeline(run / "recording.jsonl").tests.keys() == {0, 1}
    assert before.rejoin() == b""


@pytest.mark.parametrize("aside_is_longer", [True, False])
def test_of_two_recordings_of_dead_desks_the_longer_one_is_kept(run: Path, aside_is_longer: bool) -> None:
    box = two_tests()
    longer, shorter = (ASIDE, "recording.jsonl") if aside_is_longer else ("recording.jsonl", ASIDE)
    (run / longer).write_bytes(recorded(box))
    (run / shorter).write_bytes(heard(box, 8))
    Recollection.of(run.parent.parent, RUN).put_aside()
    assert (run / ASIDE).read_bytes() == recorded(box)
    assert not (run / "recording.jsonl").exists()

"""Every kept drill is judged as its mark expects and as it was when it was kept: whoever changes a rule tries it here.

After a wanted change: MEGACPP_GOLDEN=rewrite pytest tests/golden, then read the difference in `drills/verdicts.json`.
To record them anew: `python -m tests.golden.drills`.
"""

import os
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.vocabulary import ActReason
from pytest_megacpp.recording.wire import read_all
from pytest_megacpp.report.text import Whereabouts, failure_text, headline
from tests.golden.drills import cases
from tests.golden.drills.distil import CWD, MAX_CASE_BYTES, Changed, Neutral, distilled, essence, read, strange_paths
from tests.scenario import FakeBox

if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
    cases.judge_anew()
DRILLS = cases.load()


@pytest.mark.parametrize("nodeid", DRILLS)
def test_judged_as_expected(nodeid: str) -> None:
    drill = DRILLS[nodeid]
    timeline = read(drill.recording)
    result = judge_test(timeline, 0)
    assert cases.differences(drill.expected, result.verdict) == []
    assert (result.verdict.summary, str(result.verdict.certainty)) == (drill.summary, drill.certainty)
    assert failure_text(result, timeline, Whereabouts("h200x8")).startswith(headline(result.verdict))


@pytest.mark.parametrize("nodeid", DRILLS)
def test_little_is_kept_and_nothing_of_a_machine(nodeid: str) -> None:
    recording = DRILLS[nodeid].recording
    assert len(recording) <= MAX_CASE_BYTES
    assert strange_paths(recording.decode()) == set()
    for line in recording.decode().splitlines():
        assert Redactor({}).text(line) == line


def test_no_case_is_without_its_drill() -> None:
    assert {path.name for path in cases.HERE.glob("*.jsonl")} == {drill.file for drill in DRILLS.values()}


# -- how a case is made ------------------------------------------------------------------------------------------


def two_tests() -> FakeBox:
    """The first one passes, the second one loses a rank in the same world."""
    box = FakeBox(2, ("a.py::test_first", "a.py::test_second")).begins()
    box.enters((0, 1)).after(0.1).completes().passes().ends().after(40)
    box.begins(1).enters(0).after(0.1).exits(1, signal="SIGKILL").after(0.2)
    return box.acts(ActReason.EXIT, "", (0,), (1,)).aborts("exit").done()


@pytest.mark.parametrize(("index", "code"), [(0, "passed"), (1, "rank-death")])
def test_one_test_is_cut_out_and_judged_as_before(index: int, code: str) -> None:
    events = two_tests().events
    case = read(distilled(events, index, lambda text: text))
    assert essence(judge_test(case, 0).verdict) == essence(judge_test(two_tests().timeline(), index).verdict)
    assert judge_test(case, 0).verdict.code == code
    assert [planned.nodeid for planned in case.planned.values()] == [("a.py::test_first", "a.py::test_second")[index]]
    assert (case.gaps, case.damaged, case.stray, list(case.tests)) == ([], [], 0, [0])


def test_what_would_be_judged_otherwise_is_refused() -> None:
    events = [e for e in two_tests().events if not isinstance(e.fact, ev.TestPlanned)]
    huge = [ev.Recorded(0, 1, str(n), "x" * 400) for n in range(MAX_CASE_BYTES // 400)]
    at = next(i for i, e in enumerate(events) if isinstance(e.fact, ev.RankExited))
    events[at:at] = [ev.Event("run-1", "w1", "rank 0", 0, events[at].time_s, fact) for fact in huge]
    with pytest.raises(Changed, match="no way to cut it down"):
        distilled(events, 1, lambda text: text)


def test_a_machine_is_taken_out_of_texts() -> None:
    neutral = Neutral(Path("/home/ann/project"), Path("/scratch/ann/lane"), "annsbox")
    said = {
        "/home/ann/project/suite/train.py:7": f"{CWD}/suite/train.py:7",
        "/scratch/ann/lane/runs/x": f"{CWD}/.megacpp/runs/x",
        'File "/opt/venv/lib/python3.12/site-packages/torch/nn.py"': (
            'File "/usr/lib/python3.12/site-packages/torch/nn.py"'
        ),
        "../venv/lib/python3.12/site-packages/torch/nn.py:3": "/usr/lib/python3.12/site-packages/torch/nn.py:3",
        "in /tmp/megacpp-ab12cd/w1.0": "in /tmp/megacpp/w1.0",
        "locked by /tmp/torchinductor_ann/locks/abc.lock": "locked by /elsewhere/abc.lock",
        "[annsbox]:29500, localhost/annsbox": "[box]:29500, localhost/box",
        "https://pytorch.org/docs/stable/x.html": "https://pytorch.org/docs/stable/x.html",
        "1/2 of a/b/c": "1/2 of a/b/c",
    }
    assert {text: neutral(text) for text in said} == said
    assert strange_paths(" ".join(said)) != set()
    assert strange_paths(" ".join(said.values())) == set()


def test_a_case_is_kept_replaced_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "HERE", tmp_path)
    monkeypatch.setattr(cases, "TABLE", tmp_path / "verdicts.json")
    expected, nodeid = Expectation(Code.RANK_DEATH, (1,)), "drills/test_deaths.py::test_killed[9]"
    for _ in range(2):
        cases.keep(nodeid, expected, distilled(two_tests().events, 1, lambda text: text))
    (drill,) = cases.load().values()
    assert (drill.file, drill.expected) == ("deaths-killed-9.jsonl", expected)
    assert len(read_all(drill.recording)) > 10
    assert cases.differences(Expectation(Code.STRAGGLER, (0,), "frozen"), cases.judged(drill.recording)) == [
        "code 'rank-death', not 'straggler'",
        "ranks (1,), not (0,)",
        "cause 'signal:SIGKILL', not 'frozen'",
    ]
    cases.forget([nodeid])
    assert (cases.load(), [p.name for p in tmp_path.iterdir()]) == ({}, ["verdicts.json"])

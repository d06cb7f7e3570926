"""Owns the kept drills on disk: one recording each, and one table of what they expect and how they are judged."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.desk.config.markers import Expectation
from pytest_megacpp.judge.arbiter import judge_test
from pytest_megacpp.judge.verdicts import Verdict
from pytest_megacpp.recording.codec import from_json, to_json
from tests.golden.drills.distil import read

HERE = Path(__file__).parent
TABLE = HERE / "verdicts.json"


@dataclass(frozen=True, slots=True)
class Drill:
    """One kept drill: what its mark expects, and how it was judged when it was kept."""

    file: str
    expected: Expectation
    summary: str
    certainty: str

    @property
    def recording(self) -> bytes:
        return (HERE / self.file).read_bytes()


def load() -> dict[str, Drill]:
    """By node id."""
    if not TABLE.exists():
        return {}
    return {nodeid: from_json(Drill, entry) for nodeid, entry in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def judged(recording: bytes) -> Verdict:
    return judge_test(read(recording), 0).verdict


def differences(expected: Expectation, verdict: Verdict) -> list[str]:
    """In what a verdict isn't the expected one; what the mark doesn't name may be anything."""
    wanted = {"code": str(expected.code), "ranks": expected.ranks, "cause": expected.cause}
    cause = None if verdict.cause is None else str(verdict.cause)
    found = {"code": str(verdict.code), "ranks": tuple(sorted(verdict.blamed_ranks)), "cause": cause}
    return [f"{n} {found[n]!r}, not {wanted[n]!r}" for n in wanted if wanted[n] is not None and wanted[n] != found[n]]


def keep(nodeid: str, expected: Expectation, recording: bytes) -> None:
    """Writes or replaces a case."""
    file = _file(nodeid)
    (HERE / file).write_bytes(recording)
    _save({**load(), nodeid: drill(file, expected, recording)})


def drill(file: str, expected: Expectation, recording: bytes) -> Drill:
    verdict = judged(recording)
    return Drill(file, expected, verdict.summary, str(verdict.certainty))


def forget(nodeids: Collection[str]) -> None:
    known = load()
    for nodeid in nodeids:
        (HERE / known.pop(nodeid).file).unlink(missing_ok=True)
    _save(known)


def judge_anew() -> None:
    """Takes today's judgement of every case as the right one, except where it isn't what the drill expects."""
    _save({nodeid: drill(kept.file, kept.expected, kept.recording) for nodeid, kept in load().items()})


def _save(drills: dict[str, Drill]) -> None:
    lines = (f"{json.dumps(n)}: {json.dumps(to_json(d), ensure_ascii=False)}" for n, d in sorted(drills.items()))
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _file(nodeid: str) -> str:
    """`…/test_deaths.py::test_os_exit[3]` → `deaths-os-exit-3.jsonl`."""
    module, _, test = nodeid.rpartition("/")[2].partition("::")
    words = f"{module.removeprefix('test_').removesuffix('.py')}-{test.removeprefix('test_')}"
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-") + ".jsonl"

"""Owns the `run.json` of a *joint run*, a lane's tests on several boxes, made of theirs; must not know a file.

Each box is a run of its own with its own recording, receipts and page. The joint run has all of its tests in one
document, so that whoever reads one file sees one result.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_megacpp.judge.verdicts import Outcome
from pytest_megacpp.recording.naming import opened_around
from pytest_megacpp.report.run_json import RunStatus, counts

_FIRST_FOUND = (RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.FAILED)  # what one box came to, all did


def joint_json(run_id: str, nodeids: Sequence[str], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The whole document. `nodeids`: of all tests as the desk selected them, in the session's order; `parts`: the
    documents of the boxes' runs by id, which have cases in place of a test that the desk could only read. What can't be
    added up (versions, machine, seed) is the first box's; a price is that of one box.
    """
    documents = list(parts.values())
    listed = _listed(nodeids, parts)
    outcomes = [Outcome(test["outcome"]) for test in listed if test["outcome"] is not None]
    return {
        **(documents[0] if documents else {}),
        "run_id": run_id,
        "status": str(joint_status(document.get("status") for document in documents)),
        "ranks": max((document.get("ranks") or 0 for document in documents), default=0),
        "started_at": min(_said(documents, "started_at"), default=None),
        "finished_at": max(_said(documents, "finished_at"), default=None),
        "tests": listed,
        "counts": counts(outcomes, len(listed)),
        "unreported": list(dict.fromkeys(n for document in documents for n in document.get("unreported") or ())),
        "bad_endings": [ending for document in documents for ending in document.get("bad_endings") or ()],
        "cost": _added([document.get("cost") or {} for document in documents]),
        "ids": {"app": None, "sandbox": None},
        "boxes": list(parts),
        "part_of": None,
    }


def _listed(nodeids: Sequence[str], parts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All tests that a box's run has, each where the desk selected it or what it is a case of. A selected one that none
    has is left out once all have said which they have: it has no cases, or those.
    """
    selected = dict.fromkeys(nodeids)
    found: dict[str, list[dict[str, Any]]] = {nodeid: [] for nodeid in selected}
    others: list[dict[str, Any]] = []
    for part, document in parts.items():
        for test in _tests(document):
            nodeid = test["nodeid"]
            name = nodeid if nodeid in selected else opened_around(nodeid, selected)
            found.get(name, others).append(_located(test, part))
    is_complete = all(_tests(document) for document in parts.values())
    placed = [found[name] or ([] if is_complete else [_without_result(name)]) for name in selected]
    return [test for tests in (*placed, others) for test in tests]


def joint_status(statuses: Iterable[object]) -> RunStatus:
    """What runs came to together: never greener than the worst of them. Without any, an error."""
    known = {_status(status) for status in statuses}
    if len(known) == 1:
        return known.pop()
    return next((status for status in _FIRST_FOUND if status in known), RunStatus.ERROR)


def _status(said: object) -> RunStatus:
    return next((status for status in RunStatus if status == said), RunStatus.ERROR)


def _tests(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tests = document.get("tests")
    return [test for test in tests if isinstance(test, dict) and "nodeid" in test] if isinstance(tests, list) else []


def _located(test: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A test of a box's run, whose directory is beside the joint one."""
    receipt = test.get("receipt")
    return {**test, "receipt": f"../{part}/{receipt}" if receipt else None}


def _without_result(nodeid: str) -> dict[str, Any]:
    nothing = {"seconds": None, "gpu_seconds": None, "usd": None}
    return {"nodeid": nodeid, "outcome": None, "verdict": None, "receipt": None, "expects": None, "cost": nothing}


def _said(documents: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    return [document[name] for document in documents if document.get(name)]


def _added(costs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of all boxes; null where one isn't known."""
    names = ("seconds", "gpu_seconds", "usd")
    known = {name: [cost.get(name) for cost in costs] for name in names}
    return {name: None if None in amounts else round(sum(amounts), 6) for name, amounts in known.items()}  # type: ignore[arg-type]

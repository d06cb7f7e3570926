"""What several boxes came to is one document, never greener than the worst of them."""

from typing import Any

import pytest

from pytest_megacpp.report.joint_run import joint_json, joint_status


def document(*tests: tuple[str, str | None], status: str = "passed", **fields: Any) -> dict[str, Any]:
    cost = {"seconds": 2.0, "gpu_seconds": 16.0, "usd": 0.5}
    listed = [
        {"nodeid": name, "outcome": outcome, "verdict": outcome, "receipt": f"receipts/{name}.json", "cost": cost}
        for name, outcome in tests
    ]
    times = {"started_at": "2026-12-01T10:00:00.000Z", "finished_at": "2026-12-01T10:01:00.000Z"}
    return {"status": status, "ranks": 2, "tests": listed, "cost": cost, "unreported": ["x"], **times, **fields}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["passed", "passed"], "passed"),
        (["passed", "failed"], "failed"),
        (["blocked", "blocked"], "blocked"),
        (["passed", "blocked"], "error"),
        (["error", "failed"], "failed"),
        (["passed", "running"], "running"),
        (["failed", "interrupted"], "interrupted"),
        (["passed", None], "error"),
        ([], "error"),
    ],
)
def test_a_status_is_that_of_the_worst_box(statuses: list[str | None], expected: str) -> None:
    assert joint_status(statuses) == expected


def test_the_tests_of_all_boxes_in_the_order_of_the_session() -> None:
    parts = {"r1": document(("a", "passed"), ("c", "failed"), status="failed"), "r2": document(("b", "passed"))}
    joint = joint_json("r0", ["a", "b", "c"], parts)
    assert [test["nodeid"] for test in joint["tests"]] == ["a", "b", "c"]
    assert [test["receipt"] for test in joint["tests"]] == [
        "../r1/receipts/a.json",
        "../r2/receipts/b.json",
        "../r1/receipts/c.json",
    ]
    assert joint["counts"]["selected"] == 3
    assert (joint["counts"]["passed"], joint["counts"]["failed"]) == (2, 1)
    assert (joint["status"], joint["boxes"], joint["run_id"]) == ("failed", ["r1", "r2"], "r0")
    assert joint["cost"] == {"seconds": 4.0, "gpu_seconds": 32.0, "usd": 1.0}
    assert joint["unreported"] == ["x"]


def test_a_box_that_left_no_document_has_tests_without_a_result() -> None:
    joint = joint_json("r0", ["a", "b"], {"r1": document(("a", "passed")), "r2": {}})
    assert [test["outcome"] for test in joint["tests"]] == ["passed", None]
    assert joint["status"] == "error"
    assert joint["cost"] == {"seconds": None, "gpu_seconds": None, "usd": None}


def test_cases_stand_where_the_test_was_that_the_desk_could_only_read() -> None:
    read, plain, suite, gone = "t.py::test_b", "t.py::test_a", "t.py::TestC", "t.py::test_none"
    parts = {
        "r1": document((f"{read}[x]", "passed"), (f"{read}[y]", "failed"), ("t.py::unheard_of", "passed")),
        "r2": document((plain, "passed"), (f"{suite}::test_it[1]", "passed")),
    }
    joint = joint_json("r0", [suite, gone, read, plain], parts)
    assert [test["nodeid"] for test in joint["tests"]] == [
        f"{suite}::test_it[1]",
        f"{read}[x]",
        f"{read}[y]",
        plain,
        "t.py::unheard_of",
    ]
    assert joint["counts"]["selected"] == 5
    assert joint["counts"]["failed"] == 1


def test_a_test_that_the_desk_read_is_kept_while_a_box_has_not_said_what_it_has() -> None:
    parts = {"r1": document(("t.py::test_a[1]", "passed")), "r2": {}}
    joint = joint_json("r0", ["t.py::test_a", "t.py::test_b"], parts)
    assert [(test["nodeid"], test["outcome"]) for test in joint["tests"]] == [
        ("t.py::test_a[1]", "passed"),
        ("t.py::test_b", None),
    ]


def test_no_test_is_lost_that_two_boxes_have_under_one_name() -> None:
    """Secrets are taken out of ids."""
    parts = {"r1": document(("a[*]", "passed")), "r2": document(("a[*]", "failed"))}
    assert [test["outcome"] for test in joint_json("r0", ["a[*]", "a[*]2"], parts)["tests"]] == ["passed", "failed"]

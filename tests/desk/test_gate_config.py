"""The rules of a gate, as they are written."""

from pathlib import Path

import pytest

from pytest_megacpp.desk.config.gate import Rule, check_places, read_rules


def rule(*run: str, **more: object) -> Rule:
    return read_rules([{"paths": ["**/kernels/**"], "run": list(run), **more}])[0]


@pytest.mark.parametrize(
    ("run", "nodeid", "guarded"),
    [
        (["suites"], "suites/a/test_b.py::test_c", True),
        (["./suites/"], "suites/a/test_b.py::test_c", True),
        (["suites"], "suites_too/test_b.py::test_c", False),
        (["suites/test_b.py"], "suites/test_b.py::TestIt::test_c[x]", True),
        (["suites/test_b.py::test_c"], "suites/test_b.py::test_c[x]", True),
        (["suites/test_b.py::test_c"], "suites/test_b.py::test_cd", False),
        (["."], "anything.py::test", True),
        (["suites", "!suites/slow"], "suites/slow/test_b.py::test_c", False),
        (["suites", "!suites/slow", "suites/slow/test_b.py"], "suites/slow/test_b.py::test_c", True),
    ],
)
def test_a_rule_guards_what_it_runs(run: list[str], nodeid: str, guarded: bool) -> None:
    assert rule(*run).guards(nodeid) is guarded


def test_a_rule_knows_its_files() -> None:
    some = rule("suites", "!suites/slow", "other/test_b.py::test_c")
    assert some.may_guard("suites/test_a.py")
    assert some.may_guard("other/test_b.py")
    assert not some.may_guard("suites/slow/test_a.py")
    assert not some.may_guard("other/test_c.py")


def test_a_rule_is_called_by_its_name_or_what_it_runs() -> None:
    assert rule("a", name="kernels").name == "kernels"
    assert rule("a/b").name == "a/b"
    assert rule("a", "b").name == "a … (rule 1)"


def test_a_skip_can_be_allowed() -> None:
    allowing = rule("a", may_skip=["a/test_b.py::test_c"])
    assert allowing.lets_skip("a/test_b.py::test_c[1]")
    assert not allowing.lets_skip("a/test_b.py::test_d")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"paths": []},
            "gate in [tool.pytest_megacpp] must be an array of tables, each under [[tool.pytest_megacpp.gate]]",
        ),
        ([{"path": ["a"]}], "number 1: unknown key 'path'; did you mean 'paths'?"),
        ([{"paths": [], "run": ["a"]}], "watches nothing: give it paths or follow_imports = true"),
        ([{"paths": ["a"]}], "runs nothing: say which tests it guards"),
        ([{"paths": "a", "run": ["a"]}], 'paths must be a list, such as ["**/kernels/**"], not'),
        ([{"paths": ["a"], "run": [3]}], "an entry of run must be a non-empty string, not 3"),
        ([{"paths": ["a"], "run": ["a"], "follow_imports": "yes"}], "follow_imports must be true or false, not 'yes'"),
        ([{"paths": ["a"], "run": ["../a"]}], "'../a' in run must be inside the project"),
        ([{"paths": ["a"], "run": ["/a"]}], "'/a' in run must be inside the project"),
        ([{"paths": ["a"], "run": ["a"]}, {"paths": ["b"], "run": ["a"]}], "two rules are called 'a'"),
    ],
)
def test_a_rule_without_sense_is_refused(value: object, said: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        read_rules(value)
    assert said in str(refusal.value)


def test_no_rules_and_rules_for_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match="no gate rule is configured: add at least one"):
        check_places((), tmp_path)
    with pytest.raises(pytest.UsageError, match=r"it runs 'suites', but .* does not exist"):
        check_places([rule("suites/test_a.py::test_b".partition("/")[0])], tmp_path)

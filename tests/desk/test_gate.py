"""Which rules a change triggers, and the words for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.gate import Rule
from pytest_megacpp.desk.gate.decide import Gate, as_json, decide, explained
from tests.desk.repository import Repository

KERNELS = Rule("kernels", ("**/kernels/**", "!*.md"), ("suites/kernels",))
BLOCKS = Rule("blocks", ("blocks/*.py",), ("suites/test_blocks.py",))
IMPORTS = Rule("imports", (), ("suites",), follow_imports=True)
DEFAULT_TEST_FILES = ("test_*.py", "*_test.py")
Ask = Callable[..., Gate]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository.new(tmp_path)
    repository.write("kernels/rms.py", "from lib import helper")
    repository.write("lib/__init__.py")
    repository.write("lib/helper.py")
    repository.write("blocks/moe.py")
    repository.write("suites/kernels/test_rms.py", "from kernels import rms")
    repository.write("suites/kernels/conftest.py")
    repository.write("suites/test_blocks.py", "import blocks.moe")
    repository.write("suites/dynamic/test_any.py", "import importlib\nimportlib.import_module(name)")
    repository.write("conftest.py")
    repository.write("README.md")
    repository.write("pyproject.toml")
    repository.commit()
    repository.git("tag", "base")
    return repository


@pytest.fixture
def ask(repository: Repository) -> Ask:
    """`ask(rules, changed…)`: the gate after changes to these files."""

    def answer(rules: list[Rule], *changed: str, project: str = ".") -> Gate:
        for name in changed:
            repository.write(name, "# changed")
        return decide("base", rules, repository.root / project, DEFAULT_TEST_FILES)

    return answer


def triggered(gate: Gate) -> set[str]:
    return {decision.rule.name for decision in gate.triggered}


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ("README.md", set()),
        ("kernels/README.md", set()),
        ("kernels/rms.cu", {"kernels"}),
        ("deep/kernels/any.py", {"kernels"}),
        ("blocks/moe.py", {"blocks"}),
        ("blocks/deep/moe.py", set()),
        ("lib/helper.py", set()),
        ("suites/kernels/test_new.py", {"kernels"}),
        ("suites/kernels/data.json", {"kernels"}),
        ("suites/test_blocks.py", {"blocks"}),
        ("suites/conftest.py", {"kernels", "blocks"}),
        ("suites/__init__.py", {"kernels", "blocks"}),
        ("suites/other/conftest.py", set()),
        ("conftest.py", {"kernels", "blocks"}),
        ("pyproject.toml", {"kernels", "blocks"}),
        ("deep/pyproject.toml", set()),
        ("pytest.ini", {"kernels", "blocks"}),
    ],
)
def test_globs_suites_conftests_and_configuration_trigger(ask: Ask, changed: str, names: set[str]) -> None:
    assert triggered(ask([KERNELS, BLOCKS], changed)) == names


def test_nothing_changed_triggers_nothing_and_says_so(ask: Ask) -> None:
    gate = ask([KERNELS])
    assert not gate.triggered
    assert explained(gate)[1:] == ["  rule kernels: does not run, no file that it watches changed"]
    assert explained(gate)[0].endswith("0 files changed")


def test_a_deleted_and_a_renamed_kernel_trigger(ask: Ask, repository: Repository) -> None:
    repository.git("mv", "kernels/rms.py", "norm.py")
    gate = ask([KERNELS])
    assert gate.decisions[0].why == ("kernels/rms.py (deleted) matches **/kernels/**",)


def files(gate: Gate) -> dict[str, str]:
    return dict(gate.decisions[0].files)


def test_imports_trigger_file_by_file(ask: Ask) -> None:
    gate = ask([IMPORTS], "lib/helper.py")
    chain = "lib/helper.py is imported by kernels/rms.py ← suites/kernels/test_rms.py"
    assert files(gate)["suites/kernels/test_rms.py"] == chain
    assert gate.runs("suites/kernels/test_rms.py::test_x[1]")
    assert not gate.runs("suites/test_blocks.py::test_y")
    assert f"    test file suites/kernels/test_rms.py: {chain}" in explained(gate, everything=True)
    assert f"  rule imports: runs, 2 of 3 test files: {files(gate)['suites/dynamic/test_any.py']}" in explained(gate)


def test_a_package_s_init_is_imported_with_its_modules(ask: Ask) -> None:
    assert "suites/kernels/test_rms.py" in files(ask([IMPORTS], "lib/__init__.py"))


def test_a_changed_test_file_and_its_conftest_trigger_themselves(ask: Ask) -> None:
    assert files(ask([IMPORTS], "suites/test_blocks.py"))["suites/test_blocks.py"] == "suites/test_blocks.py changed"
    gate = ask([IMPORTS], "suites/kernels/conftest.py")
    assert files(gate)["suites/kernels/test_rms.py"] == "suites/kernels/conftest.py changed"


def test_a_deleted_import_triggers(ask: Ask, repository: Repository) -> None:
    (repository.root / "lib/helper.py").unlink()
    assert "lib/helper.py (deleted) is imported by" in files(ask([IMPORTS]))["suites/kernels/test_rms.py"]


def test_an_import_that_is_not_written_there_may_be_any_python_file(ask: Ask) -> None:
    gate = ask([IMPORTS], "unrelated.py")
    assert files(gate) == {
        "suites/dynamic/test_any.py": "suites/dynamic/test_any.py:2 imports a module whose name is computed: it may be"
        " unrelated.py"
    }
    assert not files(ask([IMPORTS], "README.md")).keys() - {"suites/dynamic/test_any.py"}


def test_documentation_is_no_import(ask: Ask) -> None:
    assert not ask([IMPORTS], "README.md", "lib/notes.md").triggered


def test_native_sources_beside_an_import_trigger(ask: Ask) -> None:
    gate = ask([IMPORTS], "lib/csrc/scan.cu")
    found = files(gate)
    assert found.pop("suites/kernels/test_rms.py") == "lib/csrc/scan.cu is next to modules that it imports"
    assert found.keys() == {"suites/dynamic/test_any.py"}


def test_what_cannot_be_known_runs_everything(ask: Ask, repository: Repository) -> None:
    gate = decide("0" * 40, [KERNELS, IMPORTS], repository.root, DEFAULT_TEST_FILES)
    assert triggered(gate) == {"kernels", "imports"}
    first, *rules = explained(gate)
    assert first.endswith("everything runs, because the changes cannot be determined")
    assert all("runs: the changes cannot be determined: the null revision" in line for line in rules)


def test_a_changed_submodule_may_be_any_import(ask: Ask, repository: Repository) -> None:
    inner = Repository.new(repository.root / "third_party")
    inner.write("x.py")
    inner.commit()
    assert len(files(ask([IMPORTS]))) == 3


def test_a_project_below_the_top_sees_its_own_paths(repository: Repository) -> None:
    repository.write("proj/suites/test_it.py", "import code_of_it")
    repository.write("proj/src/code_of_it.py")
    repository.commit()
    repository.git("tag", "-f", "base")
    rules = [Rule("own", ("src/**",), ("suites",)), Rule("shared", ("kernels/**",), ("suites/test_it.py",))]
    follow = Rule("follow", (), ("suites",), follow_imports=True)

    def after(*changed: str) -> set[str]:
        for name in changed:
            repository.write(name, "# changed")
        found = triggered(decide("base", [*rules, follow], repository.root / "proj", DEFAULT_TEST_FILES))
        repository.git("checkout", "-q", ".")
        return found

    assert after("proj/src/code_of_it.py") == {"own", "follow"}
    assert after("kernels/rms.py") == {"shared"}
    assert after("proj/suites/test_it.py") == {"own", "shared", "follow"}
    assert after("pyproject.toml") == {"own", "shared", "follow"}


def test_what_a_rule_takes_out_is_not_its_business(ask: Ask) -> None:
    some = Rule("some", ("lib/**",), ("suites", "!suites/dynamic", "!suites/kernels"))
    gate = ask([some], "lib/helper.py")
    assert gate.decisions[0].guarded == ("suites/test_blocks.py",)
    assert not gate.deciding("suites/dynamic/test_any.py::test_x")


def test_environments_and_builds_hold_no_tests_of_a_rule(ask: Ask, repository: Repository) -> None:
    for folder in ("env", "build", "node_modules", ".tox"):
        repository.write(f"{folder}/lib/test_foreign.py")
    repository.write("env/pyvenv.cfg")
    gate = ask([Rule("all", ("lib/**",), (".",))], "lib/helper.py")
    assert [file for file in gate.decisions[0].guarded if "foreign" in file] == []
    assert "suites/test_blocks.py" in gate.decisions[0].guarded


def test_unguarded_tests_always_run(ask: Ask) -> None:
    gate = ask([KERNELS])
    assert gate.runs("elsewhere/test_new.py::test_x")
    assert not gate.deciding("elsewhere/test_new.py::test_x")


def test_a_file_that_pytest_takes_for_no_test_is_guarded_by_globs_alone(ask: Ask, repository: Repository) -> None:
    """It can be collected by name or by a plugin; what it imports was not followed, so it runs."""
    repository.write("suites/bench.py", "import blocks.moe")
    repository.commit()
    repository.git("tag", "-f", "base")
    gate = ask([IMPORTS])
    assert gate.runs("suites/bench.py::test_fast")
    assert not gate.runs("suites/test_blocks.py::test_one")
    watching = Rule("watching", ("blocks/*.py",), ("suites",), follow_imports=True)
    assert ask([watching], "blocks/moe.py").triggered_for("suites/bench.py::test_fast")


def test_a_rule_in_which_no_test_file_is_found_may_import_anything(ask: Ask, repository: Repository) -> None:
    repository.write("cases/all.yaml")
    repository.commit()
    repository.git("tag", "-f", "base")
    cases = Rule("cases", (), ("cases",), follow_imports=True)
    assert not ask([cases], "README.md").triggered
    (decision,) = ask([cases], "lib/helper.py").triggered
    assert decision.why == ("no test file was found in what it runs, so it may import lib/helper.py",)


def test_many_reasons_are_counted(ask: Ask) -> None:
    gate = ask([KERNELS], *(f"kernels/k{n}.py" for n in range(9)))
    assert explained(gate)[-1] == "    and 5 more"
    assert len(explained(gate)) == 6
    said = explained(gate, everything=True)
    assert said[-1] == "    test file suites/kernels/test_rms.py"
    assert len(said) == 11


def test_the_gate_is_kept(ask: Ask) -> None:
    kept = as_json(ask([KERNELS, BLOCKS], "blocks/moe.py"))
    assert kept["since"] == "base"
    assert kept["rules"] == [
        {"name": "kernels", "triggered": False, "why": [], "files": []},
        {"name": "blocks", "triggered": True, "why": ["blocks/moe.py matches blocks/*.py"], "files": []},
    ]


def test_a_glob_without_sense_is_refused(ask: Ask) -> None:
    with pytest.raises(pytest.UsageError, match=r"'bad'.*invalid glob in paths"):
        ask([Rule("bad", ("!",), ("suites",))])

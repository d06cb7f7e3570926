"""What a test file imports, by its sources alone."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytest_megacpp.desk.gate.changes import python_files
from pytest_megacpp.desk.gate.imports import ImportGraph, Reach

ROOT = Path(__file__).parents[2]
LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*(getattr(module, "__file__", None) or "" for module in list(sys.modules.values())), sep="\\n")
"""


def reached(root: Path, files: dict[str, str], test: str = "tests/test_it.py", *places: str) -> Reach:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    return ImportGraph(root, set(files), places or ("", "src")).reach(test)


@pytest.mark.parametrize(
    ("said", "there", "found"),
    [
        ("import pkg.a.b", ["src/pkg/__init__.py", "src/pkg/a/__init__.py", "src/pkg/a/b.py"], None),
        ("from pkg.a import b", ["src/pkg/__init__.py", "src/pkg/a/__init__.py", "src/pkg/a/b.py"], None),
        ("from pkg import name", ["pkg/__init__.py", "pkg/other.py"], ["pkg/__init__.py"]),
        ("from pkg import *", ["pkg/__init__.py", "pkg/a.py", "pkg/deep/b.py"], ["pkg/__init__.py", "pkg/a.py"]),
        ("import namespace.mod", ["namespace/mod.py"], None),
        ("def f():\n    if x:\n        import late", ["late.py"], None),
        ("try:\n    import a\nexcept ImportError:\n    import b", ["a.py", "b.py"], None),
        ("import helper", ["tests/helper.py"], None),
        ("from . import helper", ["tests/__init__.py", "tests/helper.py"], None),
        ("from ..lib.mod import f", ["lib/__init__.py", "lib/mod.py", "mod.py"], ["lib/__init__.py", "lib/mod.py"]),
        ("import moved", ["odd/place/moved.py"], None),
        ("import moved.sub", ["odd/moved/__init__.py", "odd/moved/sub.py"], None),
        ("import json, random", ["odd/json.py", "odd/random.py"], []),
        ("import found", ["found.py", "elsewhere/found.py"], ["found.py"]),
        ("import importlib\nimportlib.import_module('pkg.x')", ["pkg/x.py"], None),
        ("import pytest\nmod = pytest.importorskip('gpu_only')", ["gpu_only.py"], None),
        ("pytest_plugins = ['plugs.one', 'two']", ["plugs/one.py", "two.py"], None),
        ("pytest_plugins = 'plugs.one'", ["plugs/one.py"], None),
        ("command = ['-m', 'pkg.worker']", ["pkg/worker.py"], None),
        ("path = Path(__file__).with_name('ranks.py')", ["tests/ranks.py"], None),
        ("run('tools/x.py')", ["tools/x.py"], None),
        ("# import commented\n'import said'", ["commented.py", "said.py"], []),
        ("import not.a.module", ["not.py"], []),
    ],
)
def test_an_import_is_followed(tmp_path: Path, said: str, there: list[str], found: list[str] | None) -> None:
    files = dict.fromkeys(there, "") | {"tests/test_it.py": said}
    reach = reached(tmp_path, files)
    assert reach.files.keys() == {"tests/test_it.py", *(there if found is None else found)} | {
        f for f in there if f == "tests/__init__.py"
    }


def test_imports_of_imports_are_followed_through_circles(tmp_path: Path) -> None:
    files = {"tests/test_it.py": "import a", "a.py": "import b", "b.py": "import a, c", "c.py": "", "d.py": "import a"}
    reach = reached(tmp_path, files)
    assert reach.files.keys() == {"tests/test_it.py", "a.py", "b.py", "c.py"}
    assert reach.chain("c.py") == ["tests/test_it.py", "a.py", "b.py", "c.py"]


def test_conftests_and_packages_above_belong_to_a_test(tmp_path: Path) -> None:
    files = {
        "conftest.py": "import root_helper",
        "root_helper.py": "",
        "tests/__init__.py": "from . import shared",
        "tests/shared.py": "",
        "tests/deep/conftest.py": "",
        "tests/deep/test_it.py": "",
        "tests/other/conftest.py": "",
    }
    reach = reached(tmp_path, files, "tests/deep/test_it.py")
    assert reach.files.keys() == files.keys() - {"tests/other/conftest.py"}


def test_a_name_that_is_gone_still_leads_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text("import helper")
    reach = ImportGraph(tmp_path, {"tests/test_it.py", "helper.py"}).reach("tests/test_it.py")
    assert "helper.py" in reach.files
    assert reach.opaque == ()


@pytest.mark.parametrize(
    "said",
    [
        "import importlib\nimportlib.import_module(name)",
        "import_module('.x', package)",
        "__import__(name)",
        "spec_from_file_location('x', path)",
        "runpy.run_path(path)",
        "exec(code)",
        "pytest_plugins = plugins()",
        "def broken(:",
        "\0",
    ],
)
def test_what_is_not_written_there_is_said(tmp_path: Path, said: str) -> None:
    reach = reached(tmp_path, {"tests/test_it.py": "import helper", "helper.py": said})
    assert len(reach.opaque) == 1
    assert reach.opaque[0].startswith("helper.py")


def test_what_only_looks_dynamic_is_not(tmp_path: Path) -> None:
    said = "model.exec(code)\npytest_plugins = ()\nloader.load(name)\nimport_module('json')"
    assert reached(tmp_path, {"tests/test_it.py": said}).opaque == ()


@pytest.mark.parametrize("module", ["tests.report.test_text", "tests.desk.test_cli", "tests.plugin.test_gate"])
def test_what_python_really_loads_is_reached(module: str) -> None:
    """Of this repository, by an interpreter of its own."""
    command = [sys.executable, "-c", LOADED, module]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    ours = {Path(file).relative_to(ROOT).as_posix() for file in loaded if Path(file).is_relative_to(ROOT)}
    reach = ImportGraph(ROOT, python_files(ROOT)).reach(f"{module.replace('.', '/')}.py")
    assert len(ours) > 5
    assert ours <= reach.files.keys()

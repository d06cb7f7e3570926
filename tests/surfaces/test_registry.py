"""A surface is one package and one line in the registry: nothing else knows its name, and another one can be added."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_megacpp
from pytest_megacpp.surfaces.registry import CONFIGURED_PACKAGE, SURFACES, attachable, is_remote, provider
from tests.plugin.project import Project

PACKAGE = Path(pytest_megacpp.__file__).parent
REGISTRY = PACKAGE / "surfaces" / "registry.py"
OWN = tuple(PACKAGE / "surfaces" / name for name in SURFACES)
PACKAGES = (*(entry.package for entry in SURFACES.values()), CONFIGURED_PACKAGE)
OTHERS = sorted(path for path in PACKAGE.rglob("*.py") if path != REGISTRY and not set(path.parents) & set(OWN))


def names_in(path: Path) -> list[str]:
    """Names of surfaces that stand in a module as texts of their own: to be compared with, listed or looked up."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and node.value in {*SURFACES}]


def test_only_a_surface_s_own_package_knows_its_name() -> None:
    """Other packages' imports of it are for `tests/test_layers.py`, which allows none."""
    assert {path: names for path in OTHERS if (names := names_in(path))} == {}
    assert names_in(REGISTRY)


@pytest.mark.parametrize("name", SURFACES)
def test_a_provider_goes_by_the_name_it_is_registered_with(name: str) -> None:
    assert provider(name).name == name


@pytest.mark.parametrize("name", SURFACES)
def test_mypy_is_asked_whether_a_provider_provides_everything(name: str) -> None:
    """The registry imports it by its name, which no type checker follows."""
    module = (PACKAGE / "surfaces" / name / "provider.py").read_text(encoding="utf-8")
    assert "\nPROVIDER: SurfaceProvider = " in module


def test_every_package_of_a_surface_is_registered() -> None:
    packages = {f"pytest_megacpp.surfaces.{path.parent.name}" for path in PACKAGE.glob("surfaces/*/__init__.py")}
    assert {*PACKAGES} == packages


def test_the_registry_imports_no_surface() -> None:
    script = "import pytest_megacpp.surfaces.registry, sys; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name in ("torch", "modal") or name.startswith(PACKAGES)] == []


def test_a_surface_that_is_not_registered_any_more_was_elsewhere() -> None:
    """Recordings keep its name for ever."""
    assert is_remote("abacus")


def test_runs_can_be_attached_to_somewhere() -> None:
    """Where nothing is known of a run, it is looked for on the first of these."""
    assert attachable()


# -- another one ---------------------------------------------------------------------------------------------------

PROVIDER = '''
"""Owns runs on a machine that somebody lent."""

from dataclasses import replace

from pytest_megacpp.report.money import Rate
from pytest_megacpp.surfaces.local.provider import LocalProvider


class LentProvider(LocalProvider):
    name = "lent"
    title = "a lent machine"
    is_remote = True

    def place(self, options, environ, devices):
        owner = options.tables[self.name]["owner"]
        return replace(super().place(options, environ, devices), surface=self.name, notice=f"the machine of {owner}")

    def rate(self, options, gpu, ranks, *, dry_run):
        return Rate(3.0, 0, "what a friend takes")


PROVIDER = LentProvider()
'''
LAST_LINE = '    "local": Entry("pytest_megacpp.surfaces.local"),\n'
LINE = '    "lent": Entry("pytest_megacpp.surfaces.lent", has_table=True),\n'
TESTS = """
    import pytest

    @pytest.mark.h200x8
    def test_passes(modal_h200x8):
        assert modal_h200x8.surface == "lent"

    @pytest.mark.h200x8
    def test_fails():
        raise ValueError("no")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A directory with a copy of the package that has one more surface."""
    root = tmp_path / "copy"
    shutil.copytree(PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    package = root / PACKAGE.name / "surfaces" / "lent"
    package.mkdir()
    (package / "__init__.py").write_text('"""Boxes on a machine that somebody lent."""\n')
    (package / "provider.py").write_text(PROVIDER)
    registry = root / REGISTRY.relative_to(PACKAGE.parent)
    before = registry.read_text(encoding="utf-8")
    assert before.count(LAST_LINE) == 1
    registry.write_text(before.replace(LAST_LINE, LAST_LINE + LINE), encoding="utf-8")
    return root


def test_a_surface_is_a_package_and_a_line(copy: Path, tmp_path: Path) -> None:
    """It is chosen by its name, reads its table, has its price, and reruns name it."""
    project = Project(tmp_path / "project")
    project.write("pyproject.toml", '[tool.pytest_megacpp.lent]\nowner = "a friend"\n')
    project.write("test_a.py", TESTS)
    ran = project.pytest(
        *("-m", "h200x8", "--surface", "lent", "--dry-run", "--ranks", "1"), env={"PYTHONPATH": str(copy)}
    )
    assert ran.outcomes() == {"test_passes": "passed", "test_fails": "failed"}, ran.text
    assert "(1 ranks of H200:8) on the machine of a friend" in ran.text
    assert "h200x8 costs $3.00/h (what a friend takes)" in ran.text
    assert "megacpp: preload " in ran.text, "progress on another machine is shown"
    assert ran.run is not None
    assert ran.run["surface"] == "lent"
    assert "pytest -m h200x8 --surface lent --dry-run --ranks 1 test_a.py::test_fails" in ran.failure("test_fails")
    assert "lent" in project.megacpp("doctor", "--help", env={"PYTHONPATH": str(copy)}).text

"""A project under git with rules of a gate, and HEAD on a branch of its own."""

from pathlib import Path

from tests.desk.repository import Repository
from tests.plugin.project import LANE, Project

CONFIGURATION = """
    [tool.pytest.ini_options]
    addopts = ["--strict-markers"]

    [[tool.pytest_megacpp.gate]]
    name = "kernels"
    paths = ["kernels/**"]
    run = ["suites/kernels"]

    [[tool.pytest_megacpp.gate]]
    name = "blocks"
    paths = ["blocks/**"]
    run = ["suites/blocks"]
"""
LANE_TEST = """
    import pytest

    @pytest.mark.h200x8(ranks=1)
    def test_one(): pass

    @pytest.mark.h200x8(ranks=1)
    def test_two(): pass
"""
GATE = (*LANE, "--gate-since", "main")


class Gated(Project):
    """A project under git, with HEAD on a branch of its own."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.repository = Repository.new(root)
        self.write("pyproject.toml", CONFIGURATION)
        self.write(".gitignore", ".witness*\n")
        for name in ("kernels/rms.py", "blocks/moe.py", "README.md", "suites/blocks/test_moe.py"):
            self.write(name, "")
        self.write("suites/kernels/test_rms.py", LANE_TEST)
        self.write("tests/test_ordinary.py", "def test_ordinary(): pass\n")
        self.repository.commit()
        self.repository.git("checkout", "-q", "-b", "work")

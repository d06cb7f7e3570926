"""Owns `megacpp init`: what a repository needs for its first lane test; must not overwrite anything.

A pyproject.toml without the plugin's table gets it at its end, and its `testpaths`, where it sets any, gets the
directory of the first test; every other file is only created if it doesn't exist.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.desk.commands import testpaths
from pytest_megacpp.desk.commands.testpaths import TestPaths
from pytest_megacpp.desk.config.options import read_settings
from pytest_megacpp.desk.config.pyproject import TABLE
from pytest_megacpp.desk.run.directory import replace_file

SUITES = "smoke_suites"
TEST_FILE = f"{SUITES}/test_first_smoke.py"
WORKFLOW_FILE = ".github/workflows/megacpp.yml"
TRY_IT = f"pytest -m h200x8 --surface local --dry-run {TEST_FILE}"

CONFIGURATION = """\
[tool.pytest_megacpp]
# The command line (--surface) and variables (MEGACPP_SURFACE) override these values.
# surface = "auto"          # where lane tests run: auto, local or modal
# dry_run = true            # CPU and gloo even where there are GPUs
# lane_dir = ".megacpp"     # where runs are kept; git ignores it
# preload = ["torch.fx"]    # modules that all ranks need, imported once for all

# Seconds; --lane-limit NAME=SECONDS and arguments of marks override these.
# [tool.pytest_megacpp.limits]
# startup = 300             # until all ranks have collected their tests
# skew = 120                # waiting in a collective while a missing peer compiles
# stall = 120               # waiting in a collective while a missing peer doesn't
# test = 900                # one test

# A lane is a mark and a fixture: this makes @pytest.mark.h100x2 and modal_h100x2. h200x8 is built in.
# [tool.pytest_megacpp.lanes.h100x2]
# gpu = "H100:2"

# The gate: pytest -m h200x8 --gate-since origin/main runs these tests only when what they guard changed.
[[tool.pytest_megacpp.gate]]
name = "smoke"
paths = ["**/kernels/**", "**/*.cu", "**/*.cuh"]  # gitwildmatch, as in .gitignore
run = ["smoke_suites"]                            # directories, files or node ids
follow_imports = true                             # and when a module that a test imports changed, directly or not
"""

TEST = '''\
"""The first lane test: every rank runs it, and the box reports what happened if one fails.

pytest -m h200x8 --surface local --dry-run    here, on CPU and gloo
pytest -m h200x8                              on eight GPUs
"""

import pytest


@pytest.mark.h200x8(ranks=2)  # without ranks: all ranks of the lane
def test_all_ranks_agree(modal_h200x8):
    import torch
    import torch.distributed as dist

    lane = modal_h200x8  # the default process group is initialised
    total = torch.full((4,), float(lane.rank + 1), device=lane.device)
    dist.all_reduce(total)
    assert total.tolist() == [lane.ranks * (lane.ranks + 1) / 2] * 4
    lane.assert_same(total)
    lane.record("distributed_mode", "ddp")
'''

WORKFLOW = """\
# Lane tests as a dry run on every pull request: CPU and gloo, no GPU, no secrets, safe for forks.
# It proves launch and logic, and says nothing about GPUs; for the real gate see the plugin's docs/workflows.
name: lane tests (dry run)

on:
  pull_request:
  push:
    branches: [main]

permissions:
  contents: read

concurrency:
  group: lanes-${{ github.ref }}
  cancel-in-progress: true

jobs:
  dry-run:
    runs-on: ubuntu-latest
    timeout-minutes: 30
    steps:
      - uses: actions/checkout@v4
        with:
          fetch-depth: 0  # the gate compares with where this branch left its base
          persist-credentials: false
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
          cache: pip
          cache-dependency-path: pyproject.toml
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install pytest-megacpp  # and what your tests import: pip install -e .
      - name: Lane tests whose subject changed
        if: github.event_name == 'pull_request'
        run: pytest -m h200x8 --surface local --dry-run --gate-since "origin/$GITHUB_BASE_REF" smoke_suites
      - name: All lane tests
        if: github.event_name != 'pull_request'
        run: pytest -m h200x8 --surface local --dry-run smoke_suites
      - uses: actions/upload-artifact@v4
        if: failure()
        with:
          name: lane-runs
          path: .megacpp/runs
          include-hidden-files: true
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What was done to a file of the starter."""

    name: str
    action: str


def write_starter(root: Path) -> Iterator[Written]:
    """Creates what doesn't exist yet below `root`. Raises UsageError for an unreadable pyproject.toml, OSError."""
    yield _configure(root / "pyproject.toml")
    for name, text in ((TEST_FILE, TEST), (WORKFLOW_FILE, WORKFLOW)):
        yield _make(root / name, name, text)
    found = testpaths.read(root)
    if found is not None and not found.has(SUITES):
        yield _look_there_too(found)


def _look_there_too(found: TestPaths) -> Written:
    """`pytest -m h200x8` without a path would find no lane test."""
    file = found.config
    if file.name == "pyproject.toml":
        edited = testpaths.with_one_more(file.read_bytes().decode(), SUITES)
        if edited is not None:
            replace_file(file.resolve(), edited.encode())
            return Written(file.name, f"{SUITES} added to testpaths")
    return Written(file.name, f"unchanged: have pytest look into {SUITES}, too: {found.line(SUITES)}")


def _configure(pyproject: Path) -> Written:
    name = pyproject.name
    if not pyproject.exists():
        return _make(pyproject, name, CONFIGURATION)
    read_settings(pyproject)
    there = pyproject.read_bytes().decode()
    if "tool.pytest_megacpp" in there:
        return Written(name, f"unchanged: it has {TABLE} already")
    newline = "\r\n" if "\r\n" in there else "\n"
    added = ("" if there.endswith("\n") or not there else "\n") + f"\n{CONFIGURATION}"
    replace_file(pyproject.resolve(), (there + added.replace("\n", newline)).encode())
    return Written(name, f"{TABLE} added at its end")


def _make(path: Path, name: str, text: str) -> Written:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        return Written(name, "unchanged: the file exists")
    return Written(name, "written")

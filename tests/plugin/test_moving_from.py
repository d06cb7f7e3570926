"""The examples of docs/moving-from.md run as they stand there."""

import re
from pathlib import Path

import pytest

from tests.plugin.project import LANE, Project, Ran

PAGE = Path(__file__).parents[2] / "docs" / "moving-from.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("moving"))
    for name, source in EXAMPLES.items():
        project.write(name, source)
    return project.pytest(*LANE)


def test_every_example_passes(ran: Ran) -> None:
    tests = (
        "TestAllReduce::test_sum",
        "test_gather[1]",
        "test_gather[2]",
        "test_ring",
        "test_the_script",
        "test_training",
    )
    assert ran.outcomes() == dict.fromkeys(tests, "passed"), ran.text


def test_every_block_is_an_example() -> None:
    assert len(EXAMPLES) == PAGE.read_text(encoding="utf-8").count("```python\n")

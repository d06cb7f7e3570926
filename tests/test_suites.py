"""The suites that users run are there in two sizes, so that a hang can be told from the model it happens in."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SUITES = Path(__file__).parents[1] / "smoke_suites"
NAMES = sorted(
    path.name for path in SUITES.iterdir() if any(path.glob("test_*.py")) and path.name not in ("drills", "tour")
)


def sizes(suite: Path) -> Iterator[dict[str | None, str]]:
    """What `lane.pick(full=…, diagnostic=…)` chooses from, each time."""
    for path in suite.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pick":
                yield {keyword.arg: ast.dump(keyword.value) for keyword in node.keywords}


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_has_two_sizes(name: str) -> None:
    found = list(sizes(SUITES / name))
    assert found
    for size in found:
        assert set(size) == {"full", "diagnostic"}
        assert size["full"] != size["diagnostic"]


def test_no_suite_is_left_out() -> None:
    assert {"blocks", "collectives", "fsdp2", "kernels"} <= set(NAMES)

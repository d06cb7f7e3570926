"""The table of kernel interfaces: complete, true of this machine, and the same in the documentation."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.box.host import kernel
from pytest_megacpp.judge.certainty import HARMS

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernel.md"
END_OF_TEXT = "<!-- made by: MEGACPP_GOLDEN=rewrite pytest tests/box/test_kernel.py -->\n\n"


def documented() -> str:
    head = "| interface | capability | what for | instead | lost without it |\n|---|---|---|---|---|\n"
    return head + "".join(
        f"| `{row.call}` | `{row.name}` | {row.purpose} | {row.fallback} | {row.lost} |\n" for row in kernel.INTERFACES
    )


def test_the_document_says_what_the_table_says() -> None:
    text, end, table = DOCUMENT.read_text(encoding="utf-8").partition(END_OF_TEXT)
    if os.environ.get("MEGACPP_GOLDEN") == "rewrite":
        DOCUMENT.write_text(text + end + documented(), encoding="utf-8")
    assert table == documented()


def test_each_interface_has_a_name_of_its_own() -> None:
    names = [row.name for row in kernel.INTERFACES]
    assert len(set(names)) == len(names)
    assert {"thread_runs", "memory_events", "kernel_log"} <= {*names} & HARMS.keys()


def test_what_this_machine_lacks_comes_with_a_reason(tmp_path: Path) -> None:
    missing = kernel.missing(tmp_path)
    assert missing.keys() <= {row.name for row in kernel.INTERFACES}
    assert all(missing.values())
    assert not missing.keys() & {"processes", "unix_sockets", "file_locks"}


def raises(error: Exception) -> Callable[[Path], str]:
    def probe(_: Path) -> str:
        raise error

    return probe


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(38, "Function not implemented"), "Function not implemented"),
        (OSError("no netlink"), "no netlink"),
        (AttributeError("module 'os' has no attribute 'pidfd_open'"), "module 'os' has no attribute 'pidfd_open'"),
    ],
)
def test_a_probe_that_fails_is_an_interface_that_is_missing(error: Exception, said: str, tmp_path: Path) -> None:
    row = kernel.Interface("x", "x(2)", "a", "b", "c", raises(error))
    assert kernel.why_not(row, tmp_path) == said

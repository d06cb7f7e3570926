"""Owns `history.html` of a lane directory, its content and the file; must not know which receipts it is of."""

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_megacpp.desk.run.directory import HISTORY, replace_file
from pytest_megacpp.desk.run.receipts import History

if TYPE_CHECKING:
    from pytest_megacpp.report.history.series import Series


def history_document(history: History) -> "tuple[list[Series], bytes] | None":
    """The series of all receipts and their page; None where there are only replays."""
    from pytest_megacpp.report.history.page import history_page  # no command without a page pays for it
    from pytest_megacpp.report.history.series import series

    found = series(history.receipts)
    return (found, history_page(found, history.receipts, history.covered)) if found else None


def write_history(lane_dir: Path, history: History) -> Path | None:
    """The page of all receipts; None, and no file, where there are only replays. Raises OSError."""
    path, made = lane_dir / HISTORY, history_document(history)
    if made is None:
        path.unlink(missing_ok=True)
        return None
    replace_file(path, made[1])
    return path

"""Owns writing `history.html` into a lane directory; must not know what is on it, nor which receipts it is of."""

from pathlib import Path

from pytest_megacpp.desk.run.directory import HISTORY, replace_file
from pytest_megacpp.desk.run.receipts import History


def write_history(lane_dir: Path, history: History) -> Path | None:
    """The page of all receipts; None, and no file, where there are only replays. Raises OSError."""
    from pytest_megacpp.report.history.page import history_page  # no command without a page pays for it
    from pytest_megacpp.report.history.series import series

    path, found = lane_dir / HISTORY, series(history.receipts)
    if not found:
        path.unlink(missing_ok=True)
        return None
    replace_file(path, history_page(found, history.receipts, history.covered))
    return path

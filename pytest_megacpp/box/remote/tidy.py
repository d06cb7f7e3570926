"""Owns what is left of a box on a machine of somebody's own when it has ended; must not know whether it has."""

import shutil
from pathlib import Path

TIED, LOOSE = "tied", "loose"
"""How such a box is held: it ends with one connection, or lives on a lease."""


def tidy(home: Path, *, keep_records: bool) -> None:
    """Removes what a box needed; records that a later connection may ask for stay, and the package that serves them."""
    if keep_records:
        shutil.rmtree(home / "source", ignore_errors=True)
        (home / "plan.json").unlink(missing_ok=True)
    else:
        shutil.rmtree(home, ignore_errors=True)

"""Owns what the configuration alone asks for, for commands that look at a surface without a pytest session; must not
know the command.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_megacpp.desk.config.lanes import read_environment
from pytest_megacpp.desk.config.tables import DeferredTables


@dataclass(frozen=True)
class Configured(DeferredTables):
    """See `SurfaceOptions`: `tables` is all of `[tool.pytest_megacpp]`, `project` the directory of its file."""

    surface: str
    tables: Mapping[str, object]
    project: Path
    lane_dir: Path
    untrusted: bool = False
    dry_run: bool = False
    detach: bool = False
    boxes: int = 1

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The configured variables of all lanes. Raises UsageError."""
        return read_environment(self.tables.get("environment", {}))

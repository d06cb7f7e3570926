"""Owns what the configuration alone asks for, for commands that look at a surface without a pytest session; must not
know the command.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_megacpp.desk.config.data import read_data
from pytest_megacpp.desk.config.lanes import read_environment
from pytest_megacpp.desk.config.prices import read_prices
from pytest_megacpp.desk.config.seed import SeedConfig, read_seed
from pytest_megacpp.desk.config.source import read_source
from pytest_megacpp.surfaces.data_config import DataConfig
from pytest_megacpp.surfaces.prices import Prices
from pytest_megacpp.surfaces.source import SourceConfig


@dataclass(frozen=True)
class Configured:
    """See `SurfaceOptions`: `tables` is all of `[tool.pytest_megacpp]`, `project` the directory where it stands."""

    surface: str
    tables: Mapping[str, object]
    project: Path
    lane_dir: Path
    dry_run: bool = False
    detach: bool = False

    @property
    def untrusted(self) -> bool:
        return self.tables.get("untrusted") is True

    @cached_property
    def environment(self) -> Mapping[str, str]:
        return read_environment(self.tables.get("environment", {}))

    @cached_property
    def data(self) -> tuple[DataConfig, ...]:
        return read_data(self.tables.get("data", {}), self.project)

    @cached_property
    def source(self) -> SourceConfig:
        return read_source(self.tables.get("source", {}))

    @cached_property
    def prices(self) -> Prices:
        return read_prices(self.tables.get("prices", {}), untrusted=self.untrusted)

    @cached_property
    def seed(self) -> SeedConfig:
        return read_seed(self.tables.get("seed", {}), self.project)

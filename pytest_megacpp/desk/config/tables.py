"""Owns the tables that are read when they are needed, the same for sessions and for commands; must not know a command
line. Every session pays for importing this module, so it imports a reader only when its table is asked for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_megacpp.desk.config.declarations import deferred_table

if TYPE_CHECKING:
    from pytest_megacpp.desk.config.seed import SeedConfig
    from pytest_megacpp.surfaces.data_config import DataConfig
    from pytest_megacpp.surfaces.prices import Prices
    from pytest_megacpp.surfaces.source import SourceConfig


class DeferredTables:
    """`project` is the directory of the configuration, `tables` its tables, unchecked. Every property raises
    UsageError.
    """

    project: Path
    tables: Mapping[str, object]
    untrusted: bool

    @deferred_table
    def data(self, written: object) -> "tuple[DataConfig, ...]":
        """The configured data sets."""
        if written == {}:
            return ()
        from pytest_megacpp.desk.config.data import read_data

        return read_data(written, self.project)

    @deferred_table
    def prices(self, written: object) -> "Prices":
        """The configured prices."""
        from pytest_megacpp.desk.config.prices import read_prices

        return read_prices(written, untrusted=self.untrusted)

    @deferred_table
    def source(self, written: object) -> "SourceConfig":
        """What of the project is sent to a box."""
        from pytest_megacpp.desk.config.source import read_source

        return read_source(written)

    @deferred_table
    def seed(self, written: object) -> "SeedConfig":
        """Where seeds are kept."""
        from pytest_megacpp.desk.config.seed import read_seed

        return read_seed(written, self.project)

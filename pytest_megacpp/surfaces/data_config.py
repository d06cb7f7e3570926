"""Owns what a data set is asked to be, and where its copy is on this machine; must not know a box elsewhere."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.recording.plan import DataSet

VOLUME = "megacpp-data"
GOOGLE = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class Bucket:
    """`s3://name/prefix` or `gs://name/prefix`. `endpoint_url` None: Amazon's. `secret` is Modal's, with its keys."""

    url: str
    name: str
    prefix: str = ""
    endpoint_url: str | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class DataConfig:
    """`[tool.pytest_megacpp.data.NAME]`. `source` is a bucket, an absolute directory of the machine that runs the box,
    or None: it is in its volume already. `volume` (None: the plugin's) and `directory` in it are Modal's. `include`
    and `exclude` are regular expressions, see `DataSet`. An untrusted box gets it `as_copied` by others.
    """

    name: str
    source: Bucket | Path | None
    volume: str | None = None
    directory: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    as_copied: bool = False

    @property
    def origin(self) -> str:
        """Where it comes from, in the user's words."""
        return self.source.url if isinstance(self.source, Bucket) else str(self.source or "")

    @property
    def own_directory(self) -> str:
        """A directory that no other source or choice of files shares, even under the same name: each would remove the
        other's files.
        """
        store = self.source.endpoint_url if isinstance(self.source, Bucket) else None
        text = json.dumps([self.origin, store, self.include, self.exclude])
        return f"{self.name}-{hashlib.blake2s(text.encode(), digest_size=4).hexdigest()}"


def here(data: Sequence[DataConfig], copies: Path, environ: Mapping[str, str]) -> tuple[DataSet, ...]:
    """The data sets of a box on this machine, copied below `copies`. One that its variable names is there already."""
    return tuple(_here(one, copies, environ) for one in data)


def _here(one: DataConfig, copies: Path, environ: Mapping[str, str]) -> DataSet:
    absent = DataSet(one.name, "")
    if given := environ.get(absent.variable):
        return DataSet(one.name, given)
    if isinstance(one.source, Path):
        target = str(copies / one.own_directory)
        return DataSet(one.name, target, str(one.source), one.origin, one.include, one.exclude)
    place = one.origin if one.source is not None else f"the volume {one.volume}"
    why = f"it is in {place}, which only a box on Modal can read; set {absent.variable} to a directory with a copy"
    return DataSet(one.name, "", absent=why)

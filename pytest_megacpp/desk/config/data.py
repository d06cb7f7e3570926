"""Owns reading `[tool.pytest_megacpp.data]`, checked key by key; must not know how data is brought to a box."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pathspec import PathSpec

from pytest_megacpp.settings.checks import known, table, text
from pytest_megacpp.surfaces.data_config import GOOGLE, Bucket, DataConfig

KEYS = ("source", "include", "exclude", "volume", "secret", "endpoint_url")
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_VOLUME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BUCKET = re.compile(r"(?P<scheme>s3|gs)://(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{1,221})(?:/(?P<prefix>.*))?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_data(value: object, project: Path) -> tuple[DataConfig, ...]:
    """The tables, checked; relative directories count from `project`. Raises UsageError."""
    tables = table(value, what="it", where="[tool.pytest_megacpp.data]")
    return tuple(_data_set(name, one, project) for name, one in tables.items())


def _data_set(name: str, value: object, project: Path) -> DataConfig:
    where = f"[tool.pytest_megacpp.data.{name}]"
    if not _NAME.fullmatch(name):
        raise pytest.UsageError(f"{where}: {name!r} can't be a data set's name; use a-z, 0-9 and _ (shards_v2)")
    settings = table(value, what="it", where=where)
    for key in settings:
        known(key, KEYS, what="key", where=where)
    source = _source(settings, project, where)
    if source is None:
        _only_with(settings, ("include", "exclude"), "there is a source to copy from", where)
        if "volume" not in settings:
            raise pytest.UsageError(
                f'{where}: give a source, source = "s3://bucket/prefix" or a directory, or the volume that has '
                'it already, volume = "corpus/tokens"'
            )
    volume, directory = _volume(settings, where)
    include, exclude = (_patterns(settings, key, where) for key in ("include", "exclude"))
    return DataConfig(name, source, volume, directory, include, exclude)


def _source(settings: Mapping[str, object], project: Path, where: str) -> Bucket | Path | None:
    if "source" not in settings:
        _only_with(settings, ("secret", "endpoint_url"), "source is a bucket", where)
        return None
    source = text(settings["source"], what="source", where=where)
    if found := _BUCKET.fullmatch(source):
        return _bucket(found, settings, where)
    if _SCHEME.match(source):
        raise pytest.UsageError(
            f'{where}: source must be "s3://bucket/prefix", "gs://bucket/prefix" or a directory, not {source!r}'
        )
    _only_with(settings, ("secret", "endpoint_url"), "source is a bucket", where)
    return _directory(project / Path(source).expanduser(), project, where)


def _directory(source: Path, project: Path, where: str) -> Path:
    """Absolute, links left as they are: the user knows it by this name."""
    directory = Path(os.path.abspath(source))
    if project.resolve().is_relative_to(directory.resolve()):
        raise pytest.UsageError(
            f"{where}: source = {str(directory)!r} contains the project itself; name a directory of data"
        )
    return directory


def _bucket(found: "re.Match[str]", settings: Mapping[str, object], where: str) -> Bucket:
    prefix = (found["prefix"] or "").strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise pytest.UsageError(f"{where}: source has an invalid prefix: {prefix!r}")
    default = GOOGLE if found["scheme"] == "gs" else None
    return Bucket(
        url=found[0],
        name=found["name"],
        prefix=prefix,
        endpoint_url=_url(settings, where) or default,
        secret=_secret(settings, where),
    )


def _url(settings: Mapping[str, object], where: str) -> str | None:
    if "endpoint_url" not in settings:
        return None
    url = settings["endpoint_url"]
    if not isinstance(url, str) or not re.fullmatch(r"https?://\S+", url):
        raise pytest.UsageError(f"{where}: endpoint_url must be the URL of a store that speaks S3, not {url!r}")
    return url


def _secret(settings: Mapping[str, object], where: str) -> str | None:
    if "secret" not in settings:
        return None
    secret = text(settings["secret"], what="secret", where=where)
    if not _VOLUME.fullmatch(secret):
        raise pytest.UsageError(f"{where}: secret must be the name of a Modal secret, not {secret!r}")
    return secret


def _only_with(settings: Mapping[str, object], keys: tuple[str, ...], when: str, where: str) -> None:
    if given := [key for key in keys if key in settings]:
        raise pytest.UsageError(f"{where}: {' and '.join(given)} is valid only when {when}; remove it")


def _volume(settings: Mapping[str, object], where: str) -> tuple[str | None, str]:
    if "volume" not in settings:
        return None, ""
    volume = text(settings["volume"], what="volume", where=where)
    name, slash, directory = volume.partition("/")
    parts = directory.split("/") if slash else []
    if not _VOLUME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
        raise pytest.UsageError(f'{where}: volume must be "VOLUME" or "VOLUME/DIRECTORY", not {volume!r}')
    return name, directory


def _patterns(settings: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    """.gitignore's patterns as regular expressions: a box has nothing that reads the former."""
    value = settings.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise pytest.UsageError(f'{where}: {key} must be a list of patterns, such as ["*.bin"], not {value!r}')
    if negated := [one for one in value if one.startswith("!")]:
        other = "exclude" if key == "include" else "include"
        raise pytest.UsageError(
            f"{where}: {negated[0]!r} in {key} is a negated pattern; put it in {other} instead, without the !"
        )
    try:
        spec = PathSpec.from_lines("gitignore", value)
    except ValueError as error:
        raise pytest.UsageError(f"{where}: invalid pattern in {key}: {error}") from None
    return tuple(pattern.regex.pattern for pattern in spec.patterns if pattern.regex is not None)

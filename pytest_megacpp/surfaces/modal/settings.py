"""Owns reading `[tool.pytest_megacpp.modal]`, checked key by key; must not know how Modal is spoken to.

Loaded only by sessions whose configuration has the table, or that run there.
"""

import ipaddress
import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pytest_megacpp.settings.checks import count, flag, known, seconds, table, text
from pytest_megacpp.surfaces.data_config import DataConfig
from pytest_megacpp.surfaces.modal.config import (
    CACHE_DIR,
    CACHE_VOLUME,
    COMMIT_S,
    HOME,
    LONGEST_S,
    RUNS_DIR,
    RUNTIMES,
    ImageConfig,
    ModalConfig,
    NetworkConfig,
    NotForStrangers,
    VolumeConfig,
    for_strangers,
)

TABLE = "[tool.pytest_megacpp.modal]"
DEFAULT = ModalConfig()
DEFAULT_IMAGE_KEYS = ("python", "packages", "torch_index")
IMAGE_KEYS = ("image", "add_python", "pull_secret", "baked_seed", *DEFAULT_IMAGE_KEYS)
KEYS = (
    *("app", "environment", *IMAGE_KEYS, "secrets", "pass_env", "env"),
    *("cache_volume", "runs_volume", "volumes", "region", "cloud", "runtime", "cpu", "memory_mib"),
    *("capacity_s", "timeout_s", "lease_s", "network"),
)
VOLUME_KEYS = ("volume", "read_only")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_REGISTRY_TAG = re.compile(r"[\w][\w.-]{0,127}")
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DOMAIN = re.compile(r"(\*\.)?([A-Za-z0-9-]+\.)+[A-Za-z0-9-]+")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


def read_modal(value: object, *, untrusted: bool, data: tuple[DataConfig, ...] = ()) -> ModalConfig:
    """The table, checked, and what `data` asks of Modal. Raises UsageError; `untrusted` is for code that nobody has
    read.
    """
    settings = table(value, what="it", where=TABLE)
    for key in settings:
        known(key, KEYS, what="key", where=TABLE)
    config = ModalConfig(
        app=_name(settings.get("app", DEFAULT.app), "app"),
        environment=_optional_name(settings, "environment"),
        image=_image(settings),
        secrets=_texts(settings, "secrets", _NAME, "names of Modal secrets"),
        pass_env=_texts(settings, "pass_env", _VARIABLE, "names of variables"),
        env=_env(settings.get("env", {})),
        cache_volume=_own_volume(settings, "cache_volume", CACHE_DIR, CACHE_VOLUME),
        runs_volume=_own_volume(settings, "runs_volume", RUNS_DIR),
        data=data,
        volumes=_volumes(settings.get("volumes", {})),
        region=_region(settings.get("region", [])),
        cloud=_optional_name(settings, "cloud"),
        runtime=known(settings["runtime"], RUNTIMES, what="runtime", where=TABLE) if "runtime" in settings else None,
        cpu=_cpu(settings.get("cpu")),
        memory_mib=_memory_mib(settings.get("memory_mib")),
        capacity_s=_time_s(settings, "capacity_s", DEFAULT.capacity_s),
        timeout_s=_timeout_s(settings),
        lease_s=_time_s(settings, "lease_s", DEFAULT.lease_s),
        network=_network(settings.get("network", "open")),
    )
    try:
        return for_strangers(config) if untrusted else config
    except NotForStrangers as error:
        raise pytest.UsageError(f"{TABLE}: {error}") from None


def _name(value: object, key: str) -> str:
    name = text(value, what=key, where=TABLE)
    if not _NAME.fullmatch(name):
        raise pytest.UsageError(f"{TABLE}: {key} must be of letters, digits, '.', '-' and '_', not {name!r}")
    return name


def _optional_name(settings: Mapping[str, object], key: str) -> str | None:
    return _name(settings[key], key) if key in settings else None


def _texts(settings: Mapping[str, object], key: str, shape: re.Pattern[str], what: str) -> tuple[str, ...]:
    value = settings.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and shape.fullmatch(one) for one in value):
        raise pytest.UsageError(f"{TABLE}: {key} must be a list of {what}, not {value!r}")
    return tuple(value)


def _env(value: object) -> dict[str, str]:
    where = f"{TABLE[:-1]}.env]"
    variables = table(value, what="it", where=where)
    for name, content in variables.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(content, str) or "\0" in content:
            raise pytest.UsageError(f'{where}: variables are texts, such as {name} = "1"; not {content!r}')
    return {name: str(content) for name, content in variables.items()}


# -- image ---------------------------------------------------------------------------------------------------------


def _image(settings: Mapping[str, object]) -> ImageConfig:
    baked = text(settings["baked_seed"], what="baked_seed", where=TABLE) if "baked_seed" in settings else None
    return replace(_bare_image(settings), baked_seed=baked)


def _bare_image(settings: Mapping[str, object]) -> ImageConfig:
    """`package.module:name` is a factory unless the part behind the colon can only be a tag."""
    default = ImageConfig(
        python=_python(settings, "python"),
        packages=_packages(settings.get("packages", [])),
        torch_index=_url(settings, "torch_index"),
    )
    if "image" not in settings:
        _only_with(settings, ("add_python", "pull_secret"), "image is a reference of a registry")
        return default
    _only_with(settings, DEFAULT_IMAGE_KEYS, "there is no image of your own")
    image = text(settings["image"], what="image", where=TABLE)
    if _FACTORY.fullmatch(image):
        _only_with(settings, ("add_python", "pull_secret"), "image is a reference of a registry")
        return ImageConfig(factory=image)
    if not _is_reference(image):
        raise pytest.UsageError(
            f'{TABLE}: image must name a function that returns a modal.Image ("package.module:function") or a '
            f'registry\'s image ("ghcr.io/you/image@sha256:…", "docker.io/you/image:tag"), not {image!r}'
        )
    secret = _optional_name(settings, "pull_secret")
    return ImageConfig(reference=image, add_python=_python(settings, "add_python"), pull_secret=secret)


def _only_with(settings: Mapping[str, object], keys: tuple[str, ...], when: str) -> None:
    if given := [key for key in keys if key in settings]:
        raise pytest.UsageError(f"{TABLE}: {' and '.join(given)} means something only when {when}; remove it")


def _is_reference(image: str) -> bool:
    """`host/path:tag`, `path@sha256:…`; with a slash, a digest or a tag that no function could be called."""
    path, _, digest = image.partition("@")
    if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return False
    name, colon, tag = path.rpartition(":") if ":" in path.rpartition("/")[2] else (path, "", "")
    if colon and not _REGISTRY_TAG.fullmatch(tag):
        return False
    parts = name.split("/")
    return all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*", part) for part in parts)


def _python(settings: Mapping[str, object], key: str) -> str | None:
    if key not in settings:
        return None
    version = settings[key]
    if not isinstance(version, str) or not _PYTHON.fullmatch(version):
        raise pytest.UsageError(f'{TABLE}: {key} must be a version as a text, such as "3.12", not {version!r}')
    if int(version.split(".")[1]) < 11:
        raise pytest.UsageError(f"{TABLE}: {key} = {version!r} is too old: ranks need Python 3.11 or newer")
    return version


def _url(settings: Mapping[str, object], key: str) -> str | None:
    if key not in settings:
        return None
    url = settings[key]
    if not isinstance(url, str) or not re.fullmatch(r"https?://\S+", url):
        raise pytest.UsageError(f"{TABLE}: {key} must be the URL of a package index, not {url!r}")
    return url


def _packages(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and re.match(r"[A-Za-z0-9]", one) for one in value):
        raise pytest.UsageError(
            f'{TABLE}: packages must be a list of requirements, such as ["numpy>=2"], not {value!r}'
        )
    return tuple(value)


# -- volumes -------------------------------------------------------------------------------------------------------


def _own_volume(settings: Mapping[str, object], key: str, path: str, default: str | None = None) -> VolumeConfig | None:
    if key not in settings:
        return None if default is None else VolumeConfig(path, default, made=True)
    name, directory = _volume_name(settings[key], f"{key} in {TABLE}")
    return VolumeConfig(path, name, directory, made=True)


def _volumes(value: object) -> tuple[VolumeConfig, ...]:
    where = f"{TABLE[:-1]}.volumes]"
    return tuple(_volume(path, one, where) for path, one in table(value, what="it", where=where).items())


def _volume(path: str, value: object, where: str) -> VolumeConfig:
    if not path.startswith("/") or posixpath.normpath(path) != path or path == "/":
        raise pytest.UsageError(f'{where}: {path!r} must be a path in the box, such as "/weights"')
    if path == HOME or path.startswith(f"{HOME}/"):
        raise pytest.UsageError(f"{where}: {path!r} is the plugin's own place; mount it elsewhere")
    settings = value if isinstance(value, dict) else {"volume": value}
    for key in settings:
        known(key, VOLUME_KEYS, what="key", where=f"{path} in {where}")
    name, directory = _volume_name(settings.get("volume"), f"{path} in {where}")
    read_only = flag(settings.get("read_only", False), what="read_only", where=f"{path} in {where}")
    return VolumeConfig(path, name, directory, read_only=read_only)


def _volume_name(value: object, where: str) -> tuple[str, str]:
    name, _, directory = text(value, what="it", where=where).partition("/")
    parts = directory.split("/") if directory else []
    if not _NAME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
        raise pytest.UsageError(f'{where}: write "VOLUME" or "VOLUME/DIRECTORY", not {value!r}')
    return name, directory


# -- the machine ---------------------------------------------------------------------------------------------------


def _region(value: object) -> tuple[str, ...]:
    regions = [value] if isinstance(value, str) else value
    if not isinstance(regions, list) or not all(isinstance(one, str) and _NAME.fullmatch(one) for one in regions):
        raise pytest.UsageError(f'{TABLE}: region must be a region or a list of them, such as "us-east", not {value!r}')
    return tuple(regions)


def _cpu(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.125 <= value <= 1024:
        raise pytest.UsageError(f"{TABLE}: cpu must be a number of cores, such as 32, not {value!r}")
    return float(value)


def _memory_mib(value: object) -> int | None:
    return None if value is None else count(value, what="memory_mib", where=TABLE)


def _time_s(settings: Mapping[str, object], key: str, default: float) -> float:
    return seconds(settings[key], what=key, where=TABLE) if key in settings else default


def _timeout_s(settings: Mapping[str, object]) -> float:
    limit_s = _time_s(settings, "timeout_s", DEFAULT.timeout_s)
    if not COMMIT_S < limit_s <= LONGEST_S:
        raise pytest.UsageError(
            f"{TABLE}: timeout_s must be above {COMMIT_S:g}, which are kept back for evidence and results, and at most "
            f"{LONGEST_S:g}, Modal's own limit; not {limit_s:g}"
        )
    return limit_s


def _network(value: object) -> NetworkConfig:
    """`"open"`, `"none"`, or a list of address ranges and domains."""
    if isinstance(value, str):
        return NetworkConfig(blocked=known(value, ("open", "none"), what="network", where=TABLE) == "none")
    if not isinstance(value, list) or not value:
        raise pytest.UsageError(
            f'{TABLE}: network must be "open", "none" or a list of what may be reached, not {value!r}'
        )
    cidrs = tuple(one for one in value if isinstance(one, str) and _is_cidr(one))
    domains = tuple(one for one in value if one not in cidrs)
    for one in domains:
        if not isinstance(one, str) or not _DOMAIN.fullmatch(one):
            raise pytest.UsageError(
                f'{TABLE}: network lists address ranges ("10.0.0.0/8") and domains ("huggingface.co"), not {one!r}'
            )
    return NetworkConfig(cidrs=cidrs, domains=domains)


def _is_cidr(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True

"""Owns reading `[tool.pytest_megacpp.seed]`, checked key by key; must not know what a seed is for.

Loaded only by sessions that run lanes, and by `megacpp seed`.
"""

from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.box.seed.store import DEFAULT_KEEP, DEFAULT_MAX_BYTES
from pytest_megacpp.desk.config.project import identity
from pytest_megacpp.settings.checks import count, known, table, text
from pytest_megacpp.settings.paths import user_cache_dir

TABLE = "[tool.pytest_megacpp.seed]"
KEYS = ("dir", "min_bytes", "keep", "max_bytes", "project")


@dataclass(frozen=True, slots=True)
class SeedConfig:
    """Where seeds are kept on this machine, and how many: `keep` of a shape, `max_bytes` in all. A seed whose cache has
    fewer than `min_bytes` is too small to be of use. `project` is the name under which they are kept; empty: its own.
    """

    dir: Path
    min_bytes: int = 0
    keep: int = DEFAULT_KEEP
    max_bytes: int = DEFAULT_MAX_BYTES
    project: str = ""


def project_of(config: SeedConfig, root: Path) -> str:
    """The project under which seeds are kept. One without a name is what is in this directory; such projects share a
    store that their configuration names.
    """
    is_ours = config.dir == _default_dir()
    return identity(root, config.project) or (str(root.resolve()) if is_ours else "")


def _default_dir() -> Path:
    return user_cache_dir() / "seeds"


def read_seed(value: object, project: Path) -> SeedConfig:
    """The table, checked; `dir` counts from the project's directory. Raises UsageError."""
    settings = table(value, what="it", where=TABLE)
    for key in settings:
        known(key, KEYS, what="key", where=TABLE)
    given = [key for key in ("min_bytes", "keep", "max_bytes") if key in settings]
    numbers = {key: count(settings[key], what=key, where=TABLE) for key in given}
    named = text(settings["dir"], what="dir", where=TABLE) if "dir" in settings else None
    name = text(settings["project"], what="project", where=TABLE) if "project" in settings else ""
    return SeedConfig(_default_dir() if named is None else project / Path(named).expanduser(), project=name, **numbers)

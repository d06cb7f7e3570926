"""Owns what a project is called where several keep things in one place (seeds); must not know what they keep.

A name has to be the same on a laptop, in a CI job and in a container without git, and another one for another project.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pytest_megacpp.desk.config.git import origin, prefix

_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://(?:[^/]*@)?|(?:[^@/]*@)?)(?P<host>[^/:@]+)(?::[0-9]+)?[:/]/*(?P<path>.+)", re.IGNORECASE
)
# An `@` in the path may end a password that has a slash, which a colon before that slash begins.
_NO_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/:]+/[^:]+|[^@/:]+@[^@/:]+:[^:]+", re.IGNORECASE)


def identity(root: Path, chosen: str = "") -> str:
    """What was chosen, else the name in `[project]`, else where git's origin is and the directory in it; empty where
    nothing says it. `root` is the directory of the configuration.
    """
    if chosen:
        return chosen
    if name := _name(root / "pyproject.toml"):
        return name
    if (url := origin(root)) and (place := _place(url)):
        return f"{place}/{prefix(root) or ''}".rstrip("/")
    return ""


def _name(pyproject: Path) -> str:
    """As package indexes spell it: `My.Project` is `my-project`."""
    import tomllib

    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project")
    except (OSError, ValueError):
        return ""
    name = project.get("name") if isinstance(project, Mapping) else None
    return re.sub(r"[-_.]+", "-", name).lower() if isinstance(name, str) else ""


def _place(url: str) -> str:
    """`github.com/org/repo` of however it is fetched: users, tokens and ports are not the place."""
    if url.startswith(("/", "./", "../", "file:")):
        return ""  # a directory, which is another one elsewhere
    found = _URL.fullmatch(url)
    if not found or ("@" in found["path"] and not _NO_PASSWORD.fullmatch(url)):
        return ""
    return f"{found['host'].lower()}/{found['path'].rstrip('/').removesuffix('.git')}"

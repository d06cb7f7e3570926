"""Has the plugin see another system than this one, in a process whose PYTHONPATH has this directory: modules and names
are missing, `sys.platform` is that system's, and on Windows an open file can't be renamed, replaced or removed. Others'
packages see the machine as it is.

`OTHER_DESK` names a JSON file: `platform`, `modules` that are missing, `names` that are missing by module, `root`, the
directory whose files are like Windows'.
"""

import builtins
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

PACKAGE = "pytest_megacpp"
NOT_IN_NAMES = frozenset('<>:"|?*')


class View(types.ModuleType):
    """A module without some of its names, and with others in their place."""

    def __init__(self, module: types.ModuleType, without: frozenset[str], instead: dict[str, object]) -> None:
        super().__init__(module.__name__)
        self.__dict__["_seen"] = module, without
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        module, without = self.__dict__["_seen"]
        if name in without:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        return getattr(module, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__dict__["_seen"][0], name, value)


def _refused(name: str) -> Any:
    def call(*_: object, **__: object) -> None:
        raise AssertionError(f"{name} does something else on Windows")

    return call


def install(described: dict[str, Any]) -> None:
    platform, missing = described["platform"], frozenset(described["modules"])
    views: dict[str, View] = {}
    instead: dict[str, dict[str, object]] = {"sys": {"platform": platform}}
    if platform == "win32":
        instead["os"] = {name: _refused(f"os.{name}") for name in ("kill", "symlink", "link")}
        _install_files(described["root"])
    real = builtins.__import__

    def seen(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> types.ModuleType:
        asks = str((globals or {}).get("__name__", "")).partition(".")[0]
        if asks != PACKAGE:
            return real(name, globals, locals, fromlist, level)
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = real(name, globals, locals, fromlist, level)
        found = module.__name__
        without = frozenset(described["names"].get(found, ()))
        if not without and found not in instead:
            return module
        return views.setdefault(found, View(module, without, instead.get(found, {})))

    builtins.__import__ = seen


def _install_files(root: str) -> None:
    """In the whole process: what is below `root` is the plugin's."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and _is_below(arguments[0], root):
            if NOT_IN_NAMES & {*arguments[0][len(root) :]}:
                raise OSError(22, "Invalid argument", arguments[0])
        elif event in ("os.rename", "os.remove"):
            named = arguments[:2] if event == "os.rename" else arguments[:1]
            paths = [_whole(path, arguments[-1]) for path in named]
            for path in paths:
                if _is_below(path, root) and any(_is_below(file, path) for file in _open_files()):
                    raise PermissionError(13, "another process or this one has it open", path)

    sys.addaudithook(audit)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _whole(path: Any, directory: Any) -> str:
    named = os.fsdecode(path)
    if isinstance(directory, int) and directory >= 0:
        return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), named)
    return os.path.abspath(named)


def _open_files() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return [path for path in found if not os.path.isdir(path)]


if described := os.environ.pop("OTHER_DESK", ""):
    install(json.loads(Path(described).read_text(encoding="utf-8")))

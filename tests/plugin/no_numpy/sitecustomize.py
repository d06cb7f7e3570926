"""On PYTHONPATH, this is a Python without numpy: what the documented install gives, where torch requires none."""

import sys
from importlib.machinery import ModuleSpec, PathFinder


class WithoutNumpy(PathFinder):
    """Finds what the ordinary finder finds, and not numpy."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        return None if fullname.partition(".")[0] == "numpy" else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutNumpy

"""On PYTHONPATH, this is a desk where neither torch nor triton is installed; its box on the same machine has both."""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

LACKING = ("torch", "triton")


class WithoutTorch(PathFinder):
    """Finds what the ordinary finder finds, and neither torch nor triton."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        return None if fullname.partition(".")[0] in LACKING else super().find_spec(fullname, path, target)


if "MEGACPP_GUARD" not in os.environ and "pytest_megacpp.box" not in sys.orig_argv:  # neither the guard nor below it
    sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch

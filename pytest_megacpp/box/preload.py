"""Owns what the forkserver imports once for all ranks; must not touch CUDA or import the project's tests.

The forkserver dies with its parent thread, so that nothing outlives a killed box.
"""

import contextlib
import gc
import importlib
import os
import sys

from pytest_megacpp.box.process import die_with_parent

die_with_parent()
for _name in os.environ.get("MEGACPP_PRELOAD", "").split(","):
    # A module that doesn't import here fails again, and is reported, in the ranks that need it.
    with contextlib.suppress(Exception):
        importlib.import_module(_name)
if "torch._inductor.codecache" in sys.modules:
    # What every compile asks first and remembers: the key of this torch, the vector instructions of this CPU.
    with contextlib.suppress(Exception):
        sys.modules["torch._inductor.codecache"].torch_key()
        importlib.import_module("torch._inductor.cpu_vec_isa").pick_vec_isa()
gc.freeze()

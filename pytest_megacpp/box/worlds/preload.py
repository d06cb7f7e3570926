"""Owns what an interpreter imports once for all ranks; must not touch CUDA or import the project's tests.

It dies with its parent thread, so that nothing outlives a killed box. A module that starts CUDA while it
is imported spoils the process: a fork of it can't use a device. This module finds that out, and reports it in a file.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_megacpp.box.host import process
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.texts import beginning, class_of, text_of

HASH_SEED = "PYTHONHASHSEED"


def is_spoiled() -> bool:
    """Returns whether a fork of this process could not use CUDA, by trying one: torch knows it in the child only."""
    torch = sys.modules.get("torch")
    in_bad_fork = getattr(getattr(torch, "_C", None), "_cuda_isInBadFork", None)
    if in_bad_fork is None:  # a CPU build
        return False
    child = os.fork()
    if child == 0:
        os._exit(int(bool(in_bad_fork())))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


@dataclass(frozen=True, slots=True)
class Preloaded:
    """The result of the imports. `spoiler`: the first module after which forks can't use CUDA, empty where there is
    none; `failed`: modules that don't import, and why.
    """

    spoiler: str = ""
    failed: dict[str, str] = field(default_factory=dict)


def import_all(names: Iterable[str], begin: Callable[[str], object]) -> Preloaded:
    """Imports the modules in order; `begin` is called with each name before. One that fails here, or skips, or exits,
    does so again, and is reported, in the ranks that need it.
    """
    spoiler, failed = "", {}
    for name in names:
        begin(name)
        try:
            importlib.import_module(name)
        except BaseException as e:  # also what pytest.skip() and sys.exit() raise
            failed[name] = beginning(f"{class_of(e)}: {text_of(e)}", 200)
        if not spoiler and is_spoiled():
            spoiler = name
    return Preloaded(spoiler, failed)


def importing_beside(report: Path) -> Path:
    """Returns the file that names the module that is being imported."""
    return report.with_name(f"{report.name}.importing")


def _ask_what_compiles_ask() -> None:
    """Has torch compute what every compile asks first and then remembers: the key of this torch, the vector
    instructions of this CPU.
    """
    if "torch._inductor.codecache" in sys.modules:
        with contextlib.suppress(Exception):
            sys.modules["torch._inductor.codecache"].torch_key()
            importlib.import_module("torch._inductor.cpu_vec_isa").pick_vec_isa()


def restore(name: str, value: str | None) -> None:
    """Sets a variable of this process to what it was; None removes it."""
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def main(order: str) -> None:
    """Carries out the order (`{"path": …, "modules": …, "report": …, "hash_seed": …}`) and leaves a `Preloaded` in the
    report, and beside it the name of the module that is being imported. The hash seed is what ranks find in their
    environment; None: nothing, so that processes they start draw their own.
    """
    settings = json.loads(order)
    sys.path[:] = settings["path"]
    restore(HASH_SEED, settings["hash_seed"])
    importing = importing_beside(Path(settings["report"]))
    preloaded = import_all(settings["modules"], importing.write_text)
    importing.write_text("torch._inductor")
    _ask_what_compiles_ask()
    if not preloaded.spoiler and is_spoiled():
        preloaded = replace(preloaded, spoiler="torch._inductor")
    gc.freeze()
    draft = Path(settings["report"] + ".part")
    draft.write_text(json.dumps(to_json(preloaded)))
    draft.replace(settings["report"])


if "MEGACPP_PRELOAD" in os.environ:
    process.die_with_parent()
    main(os.environ.pop("MEGACPP_PRELOAD"))

"""Owns the interpreters that import once for all ranks, one per hash seed, and starts processes in them; must not know
worlds.

Under torchrun each rank salts the hashes of strings by itself: the order of a set differs from rank to rank, and so do
collectives that are issued in such an order. A fork has the salt of its interpreter, so ranks come from two. Which one,
says the parity of the bits of a rank's number: ranks whose numbers differ in one bit differ, so every group along an
axis of a mesh (whose sizes are powers of two) has both.
"""

import contextlib
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pytest_megacpp.box import process
from pytest_megacpp.box.preload import HASH_SEED, Preloaded, restore
from pytest_megacpp.recording.codec import from_json

NUMBER = 2
MAX_SEED = (1 << 32) - 1


def hash_seeds(environ: Mapping[str, str], chosen: int | None) -> tuple[str, ...]:
    """Of each interpreter. What the user's environment fixes holds for all ranks, as under torchrun; else `chosen` and
    the next one, drawn where nobody chose. Never 0, which salts nothing.
    """
    fixed = environ.get(HASH_SEED, "")
    if fixed not in ("", "random"):
        return (fixed,)
    first = chosen or random.SystemRandom().randint(1, MAX_SEED - NUMBER + 1)
    return tuple(str(first + i) for i in range(NUMBER))


class Interpreter:
    """A forkserver that imported `modules`. Ranks find `PYTHONHASHSEED` in their environment as the box does."""

    def __init__(self, hash_seed: str, modules: Sequence[str], report: Path) -> None:
        self.hash_seed = hash_seed
        self._modules = modules
        self._report = report
        self._server: Any = forkserver.ForkServer()

    def begin(self) -> None:
        """Starts it unless it is alive; returns at once."""
        if self.is_alive():
            return
        self._report.unlink(missing_ok=True)
        order = {
            "path": sys.path,
            "modules": self._modules,
            "report": str(self._report),
            "hash_seed": os.environ.get(HASH_SEED),
        }
        self._server.set_forkserver_preload(["pytest_megacpp.box.preload"])
        with _environment({"MEGACPP_PRELOAD": json.dumps(order), HASH_SEED: self.hash_seed}):
            self._server.ensure_running()

    def is_alive(self) -> bool:
        pid: int | None = self._server._forkserver_pid
        return pid is not None and process.is_alive(pid)

    def is_through(self) -> bool:
        """Whether it has imported everything, or never will."""
        return self._report.exists() or not self.is_alive()

    def preloaded(self) -> Preloaded:
        return from_json(Preloaded, json.loads(self._report.read_text()) if self._report.exists() else {})

    def start(self, target: Callable[..., None], args: tuple[object, ...]) -> BaseProcess:
        forkserver.connect_to_new_process = self._server.connect_to_new_process
        return _started("forkserver", target, args)


class Interpreters:
    """All of a box. `spoiled`: an import started CUDA, so they can't be forked, and each rank has one of its own."""

    def __init__(self, seeds: Sequence[str], modules: Sequence[str], directory: Path) -> None:
        self._all = [Interpreter(seed, modules, directory / f"preloaded-{i}") for i, seed in enumerate(seeds)]
        self._known = False
        self.spoiled = False

    def begin(self) -> None:
        """Starts them side by side, and anew those that were killed; returns at once."""
        for one in self._all:
            one.begin()

    def are_known(self) -> bool:
        """Whether `learn` was called, and all is still as it was then."""
        return self._known and (self.spoiled or all(one.is_alive() for one in self._all))

    def are_through(self) -> bool:
        return all(one.is_through() for one in self._all)

    def learn(self) -> Preloaded:
        """What came of the imports."""
        reports = [one.preloaded() for one in self._all]
        spoiler = next((report.spoiler for report in reports if report.spoiler), "")
        self._known, self.spoiled = True, bool(spoiler)
        return Preloaded(spoiler, {name: why for report in reports for name, why in report.failed.items()})

    def of(self, rank: int) -> Interpreter | None:
        return None if self.spoiled else self._all[rank.bit_count() % len(self._all)]

    def start(self, rank: int, target: Callable[..., None], args: tuple[object, ...]) -> BaseProcess:
        """A process of this rank."""
        own = self.of(rank)
        return _started("spawn", target, args) if own is None else own.start(target, args)


def _started(method: str, target: Callable[..., None], args: tuple[object, ...]) -> BaseProcess:
    context: Any = multiprocessing.get_context(method)
    started: BaseProcess = context.Process(target=target, args=args)
    started.start()
    return started


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            restore(name, value)

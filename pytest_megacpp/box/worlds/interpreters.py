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
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pytest_megacpp.box.host import process
from pytest_megacpp.box.worlds.preload import HASH_SEED, Preloaded, importing_beside, restore
from pytest_megacpp.recording.codec import from_json

NEEDED_OF_TORCH = ("torch", "torch.distributed")
EVERY_RANK_NEEDS = (*NEEDED_OF_TORCH, "pytest", "pytest_megacpp.rank.main")
NUMBER = 2
MAX_SEED = (1 << 32) - 1
PRELOAD_S = 300.0  # what an interpreter that hangs in an import may take; its ranks would then hang there too


class InterpreterLost(OSError):
    """An interpreter ended, or did not finish its imports in time."""

    remedy = "see box.log in the run's directory; a module named in `preload` can be removed there"


def hash_seeds(environ: Mapping[str, str], chosen: int | None) -> tuple[str, ...]:
    """Returns the hash seed of each interpreter. One that the user's environment fixes holds for all ranks, as under
    torchrun; else they are `chosen` and the next one, drawn where nobody chose. No seed is 0, which would switch off
    salting.
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
        """Starts the interpreter unless it is alive; returns at once."""
        if self.is_alive():
            return
        for left in (self._report, importing_beside(self._report)):
            left.unlink(missing_ok=True)
        order = {
            "path": sys.path,
            "modules": self._modules,
            "report": str(self._report),
            "hash_seed": os.environ.get(HASH_SEED),
        }
        self._server.set_forkserver_preload(["pytest_megacpp.box.worlds.preload"])
        with _environment({"MEGACPP_PRELOAD": json.dumps(order), HASH_SEED: self.hash_seed}):
            self._server.ensure_running()

    def is_alive(self) -> bool:
        pid: int | None = self._server._forkserver_pid
        return pid is not None and process.is_alive(pid)

    def is_through(self) -> bool:
        """Returns whether it has imported everything, or never will."""
        return self._report.exists() or not self.is_alive()

    def preloaded(self) -> Preloaded:
        """Returns what came of the imports. Raises InterpreterLost where they did not finish."""
        if self._report.exists():
            return from_json(Preloaded, json.loads(self._report.read_text()))
        if not self.is_alive():
            raise self._lost()
        raise InterpreterLost(
            f"{self._name} had not finished its imports after {PRELOAD_S:g} s: it was {self._doing()}"
        )

    def kill(self) -> None:
        if self.is_alive():
            process.send(self._server._forkserver_pid, signal.SIGKILL)

    def reap(self) -> None:
        """Waits for its end."""
        with contextlib.suppress(ChildProcessError):
            self._server._stop()

    def start(self, target: Callable[..., None], args: tuple[object, ...]) -> BaseProcess:
        """Returns a process that was forked from it. Raises InterpreterLost where it has ended: its server would start
        another one, with a random hash seed.
        """
        if not self.is_alive():
            raise self._lost()
        forkserver.connect_to_new_process = self._server.connect_to_new_process
        return _started("forkserver", target, args)

    @property
    def _name(self) -> str:
        return f"the interpreter with hash seed {self.hash_seed}"

    def _doing(self) -> str:
        try:
            return f"importing {importing_beside(self._report).read_text()}"
        except OSError:
            return "starting"

    def _lost(self) -> InterpreterLost:
        when = "after its imports" if self._report.exists() else f"while {self._doing()}"
        return InterpreterLost(f"{self._name} ended {when}")


class Interpreters:
    """All interpreters of a box. `spoiled`: an import started CUDA, so they can't be forked, and each rank has one of
    its own.
    """

    def __init__(self, seeds: Sequence[str], modules: Sequence[str], directory: Path) -> None:
        self._all = [Interpreter(seed, modules, directory / f"preloaded-{i}") for i, seed in enumerate(seeds)]
        self._known = False
        self.spoiled = False

    def begin(self) -> None:
        """Starts them side by side, and again those that were killed; returns at once."""
        for one in self._all:
            one.begin()

    def are_known(self) -> bool:
        """Returns whether `learn` was called, and all are still as they were then."""
        return self._known and (self.spoiled or all(one.is_alive() for one in self._all))

    def are_through(self) -> bool:
        return all(one.is_through() for one in self._all)

    def learn(self) -> Preloaded:
        """Returns what came of the imports, and ends interpreters that nobody can use. Raises InterpreterLost."""
        try:
            reports = [one.preloaded() for one in self._all]
        except InterpreterLost:
            self._kill()  # no more: one that hangs in the kernel can't be waited for
            raise
        spoiler = next((report.spoiler for report in reports if report.spoiler), "")
        self._known, self.spoiled = True, bool(spoiler)
        if self.spoiled:
            self._kill()
            for one in self._all:
                one.reap()
        return Preloaded(spoiler, {name: why for report in reports for name, why in report.failed.items()})

    def _kill(self) -> None:
        for one in self._all:
            one.kill()

    def of(self, rank: int) -> Interpreter | None:
        return None if self.spoiled else self._all[rank.bit_count() % len(self._all)]

    def start(self, rank: int, target: Callable[..., None], args: tuple[object, ...]) -> BaseProcess:
        """Returns a new process for this rank, forked or, where imports spoiled the interpreters, spawned."""
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

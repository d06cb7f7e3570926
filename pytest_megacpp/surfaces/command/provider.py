"""Owns what the desk has to know of runs on a machine that a command reaches, before, beside and after them; must not
know how the command is run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

import pytest

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import DataSet
from pytest_megacpp.recording.seed import Manifest
from pytest_megacpp.recording.seed_layout import Kept, SeedError
from pytest_megacpp.report.money import Rate
from pytest_megacpp.surfaces.command import failures
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.command.settings import read_command, table_of
from pytest_megacpp.surfaces.prices import TABLE, Prices
from pytest_megacpp.surfaces.protocol import (
    Attaching,
    Examination,
    Lane,
    Place,
    RunningBox,
    Shelf,
    Surface,
    SurfaceOptions,
    SurfaceProvider,
)

WORDS_SHOWN = 4


class CommandAttaching:
    """See `Attaching`."""

    def __init__(self, config: CommandConfig) -> None:
        self._config = config

    def attach(self, options: SurfaceOptions, run_id: str, run: Path) -> RunningBox:
        from pytest_megacpp.surfaces.command.surface import CommandSurface

        return CommandSurface(self._config, options.source).attach(run_id, run)

    def visit(
        self,
        options: SurfaceOptions,
        run_id: str,
        into: Path,
        words: Sequence[Word],
        is_over: Callable[[bool], bool],
    ) -> bool:
        from pytest_megacpp.surfaces.command.surface import caller_of, visit

        return visit(caller_of(self._config, run_id, options.environment), into, words, is_over)

    def stop(self, options: SurfaceOptions, run_id: str) -> str | None:
        from pytest_megacpp.surfaces.command.surface import caller_of, stop

        return stop(caller_of(self._config, run_id, options.environment))

    def is_an_end(self, problem: ProblemFound) -> bool:
        return failures.is_an_end(problem)

    def nothing_left(self) -> ProblemFound:
        return failures.nothing_left(self._config)


class CommandProvider:
    """See `SurfaceProvider`."""

    is_remote = True

    def __init__(self, config: CommandConfig) -> None:
        self.name = config.name
        self.title = config.name
        self.attaching: Attaching | None = CommandAttaching(config) if config.attach else None
        self._config = config

    def is_ready(self, environ: Mapping[str, str]) -> bool:
        """Never by itself: `auto` doesn't choose among machines."""
        return False

    def place(self, options: SurfaceOptions, environ: Mapping[str, str], devices: Callable[[], int]) -> Place:
        if options.untrusted:
            raise pytest.UsageError(
                f"--untrusted: untrusted code must run on an isolated machine, and nothing isolates {self.name}: "
                "name an isolated surface"
            )
        words = self._config.command
        shown = " ".join(words[:WORDS_SHOWN]) + (" …" if len(words) > WORDS_SHOWN else "")
        notice = f"{self.name} ({shown})"
        if options.dry_run:
            return Place(self.name, True, f"{notice}, dry run on CPU/gloo: proves launch and logic, not GPU behaviour")
        return Place(self.name, False, notice)

    def surface(self, options: SurfaceOptions, tags: Mapping[str, str]) -> Surface:
        from pytest_megacpp.surfaces.command.surface import CommandSurface

        return CommandSurface(self._config, options.source, options.data, (options.lane_dir,), options.detach)

    def rate(self, options: SurfaceOptions, gpu: str, ranks: int, *, dry_run: bool) -> Rate:
        return rate_of(options.prices, None if dry_run else gpu)

    def longest_s(self, options: SurfaceOptions, run_s: float | None) -> float | None:
        return run_s

    def seeds(self, options: SurfaceOptions) -> str:
        return f"in the user's cache on {self.name}"

    def shelf(self, options: SurfaceOptions) -> Shelf:
        return FarShelf(self.name)

    def variables(self, options: SurfaceOptions, environ: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], str]]:
        where = f"{table_of(self.name)[:-1]}.environment] of {options.project / 'pyproject.toml'}"
        yield self._config.environment, where

    def data_sets(self, options: SurfaceOptions, environ: Mapping[str, str]) -> tuple[DataSet, ...]:
        return ()

    def examination(self, options: SurfaceOptions, lanes: Sequence[Lane]) -> Examination:
        from pytest_megacpp.surfaces.command.doctor import CommandExamination

        return CommandExamination(self._config, options, lanes)


class FarShelf:
    """See `Shelf`: the seeds are where the box is, and no connection is made to look at them."""

    def __init__(self, name: str) -> None:
        self.place = f"the user's cache on {name}"
        self._name = name

    def seeds(self) -> list[Kept]:
        self._refuse()

    def promote(self, name: str) -> Kept:
        self._refuse()

    def drop(self, name: str) -> tuple[Kept, Kept | None]:
        self._refuse()

    def copy(self, manifest: Manifest, file: IO[bytes]) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise SeedError(f"the seeds of {self._name} are in the user's cache there: run megacpp seed on that machine")


def rate_of(prices: Prices, gpu: str | None) -> Rate:
    """Of a machine with these GPUs (`H200:8`): what its owner says a GPU costs; nothing for one without."""
    if gpu is None:
        return Rate(0.0, 0, "no GPU is used")
    kind, _, number = gpu.partition(":")
    gpus, price = int(number or 1), prices.gpu.get(kind.upper().removesuffix("!").removesuffix("+"))
    if price is None:
        return Rate(None, gpus, f"no price is known for {kind}; name it in {TABLE[:-1]}.gpu]")
    return Rate(round(gpus * price, 4), gpus, prices.source)


def provider_of(name: str, table: object) -> SurfaceProvider:
    """The surface that `[tool.pytest_megacpp.surfaces.NAME]` describes. Raises UsageError."""
    return CommandProvider(read_command(name, table))

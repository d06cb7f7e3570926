"""Owns what the desk has to know of runs on Modal before, beside and after them; must not know how Modal is called.

Modal's client and the modules that use it are imported only when somebody needs them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import DataSet
from pytest_megacpp.report.money import Rate
from pytest_megacpp.surfaces.modal import failures, prices
from pytest_megacpp.surfaces.modal.config import CACHE_DIR, CACHE_VOLUME, VM, ModalConfig, VolumeConfig
from pytest_megacpp.surfaces.modal.credentials import configured
from pytest_megacpp.surfaces.modal.settings import TABLE, read_modal
from pytest_megacpp.surfaces.protocol import (
    AMBIENT,
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

NAME = "modal"


def config_of(options: SurfaceOptions) -> ModalConfig:
    """`[tool.pytest_megacpp.modal]`, checked. Raises UsageError."""
    return read_modal(options.tables.get(NAME, {}), untrusted=options.untrusted, data=options.data)


class ModalAttaching:
    """See `Attaching`."""

    def attach(self, options: SurfaceOptions, run_id: str, run: Path) -> RunningBox:
        from pytest_megacpp.surfaces.modal.surface import ModalSurface

        return ModalSurface(config_of(options), options.source).attach(run_id, run)

    def visit(
        self,
        options: SurfaceOptions,
        run_id: str,
        into: Path,
        words: Sequence[Word],
        is_over: Callable[[bool], bool],
    ) -> bool:
        from pytest_megacpp.surfaces.modal.looking import visit

        return visit(run_id, config_of(options), into, words, is_over)

    def stop(self, options: SurfaceOptions, run_id: str) -> str | None:
        from pytest_megacpp.surfaces.modal.stopping import stop

        return stop(run_id, config_of(options))

    def is_an_end(self, problem: ProblemFound) -> bool:
        return failures.is_an_end(problem)

    def nothing_left(self) -> ProblemFound:
        return failures.nothing_left(None)


class ModalProvider:
    """See `SurfaceProvider`."""

    name = NAME
    title = "Modal"
    is_remote = True
    attaching: Attaching | None = ModalAttaching()

    def is_ready(self, environ: Mapping[str, str]) -> bool:
        return configured(environ)

    def place(self, options: SurfaceOptions, environ: Mapping[str, str], devices: Callable[[], int]) -> Place:
        """GPUs are refused on a runtime that has none."""
        config = config_of(options)
        details = config.machine_notices(gpu=not options.dry_run)
        if options.dry_run:
            notice = "Modal, dry run in a CPU sandbox: proves launch and logic, not GPU behaviour"
            return Place(NAME, True, notice, details)
        if config.runtime == VM:
            raise pytest.UsageError(
                f'runtime = "vm" in {TABLE} has no GPUs: remove it or say "gvisor", or run without GPUs (--dry-run)'
            )
        return Place(NAME, False, "Modal", details)

    def surface(self, options: SurfaceOptions, tags: Mapping[str, str]) -> Surface:
        from pytest_megacpp.surfaces.modal.surface import ModalSurface

        return ModalSurface(
            config_of(options), options.source, (options.lane_dir,), tags, options.detach, prices.rates_file()
        )

    def rate(self, options: SurfaceOptions, gpu: str, ranks: int, *, dry_run: bool) -> Rate:
        return prices.rate_of(config_of(options), options.prices, None if dry_run else gpu, ranks)

    def longest_s(self, options: SurfaceOptions, run_s: float | None) -> float | None:
        return config_of(options).times(run_s or 0.0)[0]

    def seeds(self, options: SurfaceOptions) -> str:
        volume = config_of(options).cache_volume
        return f"in volume {volume.name}" if volume is not None else "kept nowhere"

    def shelf(self, options: SurfaceOptions) -> Shelf:
        """Looking at seeds runs no tests, so neither data sets nor the rules for untrusted code matter."""
        from pytest_megacpp.surfaces.modal.seeds import ModalShelf

        config = read_modal(options.tables.get(NAME, {}), untrusted=False)
        return ModalShelf(config.cache_volume or VolumeConfig(CACHE_DIR, CACHE_VOLUME), config.environment)

    def variables(self, options: SurfaceOptions, environ: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], str]]:
        config = config_of(options)
        yield config.env, f"env of {TABLE} of {options.project / 'pyproject.toml'}"
        passed = {name: environ[name] for name in config.pass_env if name in environ}
        yield passed, f"{AMBIENT}, which pass_env of {TABLE} passes on"

    def data_sets(self, options: SurfaceOptions, environ: Mapping[str, str]) -> tuple[DataSet, ...]:
        return ()

    def examination(self, options: SurfaceOptions, lanes: Sequence[Lane]) -> Examination:
        from pytest_megacpp.surfaces.modal.doctor import ModalExamination

        return ModalExamination(config_of(options), options, lanes)


PROVIDER: SurfaceProvider = ModalProvider()

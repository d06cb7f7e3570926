"""Owns what the desk has to know of runs on this machine before and beside them; must not know how a box is started."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from pytest_megacpp.recording.plan import DataSet
from pytest_megacpp.report.money import Rate
from pytest_megacpp.settings.paths import user_cache_dir
from pytest_megacpp.surfaces.data_config import here
from pytest_megacpp.surfaces.local import no_box
from pytest_megacpp.surfaces.prices import Prices
from pytest_megacpp.surfaces.protocol import (
    AMBIENT,
    Attaching,
    Examination,
    Lane,
    Place,
    Shelf,
    Surface,
    SurfaceFailed,
    SurfaceOptions,
    SurfaceProvider,
)
from pytest_megacpp.surfaces.registry import AUTO

NAME = "local"


class LocalProvider:
    """See `SurfaceProvider`."""

    name = NAME
    title = "this machine"
    is_remote = False
    attaching: Attaching | None = None

    def is_ready(self, environ: Mapping[str, str]) -> bool:
        return True

    def place(self, options: SurfaceOptions, environ: Mapping[str, str], devices: Callable[[], int]) -> Place:
        no_box.refuse(options.surface)
        _refuse(options, environ)
        found = devices()
        dry_run = options.dry_run or found == 0
        if dry_run and not options.dry_run and environ.get("CI"):
            raise pytest.UsageError(
                "--surface local finds no GPU on this machine, and under CI nothing falls back to a dry run silently:"
                " pass --dry-run for a CPU dry run, or run the job where the GPUs are"
            )
        if not dry_run and options.boxes > 1:
            raise pytest.UsageError(
                f"--boxes {options.boxes}: the boxes of a lane would share this machine's GPUs. Run them where each box"
                " gets its own, such as --surface modal, or here without --boxes"
            )
        if not dry_run:
            return Place(NAME, False, f"local, {found} GPUs")
        why = "requested" if options.dry_run else "this machine has no GPU"
        return Place(NAME, True, f"local dry run on CPU/gloo ({why}): proves launch and logic, not GPU behaviour")

    def surface(self, options: SurfaceOptions, tags: Mapping[str, str]) -> Surface:
        if sys.platform != "linux":
            raise SurfaceFailed("no box can run on this machine")  # `place` refused before
        from pytest_megacpp.surfaces.local.surface import LocalSurface

        return LocalSurface()

    def rate(self, options: SurfaceOptions, gpu: str, ranks: int, *, dry_run: bool) -> Rate:
        return own_machine(options.prices, 0 if dry_run else ranks)

    def longest_s(self, options: SurfaceOptions, run_s: float | None) -> float | None:
        return run_s

    def seeds(self, options: SurfaceOptions) -> str:
        return f"in {options.seed.dir}"

    def shelf(self, options: SurfaceOptions) -> Shelf:
        from pytest_megacpp.box.seed.store import SeedStore

        return SeedStore(options.seed.dir)

    def variables(self, options: SurfaceOptions, environ: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], str]]:
        yield environ, AMBIENT

    def data_sets(self, options: SurfaceOptions, environ: Mapping[str, str]) -> tuple[DataSet, ...]:
        return here(options.data, user_cache_dir() / "data", environ)

    def examination(self, options: SurfaceOptions, lanes: Sequence[Lane]) -> Examination:
        if sys.platform != "linux":
            return no_box.NoBoxHere()
        from pytest_megacpp.surfaces.local.doctor import LocalExamination

        return LocalExamination(options, lanes)


def _refuse(options: SurfaceOptions, environ: Mapping[str, str]) -> None:
    """Raises UsageError for what must not run here, or only on request."""
    if options.surface == AUTO and environ.get("CI") and not options.dry_run:
        raise pytest.UsageError(
            "--surface auto finds no Modal credentials under CI, and a gate never falls back to a dry run silently:"
            " pass --surface local --dry-run for a CPU dry run, or --surface local on a machine that has the GPUs"
        )
    if options.untrusted:
        raise pytest.UsageError(
            "--untrusted: untrusted code must run on an isolated machine, not on this one: --surface modal"
        )


def own_machine(prices: Prices, gpus: int) -> Rate:
    """Of this machine: nothing, unless its owner says otherwise."""
    return Rate(prices.usd_per_hour or 0.0, gpus, prices.source if prices.usd_per_hour else "this machine")


PROVIDER: SurfaceProvider = LocalProvider()

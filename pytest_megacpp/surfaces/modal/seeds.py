"""Owns the seeds in a Modal Volume as the desk sees them; must not know how seeds are used.

A box has the volume as a directory (box/seed/store.py). From here every file is a call, and nothing is renamed: a mark
is written whole by the server, and a seed that is being removed is reported as damaged.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan, warming_command
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.seed import Manifest, Wanted, coverage
from pytest_megacpp.recording.seed_layout import (
    ARCHIVE,
    GOOD,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Kept,
    SeedError,
    good_id,
    is_id,
    is_key,
    looked_at,
    named,
    newest_first,
    next_good,
)
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode, SeedMode
from pytest_megacpp.surfaces.modal import client
from pytest_megacpp.surfaces.modal.config import SEEDS, VolumeConfig
from pytest_megacpp.surfaces.modal.failures import SurfaceError


class ModalShelf:
    """The seeds below `seeds/` of the cache's volume. Every method raises SeedError."""

    def __init__(self, volume: VolumeConfig, environment: str | None) -> None:
        self._volume = volume.name
        self._top = f"{volume.directory}/{SEEDS}".strip("/")
        self._environment = environment

    @property
    def place(self) -> str:
        return f"volume {self._volume}/{self._top}"

    def seeds(self) -> list[Kept]:
        with _seed_errors():
            client.connect()
            sizes = client.files(self._volume, self._top, self._environment)
            places = {tuple(path.split("/")[:2]) for path in sizes if path.count("/") >= 2}
            ours = [(key, seed_id) for key, seed_id in places if is_key(key) and is_id(seed_id)]
            goods = {key: self._good_id(key) for key in {key for key, _ in ours} if f"{key}/{GOOD}" in sizes}
            return newest_first(self._look(key, seed_id, sizes, goods.get(key)) for key, seed_id in ours)

    def _good_id(self, key: str) -> str | None:
        return good_id(self._read(f"{key}/{GOOD}", 64))

    def _look(self, key: str, seed_id: str, sizes: Mapping[str, int], good: str | None) -> Kept:
        place = f"{key}/{seed_id}"
        readable = f"{place}/{MANIFEST}" in sizes
        manifest = self._read(f"{place}/{MANIFEST}", MAX_MANIFEST_BYTES + 1) if readable else None
        return looked_at(key, seed_id, manifest, sizes.get(f"{place}/{ARCHIVE}"), good)

    def _read(self, path: str, limit_bytes: int) -> bytes:
        return client.read(self._volume, f"{self._top}/{path}", limit_bytes, self._environment)

    def promote(self, name: str) -> Kept:
        seed = named(self.seeds(), name)
        if seed.manifest is None:
            raise SeedError(f"{seed.id} is damaged and can't be promoted: {seed.damage}")
        with _seed_errors():
            self._mark(seed)
        return replace(seed, good=True)

    def drop(self, name: str) -> tuple[Kept, Kept | None]:
        """Removes a seed. The mark goes first: it never names a missing seed."""
        seeds = self.seeds()
        seed = named(seeds, name)
        good = next_good(other for other in seeds if other.key == seed.key and other.id != seed.id)
        with _seed_errors():
            if seed.good and good is not None:
                self._mark(good)
            elif seed.good:
                self._remove(f"{seed.key}/{GOOD}")
            self._remove(f"{seed.key}/{seed.id}")
        return seed, good

    def copy(self, manifest: Manifest, file: IO[bytes]) -> None:
        path = f"{self._top}/{manifest.shape.key}/{manifest.id}/{ARCHIVE}"
        with _seed_errors():
            client.fetch(self._volume, path, file, manifest.archive_bytes, self._environment)

    def _mark(self, seed: Kept) -> None:
        client.write(self._volume, f"{self._top}/{seed.key}/{GOOD}", f"{seed.id}\n".encode(), self._environment)

    def _remove(self, path: str) -> None:
        client.remove(self._volume, f"{self._top}/{path}", self._environment)


def refusal(plan: Plan, shelf: ModalShelf, image: str) -> ProblemFound | None:
    """Returns why a launch that requires a warm seed cannot succeed: what the desk knows of the shape is enough to see
    that no seed of the volume matches it. Returns None where only the box can know; it checks again. Raises SeedError.
    """
    ids = Redactor({**os.environ, **plan.environment}).ids(t.nodeid for t in plan.tests)  # as the box names them
    tests = zip(ids, plan.tests, strict=True)
    wanted = [Wanted(one, t.preset, t.ranks) for one, t in tests if t.cache_seed is SeedMode.REQUIRE and not t.drill]
    if not wanted:
        return None
    requested = (
        plan.lane,
        "cpu" if plan.dry_run else plan.gpu,
        plan.seed.ranks,
        plan.seed.preset,
        image,
        plan.seed.project,
    )
    good = [seed.manifest for seed in shelf.seeds() if seed.good and seed.manifest is not None]
    found = [coverage(seed.tests, wanted, {}) for seed in good if _shape_of(seed) == requested]
    if any(not one.missing for one in found):
        return None
    best = max(found, key=lambda one: one.covered, default=None)
    lane, gpu, ranks, preset, *_ = requested
    reason = f"{shelf.place} has no seed for lane {lane} on {gpu}, {ranks} ranks, preset {preset}"
    if best is not None:
        reason = f"the seed in {shelf.place} covers {best.covered} of {best.wanted} (test, rank) pairs"
    detail = f"no machine was rented: {reason}"
    return ProblemFound(ProblemCode.BLOCKED, ProblemCause.SEED, detail, warming_command(plan))


def _shape_of(seed: Manifest) -> tuple[str, str, int, str, str, str]:
    shape = seed.shape
    return shape.lane, shape.gpu, shape.ranks, shape.preset, shape.image, shape.project


@contextlib.contextmanager
def _seed_errors() -> Iterator[None]:
    """Raises a SurfaceError of the block as SeedError."""
    try:
        yield
    except SurfaceError as e:
        raise SeedError("; ".join(filter(None, (e.problem.detail, e.problem.remedy)))) from e

"""Owns what `megacpp seed` does and prints; must not know arguments, exit codes or where seeds are kept."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.desk.config.lanes import read_lanes
from pytest_megacpp.desk.config.seed import project_of, read_seed
from pytest_megacpp.recording.seed import Manifest, RankGraphs, SeededTest, Shape
from pytest_megacpp.recording.seed_layout import Kept, SeedError, foreign, named
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import columns, counted, grouped
from pytest_megacpp.settings.checks import known
from pytest_megacpp.surfaces.protocol import Shelf

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
AGES_S = (("day", 86_400), ("hour", 3600), ("minute", 60))


# -- showing -------------------------------------------------------------------------------------------------------


def listed(held: Shelf, now: datetime) -> Iterator[str]:
    """Yields a line for each shape and, below it, for each of its seeds; `*` marks the last known good ones."""
    seeds = held.seeds()
    if not seeds:
        yield f"no seeds in {one_line(held.place)} yet: a green run leaves one"
    for key, alike in grouped((seed.key, seed) for seed in seeds).items():
        yield _shape_heading(key, alike)
        yield from columns([_row(seed, now) for seed in alike], "  ")
    if seeds:
        total_bytes = sum(seed.held_bytes for seed in seeds)
        yield f"{counted(len(seeds), 'seed')}, {_size(total_bytes)} in {one_line(held.place)}"


def _shape_heading(key: str, seeds: Sequence[Kept]) -> str:
    shape = next((seed.manifest.shape for seed in seeds if seed.manifest is not None), None)
    if shape is None:
        return f"{key}: nothing readable"
    torch = shape.versions.get("torch") or "of an unknown version"
    parts = (shape.lane, shape.gpu, counted(shape.ranks, "rank"), shape.preset, f"torch {torch}", _devices(shape))
    whose = f"{one_line(shape.project, 80)}: " if shape.project else ""
    return f"{whose}{' · '.join(one_line(part, 60) for part in parts)} ({key})"


def _devices(shape: Shape) -> str:
    return f"{len(shape.devices)} × {', '.join(dict.fromkeys(shape.devices)) or 'unknown'}"


def _row(seed: Kept, now: datetime) -> tuple[str, ...]:
    mark = "*" if seed.good else " "
    if seed.manifest is None:
        return f"{mark} {seed.id}", _age(seed.id, now), _size(seed.held_bytes), "", f"damaged: {seed.damage}"
    made = seed.manifest
    wanted = sum(test.world_size for test in made.tests)
    contents = f"{counted(len(made.tests), 'test')}, {made.size[0]} of {wanted} (test, rank) pairs"
    return f"{mark} {seed.id}", _age(seed.id, now), _size(seed.held_bytes), contents, f"run {one_line(made.run, 40)}"


def shown(seed: Kept) -> Iterator[str]:
    """Yields all that is known of one seed, one line at a time."""
    yield f"seed {seed.id}{', the last known good one of its shape' if seed.good else ''}"
    if seed.manifest is None:
        yield f"  damaged: {seed.damage}; megacpp seed drop {seed.id}"
        return
    yield from columns([(one_line(name, 60), one_line(value)) for name, value in _facts(seed.manifest)], "  ")
    for test in seed.manifest.tests:
        yield from ("", *_test_lines(test))


def _facts(made: Manifest) -> Iterator[tuple[str, str]]:
    shape = made.shape
    yield from (("shape", shape.key), ("lane", shape.lane), ("gpu", shape.gpu), ("devices", _devices(shape)))
    if shape.project:
        yield "project", shape.project
    yield from (("ranks", str(shape.ranks)), ("preset", shape.preset), ("image", shape.image or "none"))
    yield from (*shape.versions.items(), *shape.settings.items())
    yield from (("run", made.run), ("revision", made.revision or "unknown"), ("made", made.created_at))
    yield "cache", f"{_size(made.cache_bytes)} in {counted(made.files, 'file')}"
    yield "archive", f"{_size(made.archive_bytes)}, sha256 {made.sha256}"


def _test_lines(test: SeededTest) -> Iterator[str]:
    revision = f" at {one_line(test.revision, 40)}" if test.revision else ""
    ranks = counted(test.world_size, "rank")
    yield f"{one_line(test.nodeid)} ({one_line(test.preset, 40)}, {ranks}), run {one_line(test.run, 40)}{revision}"
    head = ("RANK", "DEVICE", "COLD", "WARM", "KEYS")
    yield from columns([head, *map(_rank_row, test.ranks)], "  ")


def _rank_row(graphs: RankGraphs) -> tuple[str, ...]:
    keys = ", ".join(f"{one_line(cache, 40)} {len(some)}" for cache, some in graphs.keys.items()) or "none"
    return str(graphs.rank), one_line(graphs.device, 40), _seconds(graphs.cold_s), _seconds(graphs.warm_s), keys


def _seconds(value_s: float | None) -> str:
    return "?" if value_s is None else f"{value_s:.1f} s"


def _size(value_bytes: int) -> str:
    """`512 bytes`, `1.5 GiB`."""
    power = min(max(value_bytes.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{value_bytes} bytes" if not power else f"{value_bytes / (1 << 10 * power):.1f} {UNITS[power]}"


def _age(seed_id: str, now: datetime) -> str:
    """Returns for example `2 hours`, or `?`: the digits of an id need not be a valid time."""
    try:
        made = datetime.strptime(seed_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return "?"
    age_s = (now - made).total_seconds()
    return next((counted(int(age_s // each_s), unit) for unit, each_s in AGES_S if age_s >= each_s), "now")


# -- changing ------------------------------------------------------------------------------------------------------


def promoted(held: Shelf, name: str) -> Iterator[str]:
    seed = held.promote(name)
    yield f"{seed.id} is the last known good seed of its shape ({seed.key})"


def dropped(held: Shelf, names: Sequence[str]) -> Iterator[str]:
    """Drops seeds. Raises SeedError for an unknown name, before anything is dropped."""
    seeds = held.seeds()
    for seed_id in dict.fromkeys(named(seeds, name).id for name in names):
        seed, good = held.drop(seed_id)
        now_good = f"the last known good of its shape is {good.id}" if good else "its shape has no seed any more"
        yield f"dropped {seed.id} ({_size(seed.held_bytes)}); {now_good}"


def baked(held: Shelf, directory: Path, lane: str | None, settings: Mapping[str, object], root: Path) -> Iterator[str]:
    """Makes `directory` a store of the project's last known good seeds, of a lane or all, and of nothing else. Raises
    UsageError if the directory contains other files, and SeedError if there is no such seed.
    """
    if lane is not None:
        known(lane, read_lanes(settings.get("lanes", {})), what="lane", where="--lane")
    strange = foreign(os.listdir(directory)) if directory.is_dir() else []
    if strange:
        raise pytest.UsageError(f"{directory} contains other files ({strange[0]}): choose a new directory")
    project = project_of(read_seed(settings.get("seed", {}), root), root)
    goods = list(_goods(held.seeds(), lane, project))
    if not goods:
        whose = f"of lane {lane} " if lane is not None else ""
        raise SeedError(f"no last known good seed {whose}in {held.place}: a green run leaves one (megacpp seed list)")
    image = SeedStore(directory)
    for made in goods:
        image.adopt(made, partial(held.copy, made))
        yield f"{made.id}  {one_line(made.shape.lane, 40)}  {_size(made.archive_bytes)}"
    for seed in image.seeds():
        if seed.id not in {made.id for made in goods}:
            image.drop(seed.id)
    yield f"{counted(len(goods), 'seed')} in {directory}: COPY it to an image (docs/seed.md)"


def _goods(seeds: Iterable[Kept], lane: str | None, project: str) -> Iterator[Manifest]:
    """Yields the seeds of a project, and those from before projects had names, which no launch uses any more."""
    for made in (seed.manifest for seed in seeds if seed.good):
        if made is not None and lane in (None, made.shape.lane) and made.shape.project in ("", project):
            yield made

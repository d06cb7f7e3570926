"""A store of seeds: what is published appears whole, the last known good one is never lost to a smaller one."""

import contextlib
import errno
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.box.seed import archive
from pytest_megacpp.box.seed import store as seed_store
from pytest_megacpp.box.seed.store import Published, SeedStore, lacking
from pytest_megacpp.recording.seed import Manifest
from pytest_megacpp.recording.seed_layout import SeedError, SeedRefused
from tests.box.seeding import GRAPH, JOINT, PLACES, SHAPE, contents, fill, manifest, seeded

KEY = SHAPE.key
SMALL = manifest(seeded(ranks=1), at="2026-11-26T07:07:41.000Z")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return fill(tmp_path / "cache")


@pytest.fixture
def store(tmp_path: Path) -> SeedStore:
    return SeedStore(tmp_path / "store")


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_an_empty_store(store: SeedStore) -> None:
    assert (store.seeds(), store.good(KEY), store.prune()) == ([], None, [])
    with pytest.raises(SeedError, match="there is no seed '2026': megacpp seed list"):
        store.find("2026")


def test_a_seed_is_found_as_it_was_published(store: SeedStore, cache: Path, tmp_path: Path) -> None:
    published = store.publish(manifest(), cache)
    made = published.manifest
    assert (published.promoted, published.reason) == (True, "")
    assert replace(made, id="", cache_bytes=0, files=0, archive_bytes=0, sha256="") == manifest()
    assert made.id.startswith("20261126-070739-")
    assert store.good(KEY) == made
    found = store.find(made.id[:16])
    assert (found.manifest, found.good, found.damage) == (made, True, "")
    assert found.held_bytes == sum(path.stat().st_size for path in (store.directory / KEY / made.id).iterdir())
    store.unpack(made, tmp_path / "work")
    assert len(contents(tmp_path / "work")) == made.files == 5
    assert lacking(made.tests, tmp_path / "work") == {}
    assert names(store.directory / KEY) == [made.id, "good"]


def test_a_smaller_seed_is_kept_and_not_promoted_by_itself(store: SeedStore, cache: Path) -> None:
    first = store.publish(manifest(), cache).manifest
    small = store.publish(SMALL, cache)
    assert not small.promoted
    assert f"smaller than {first.id}: 1 (test, rank) pairs, 2 graph keys, not 2 and 4" in small.reason
    assert f"megacpp seed promote {small.manifest.id}" in small.reason
    assert [(seed.manifest, seed.good) for seed in store.seeds(KEY)] == [(small.manifest, False), (first, True)]
    assert store.promote(small.manifest.id).good
    assert store.good(KEY) == small.manifest
    assert store.publish(manifest(seeded("a"), seeded("b")), cache).promoted


def test_an_equal_one_replaces_the_last_known_good(store: SeedStore, cache: Path) -> None:
    store.publish(manifest(), cache)
    assert store.good(KEY) != store.publish(manifest(), cache).manifest == store.good(KEY)


def test_shapes_are_apart(store: SeedStore, cache: Path) -> None:
    other = replace(SHAPE, versions={"torch": "2.12.0"})
    store.publish(manifest(), cache)
    assert store.publish(manifest(seeded(ranks=1), shape=other), cache).promoted
    assert [len(store.seeds(key)) for key in (KEY, other.key, None)] == [1, 1, 2]


def test_dropping_the_good_one_leaves_the_newest_whole_one(store: SeedStore, cache: Path) -> None:
    old = store.publish(manifest(), cache).manifest
    damaged = store.publish(replace(SMALL, created_at="2026-11-26T08:00:00Z"), cache).manifest
    (store.directory / KEY / damaged.id / "cache.tar").unlink()
    newer = store.publish(SMALL, cache).manifest
    dropped, next_good = store.drop(old.id)
    assert (dropped.id, next_good and next_good.manifest) == (old.id, newer)
    assert store.good(KEY) == newer
    assert store.drop(newer.id)[1] is None
    assert store.good(KEY) is None
    assert names(store.directory / KEY) == [damaged.id]


def test_dropping_another_leaves_the_good_one(store: SeedStore, cache: Path) -> None:
    good = store.publish(manifest(), cache).manifest
    small = store.publish(SMALL, cache).manifest
    store.drop(small.id)
    assert store.good(KEY) == good


def published_each_minute(store: SeedStore, cache: Path, count: int, first_is_larger: bool = True) -> list[Manifest]:
    tests = [seeded("a"), seeded("b")] if first_is_larger else [seeded("a")]
    return [
        store.publish(manifest(*(tests if n == 0 else [seeded("a")]), at=f"2026-11-26T07:{n:02}:00Z"), cache).manifest
        for n in range(count)
    ]


def test_retention_by_number_keeps_the_good_one_and_the_newest(store: SeedStore, cache: Path) -> None:
    made = published_each_minute(store, cache, 5)
    gone = store.prune(keep=3)
    assert {seed.id for seed in gone} == {made[1].id, made[2].id}
    assert [seed.id for seed in store.seeds()] == [made[4].id, made[3].id, made[0].id]
    assert store.good(KEY) == made[0]
    store.prune(keep=1)
    assert [seed.id for seed in store.seeds()] == [made[0].id]


def test_retention_by_size_takes_the_oldest_of_all_shapes_first(store: SeedStore, cache: Path) -> None:
    made = published_each_minute(store, cache, 4, first_is_larger=False)
    other = store.publish(manifest(at="2026-11-26T06:00:00Z", shape=replace(SHAPE, preset="x")), cache).manifest
    sizes = [seed.held_bytes for seed in store.seeds()]
    store.prune(max_bytes=sum(sizes) - 1)
    assert [seed.id for seed in store.seeds()] == [*(m.id for m in made[:0:-1]), other.id]
    store.prune(max_bytes=0)
    assert {seed.id for seed in store.seeds()} == {made[3].id, other.id}


def test_a_name_that_fits_several_is_said(store: SeedStore, cache: Path) -> None:
    made = [store.publish(manifest(), cache).manifest.id for _ in range(2)]
    with pytest.raises(SeedError, match="the beginning of 2 seeds") as error:
        store.drop("2026")
    assert all(one in str(error.value) for one in made)


# -- damage ----------------------------------------------------------------------------------------------------------


def test_what_is_damaged_is_listed_with_a_reason(store: SeedStore, cache: Path) -> None:
    made = [one.id for one in published_each_minute(store, cache, 6)]
    shape = store.directory / KEY
    (shape / made[1] / "manifest.json").unlink()
    (shape / made[2] / "manifest.json").write_text("{")
    (shape / made[3] / "cache.tar").unlink()
    (shape / made[4] / "cache.tar").write_bytes(b"short")
    (shape / made[5] / "manifest.json").write_bytes((shape / made[0] / "manifest.json").read_bytes())
    (shape / "20261126-070700-aaaaaa").write_text("no directory")
    (shape / "strange").mkdir()
    damages = {seed.id: seed.damage for seed in store.seeds()}
    assert damages[made[0]] == ""
    assert "no readable manifest" in damages[made[1]]
    assert "is no JSON" in damages[made[2]]
    assert "has no cache.tar" in damages[made[3]]
    assert "has a cache.tar of 5 bytes" in damages[made[4]]
    assert "is of another seed" in damages[made[5]]
    assert "no readable manifest" in damages["20261126-070700-aaaaaa"]
    assert len(damages) == 7
    with pytest.raises(SeedError, match="is damaged and can't be promoted"):
        store.promote(made[2])
    store.drop("20261126-070700-aaaaaa")


def test_a_damaged_good_one_is_none(store: SeedStore, cache: Path) -> None:
    made = store.publish(manifest(), cache).manifest
    (store.directory / KEY / made.id / "manifest.json").write_text("{}")
    assert store.good(KEY) is None
    assert store.publish(SMALL, cache).promoted


@pytest.mark.parametrize("mark", ["../../x", "", "20261126-070739-3f9a01/..", "\0", "20991126-070739-3f9a01"])
def test_a_mark_that_means_nothing_is_none(store: SeedStore, cache: Path, mark: str) -> None:
    store.publish(manifest(), cache)
    (store.directory / KEY / "good").write_text(mark)
    assert store.good(KEY) is None
    assert [seed.good for seed in store.seeds()] == [False]


def test_a_seed_that_others_removed_meanwhile_is_gone_not_damaged(
    store: SeedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.publish(manifest(), cache).manifest
    store.drop(made.id)
    monkeypatch.setattr(seed_store, "_listed", lambda directory: [made.id])
    assert store.seeds(KEY) == []
    with pytest.raises(SeedError, match=f"seed {made.id} is gone"):
        store.unpack(made, tmp_path / "work")


def test_a_changed_archive_is_refused_with_the_mend(store: SeedStore, cache: Path, tmp_path: Path) -> None:
    made = store.publish(manifest(), cache).manifest
    path = store.directory / KEY / made.id / "cache.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(SeedRefused, match=rf"seed {made.id} is refused: .*checksum.*; megacpp seed drop {made.id}"):
        store.unpack(made, tmp_path / "work")
    assert not (tmp_path / "work").exists()


# -- others, and the disk --------------------------------------------------------------------------------------------


def test_publishers_at_once_do_each_other_no_harm(store: SeedStore, cache: Path) -> None:
    sizes = [seeded(ranks=n) for n in (1, 4, 2, 3)]
    made: list[Published] = []
    threads = [threading.Thread(target=lambda t=test: made.append(store.publish(manifest(t), cache))) for test in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.seeds()) == 4
    assert not [seed for seed in store.seeds() if seed.damage]
    good = store.good(KEY)
    assert good is not None
    assert good.size[0] == 4


def test_a_lock_that_is_never_let_go_is_not_waited_for(
    store: SeedStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_store, "LOCK_S", 0.05)
    store.directory.mkdir()
    with store._locked():
        assert store.publish(manifest(), cache).promoted


def test_a_file_system_without_locks(store: SeedStore, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert store.publish(manifest(), cache).promoted


def test_what_killed_publishers_left_goes_after_a_day(store: SeedStore, cache: Path) -> None:
    shape = store.directory / KEY
    for name, age_s in ((".new-old", 90_000), (".new-now", 0), ("good.old", 90_000)):
        (shape / name).mkdir(parents=True)
        os.utime(shape / name, (time.time() - age_s,) * 2)
    (shape / ".new-file").touch()
    os.utime(shape / ".new-file", (0, 0))
    made = store.publish(manifest(), cache).manifest
    assert names(shape) == [".new-now", made.id, "good", "good.old"]
    os.utime(shape / ".new-now", (0, 0))
    store.prune()
    assert names(shape) == [made.id, "good", "good.old"]


def test_a_publisher_that_is_interrupted_leaves_nothing(
    store: SeedStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.publish(manifest(), cache)
    assert names(store.directory / KEY) == []


@contextlib.contextmanager
def small_disk(directory: Path, options: str) -> Iterator[None]:
    directory.mkdir(exist_ok=True)
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_is_said_and_nothing_is_left(store: SeedStore, tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 20_000)
    made = store.publish(manifest(), cache).manifest
    with small_disk(tmp_path / "small", "size=100k"):
        small = SeedStore(tmp_path / "small" / "store")
        with pytest.raises(SeedError, match=r"no room for a seed in .*; free some \(megacpp seed drop ID\), or set"):
            small.publish(manifest(), cache)
        assert names(small.directory / KEY) == []
        with pytest.raises(SeedError, match=rf"no room to unpack seed {made.id} in .*small"):
            store.unpack(made, tmp_path / "small" / "work")
        assert names(tmp_path / "small") == ["store"]


def test_a_store_that_can_only_be_read(cache: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=1m"):
        store = SeedStore(tmp_path / "small")
        made = store.publish(manifest(), cache).manifest
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "small")], check=True)
        assert store.good(KEY) == made
        store.unpack(made, tmp_path / "work")
        for change in (lambda: store.publish(manifest(), cache), lambda: store.drop(made.id), store.prune):
            with pytest.raises(SeedError, match=r"can't be written: Read-only file system; .*set dir in"):
                change()


def test_a_store_that_is_no_directory(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = SeedStore(tmp_path / "file")
    for look in (store.seeds, lambda: store.good(KEY)):
        with pytest.raises(SeedError, match=r"can't be read: .*it is no directory; fix that"):
            look()
    with pytest.raises(SeedError, match="can't be written"):
        store.publish(manifest(), cache)


# -- what a cache lacks ----------------------------------------------------------------------------------------------


def test_keys_that_a_cache_lacks(tmp_path: Path) -> None:
    cache, tests = fill(tmp_path / "cache"), [seeded()]
    assert lacking(tests, cache) == {}
    (cache / PLACES["inductor"] / "xvk45").unlink()
    assert lacking(tests, cache) == {"inductor": {GRAPH}}
    assert lacking(tests, tmp_path / "none") == {"inductor": {GRAPH}, "aot_autograd": {JOINT}}


def test_keys_of_other_caches_are_taken_as_there_and_hostile_ones_as_lacking(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache")
    test = seeded(ranks=1)
    keys = {"autotune": ("k",), "inductor": ("", "../..", ".", "\0", "x" * 5000, "a/b")}
    odd = replace(test, ranks=(replace(test.ranks[0], keys=keys),))
    assert lacking([odd], cache) == {"inductor": set(keys["inductor"])}


def test_packing_and_unpacking_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    store, made = SeedStore(tmp_path / "store"), fill(tmp_path / "made", 1 << 20)

    def stop() -> None:
        raise SeedError("the run was interrupted")

    with pytest.raises(SeedError, match="interrupted"):
        store.publish(manifest(), made, each_chunk=stop)
    assert (store.seeds(), os.listdir(store.directory / SHAPE.key)) == ([], [])
    published = store.publish(manifest(), made).manifest
    with pytest.raises(SeedError, match="interrupted"):
        store.unpack(published, tmp_path / "cache" / "there", stop)
    assert os.listdir(tmp_path / "cache") == []

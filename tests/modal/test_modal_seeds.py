"""Seeds in a volume: the desk sees what a box left there, and changes it by calls."""

from pathlib import Path

import pytest

from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.desk.commands import cli
from pytest_megacpp.recording.seed import Manifest
from pytest_megacpp.recording.seed_layout import SeedError, SeedRefused
from pytest_megacpp.surfaces.modal.config import CACHE_DIR, VolumeConfig
from pytest_megacpp.surfaces.modal.seeds import ModalShelf
from tests.box.seeding import SHAPE, fill, manifest, seeded
from tests.modal_emulator import Emulator

NAME = "seeds-of-a-test"


@pytest.fixture
def store(emulator: Emulator) -> SeedStore:
    """The volume as a box has it."""
    return SeedStore(emulator.volume(NAME) / "project" / "seeds")


@pytest.fixture
def held(emulator: Emulator) -> ModalShelf:
    return ModalShelf(VolumeConfig(CACHE_DIR, NAME, "project"), None)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return fill(tmp_path / "cache")


@pytest.fixture(autouse=True)
def emptied(store: SeedStore) -> None:
    for seed in store.seeds():
        store.drop(seed.id)


def two(store: SeedStore, cache: Path) -> tuple[Manifest, Manifest]:
    good = store.publish(manifest(), cache).manifest
    return good, store.publish(manifest(seeded(ranks=1), at="2026-11-25T08:00:00Z"), cache).manifest


def test_the_desk_sees_what_a_box_left(store: SeedStore, held: ModalShelf, cache: Path) -> None:
    good, small = two(store, cache)
    (store.directory / SHAPE.key / small.id / "manifest.json").unlink()
    assert held.seeds() == store.seeds()
    assert held.place == f"volume {NAME}/project/seeds"
    assert [seed.good for seed in held.seeds()] == [True, False]
    assert held.seeds()[0].manifest == good


def test_a_volume_that_is_not_there_has_no_seeds(emulator: Emulator) -> None:
    assert ModalShelf(VolumeConfig(CACHE_DIR, "no-such-volume"), None).seeds() == []


def test_promoting(store: SeedStore, held: ModalShelf, cache: Path) -> None:
    _, small = two(store, cache)
    held.promote(small.id[:9])
    assert store.good(SHAPE.key) == small


def test_dropping(store: SeedStore, held: ModalShelf, cache: Path) -> None:
    good, small = two(store, cache)
    assert held.drop(good.id)[1] is not None
    assert (store.good(SHAPE.key), [seed.id for seed in store.seeds()]) == (small, [small.id])
    assert held.drop(small.id)[1] is None
    assert held.seeds() == []
    assert list((store.directory / SHAPE.key).iterdir()) == []


def test_a_damaged_one_is_not_promoted(store: SeedStore, held: ModalShelf, cache: Path) -> None:
    good, _ = two(store, cache)
    (store.directory / SHAPE.key / good.id / "cache.tar").unlink()
    with pytest.raises(SeedError, match="is damaged and can't be promoted: it has no cache"):
        held.promote(good.id)


def test_an_archive_that_grew_meanwhile_is_refused(
    store: SeedStore, held: ModalShelf, cache: Path, tmp_path: Path
) -> None:
    good, _ = two(store, cache)
    with (store.directory / SHAPE.key / good.id / "cache.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SeedRefused, match="its archive isn't what its manifest says"):
        SeedStore(tmp_path / "image").adopt(good, lambda file: held.copy(good, file))
    assert SeedStore(tmp_path / "image").seeds() == []


def test_baking_from_the_volume(
    store: SeedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, _ = two(store, cache)
    (tmp_path / "pyproject.toml").write_text(f"[tool.pytest_megacpp.modal]\ncache_volume = '{NAME}/project'\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["seed", "list", "--surface", "modal"]) == 0
    assert f"2 seeds, {sum(s.held_bytes for s in store.seeds()) / 1024:.1f} KiB in volume" in capsys.readouterr().out
    assert cli.main(["seed", "bake", "image", "--surface", "modal"]) == 0
    baked = SeedStore(tmp_path / "image")
    assert baked.good(SHAPE.key) == good
    baked.unpack(good, tmp_path / "work")


def test_what_modal_says_is_said_with_the_remedy(
    emulator: Emulator, held: ModalShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    with pytest.raises(SeedError, match=r"Modal rejected the credentials: .*; modal token new"):
        held.seeds()

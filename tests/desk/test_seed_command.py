"""`megacpp seed`: what is said of the seeds of this machine, and what becomes of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.commands import seed as seed_command
from pytest_megacpp.recording.seed import Manifest
from tests.box.seeding import SHAPE, contents, fill, manifest, seeded

NOW = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
Megacpp = Callable[..., SimpleNamespace]


@pytest.fixture
def store(tmp_path: Path) -> SeedStore:
    return SeedStore(tmp_path / "cache" / "pytest-megacpp" / "seeds")


@pytest.fixture
def good(store: SeedStore, tmp_path: Path) -> Manifest:
    return store.publish(manifest(), fill(tmp_path / "c")).manifest


@pytest.fixture
def small(good: Manifest, store: SeedStore, tmp_path: Path) -> Manifest:
    return store.publish(manifest(seeded(ranks=1), at="2026-11-25T08:00:00Z"), tmp_path / "c").manifest


@pytest.fixture
def megacpp(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Megacpp:
    """`megacpp seed *args`, typed in an empty project: exit code, stdout, stderr."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "utc_now", lambda: NOW)

    def call(*args: str) -> SimpleNamespace:
        code = cli.main(["seed", *args])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


def test_no_seeds_are_no_failure(megacpp: Megacpp, store: SeedStore) -> None:
    done = megacpp("list")
    assert (done.code, done.out, done.err) == (0, f"no seeds in {store.directory} yet: a green run leaves one\n", "")


def test_seeds_are_listed_by_shape(megacpp: Megacpp, store: SeedStore, good: Manifest, small: Manifest) -> None:
    other = replace(SHAPE, lane="b200x2", versions={})
    damaged = store.publish(manifest(shape=other), store.directory.parents[2] / "c").manifest
    (store.directory / other.key / damaged.id / "cache.tar").unlink()
    reported = megacpp("list").out.splitlines()
    shapes = [line for line in reported if not line.startswith(" ")]
    assert f"h200x8 · H200:8 · 2 ranks · full · torch 2.13.0 · 2 × NVIDIA H200 ({SHAPE.key})" in shapes
    assert f"{other.key}: nothing readable" in shapes
    rows = [line.split() for line in reported if line.startswith(" ")]
    size = f"{store.find(good.id).held_bytes / 1024:.1f} KiB"
    whole = f"* {good.id} 2 hours {size} 1 test, 2 of 2 (test, rank) pairs run 20261126-070739-3f9a"
    assert whole.split() in rows
    assert [row[:3] for row in rows if small.id in row] == [[small.id, "1", "day"]]
    assert any(damaged.id in row and "damaged: it has no cache.tar" in " ".join(row) for row in rows)
    assert reported[-1].startswith("3 seeds, ")


def test_all_of_a_seed_is_shown(megacpp: Megacpp, good: Manifest) -> None:
    done = megacpp("show", good.id[:15])
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == f"seed {good.id}, the last known good one of its shape"
    for reported in (
        *("lane h200x8", "devices 2 × NVIDIA H200", "torch 2.13.0", "run 20261126-070739-3f9a", "revision abc123"),
        *("cache 150 bytes in 5 files", f"archive {good.archive_bytes / 1024:.1f} KiB, sha256 {good.sha256}"),
        "test_a.py::test_a (full, 2 ranks), run 20261126-070739-3f9a at abc123",
        "1 cuda:1 25.8 s 1.7 s inductor 1, aot_autograd 1",
    ):
        assert reported in lines, done.out


def test_a_damaged_seed_is_shown_as_such(megacpp: Megacpp, store: SeedStore, good: Manifest) -> None:
    (store.directory / SHAPE.key / good.id / "manifest.json").write_text("{}")
    done = megacpp("show", good.id)
    assert done.code == 1
    assert f"damaged: its manifest is not of this version (megacpp.seed/1); megacpp seed drop {good.id}" in done.out


def test_texts_of_strangers_are_clean(megacpp: Megacpp, store: SeedStore, tmp_path: Path) -> None:
    shape = replace(SHAPE, lane="\x1b]0;t\x07x\n", versions={"\x1b": "\x07"})
    evil = replace(manifest(shape=shape), run="\x1b[2J\nr", revision="\x9b")
    made = store.publish(evil, fill(tmp_path / "c")).manifest
    for done in (megacpp("list"), megacpp("show", made.id)):
        assert not {"\x1b", "\x07", "\x9b"} & set(done.out)


def test_promoting_and_dropping(megacpp: Megacpp, store: SeedStore, good: Manifest, small: Manifest) -> None:
    done = megacpp("promote", small.id)
    assert (done.code, store.good(SHAPE.key)) == (0, small)
    assert done.out == f"{small.id} is the last known good seed of its shape ({SHAPE.key})\n"
    done = megacpp("drop", small.id, good.id)
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.endswith(f"; the last known good of its shape is {good.id}")
    assert second.endswith("; its shape has no seed any more")
    assert store.seeds() == []


def test_nothing_is_dropped_when_a_name_means_nothing(megacpp: Megacpp, store: SeedStore, good: Manifest) -> None:
    done = megacpp("drop", good.id, "nonsense")
    assert (done.code, done.out) == (2, "")
    assert done.err == "megacpp: there is no seed 'nonsense': megacpp seed list says which there are\n"
    assert store.good(SHAPE.key) == good


def test_the_configuration_names_another_place(megacpp: Megacpp, tmp_path: Path) -> None:
    (tmp_path / "project" / "pyproject.toml").write_text("[tool.pytest_megacpp.seed]\ndir = 'here'\n")
    made = SeedStore(tmp_path / "project" / "here").publish(manifest(), fill(tmp_path / "c")).manifest
    assert made.id in megacpp("list").out


# -- baking ----------------------------------------------------------------------------------------------------------


def test_the_last_known_good_seeds_are_baked(
    megacpp: Megacpp, store: SeedStore, good: Manifest, small: Manifest, tmp_path: Path
) -> None:
    done = megacpp("bake", "image/seeds")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith("1 seed in image/seeds: COPY it")
    baked = SeedStore(tmp_path / "project" / "image" / "seeds")
    assert [seed.id for seed in baked.seeds()] == [good.id]
    assert baked.good(SHAPE.key) == good
    baked.unpack(good, tmp_path / "work")
    assert len(contents(tmp_path / "work")) == 5


def test_baking_again_leaves_what_is_good_now(
    megacpp: Megacpp, store: SeedStore, good: Manifest, tmp_path: Path
) -> None:
    megacpp("bake", "seeds")
    newer = store.publish(manifest(), tmp_path / "c").manifest
    for _ in range(2):
        assert megacpp("bake", "seeds").code == 0
    baked = SeedStore(tmp_path / "project" / "seeds")
    assert ([seed.id for seed in baked.seeds()], baked.good(SHAPE.key)) == ([newer.id], newer)


def test_baking_again_mends_what_was_cut_off(megacpp: Megacpp, good: Manifest, tmp_path: Path) -> None:
    megacpp("bake", "seeds")
    baked = SeedStore(tmp_path / "project" / "seeds")
    (baked.directory / SHAPE.key / good.id / "cache.tar").unlink()
    (baked.directory / SHAPE.key / f".new-{good.id}").mkdir()
    assert megacpp("bake", "seeds").code == 0
    baked.unpack(good, tmp_path / "work")


def test_only_the_seeds_of_a_lane(megacpp: Megacpp, store: SeedStore, good: Manifest, tmp_path: Path) -> None:
    store.publish(manifest(shape=replace(SHAPE, lane="b200x2")), tmp_path / "c")
    assert megacpp("bake", "seeds", "--lane", "h200x8").code == 0
    assert [seed.id for seed in SeedStore(tmp_path / "project" / "seeds").seeds()] == [good.id]
    done = megacpp("bake", "other", "--lane", "h200x9")
    assert done.code == 2
    assert "unknown lane 'h200x9'; did you mean 'h200x8'?" in done.err


def test_what_can_not_be_baked(megacpp: Megacpp, store: SeedStore, tmp_path: Path) -> None:
    done = megacpp("bake", "seeds", "--lane", "h200x8")
    assert (done.code, (tmp_path / "project" / "seeds").exists()) == (2, False)
    assert "no last known good seed of lane h200x8 in" in done.err
    made = store.publish(manifest(), fill(tmp_path / "c")).manifest
    (tmp_path / "project" / "README").touch()
    assert "contains other files (README)" in megacpp("bake", ".").err
    archive = store.directory / SHAPE.key / made.id / "cache.tar"
    archive.write_bytes(bytes(made.archive_bytes))
    done = megacpp("bake", "seeds")
    assert done.code == 2
    assert f"seed {made.id} is damaged" in done.err
    assert SeedStore(tmp_path / "project" / "seeds").seeds() == []


@pytest.mark.parametrize(
    ("size_bytes", "reported"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes(size_bytes: int, reported: str) -> None:
    assert seed_command._size(size_bytes) == reported


def test_ages() -> None:
    ids = ("20261126-092930-a", "20261126-092859-a", "20261124-000000-a", "20271124-000000-a", "99999999-999999-a")
    assert [seed_command._age(seed_id, NOW) for seed_id in ids] == ["now", "1 minute", "2 days", "now", "?"]


def test_only_the_project_s_own_seeds_are_baked(megacpp: Megacpp, store: SeedStore, tmp_path: Path) -> None:
    Path("pyproject.toml").write_text('[project]\nname = "mine"\n')
    fill(tmp_path / "c")
    made = [
        store.publish(manifest(shape=replace(SHAPE, project=p)), tmp_path / "c").manifest for p in ("mine", "other")
    ]
    assert megacpp("bake", "baked").code == 0
    assert [seed.id for seed in SeedStore(Path("baked")).seeds()] == [made[0].id]
    assert "mine: h200x8 ·" in megacpp("list").out
    assert "other: h200x8 ·" in megacpp("list").out


def test_seeds_for_programs(megacpp: Megacpp, good: Manifest) -> None:
    (listed,) = json.loads(megacpp("list", "--json").out)
    assert (listed["id"], listed["good"], listed["manifest"]["run"]) == (good.id, True, good.run)
    assert json.loads(megacpp("show", good.id, "--json").out) == listed

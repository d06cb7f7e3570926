"""What a run begins with, where the store of seeds is not as a green run leaves it."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.box.gpus.devices import Device, DeviceList
from pytest_megacpp.box.host.contract import Setting
from pytest_megacpp.box.host.survey import Survey
from pytest_megacpp.box.seed.compiled_graphs import graph_dir
from pytest_megacpp.box.seed.keeping import keep
from pytest_megacpp.box.seed.loading import load
from pytest_megacpp.box.seed.shape import left_to_user, shape_of
from pytest_megacpp.box.seed.store import SeedStore
from pytest_megacpp.box.seed.working_copy import WorkingCopy
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Limits, SeedChecked
from pytest_megacpp.recording.plan import Plan, PlannedTest, SeedPlan, warming_command
from pytest_megacpp.recording.timeline import Timeline
from pytest_megacpp.recording.vocabulary import (
    Preset,
    Purpose,
    RunEnd,
    SeedMode,
    SettingOrigin,
    SettingPhase,
    TestEnd,
    WarmUp,
)
from pytest_megacpp.recording.wire import MAX_LINE_BYTES, encode
from pytest_megacpp.report.seed import seed_lines
from tests.box.seeding import SHAPE, fill, manifest
from tests.report.story import NODEID, Story


@pytest.fixture
def store(tmp_path: Path) -> SeedStore:
    return SeedStore(tmp_path / "store")


def plan(store: SeedStore, *args: str) -> Plan:
    test = PlannedTest("test_a.py::test_a", 2, Preset.FULL, Limits(), cache_seed=SeedMode.REQUIRE)
    return Plan(
        "r1",
        "h200x8",
        "local",
        "H200:8",
        2,
        2,
        True,
        False,
        (test,),
        args,
        ".",
        SeedPlan(SeedMode.AS_IT_IS, (str(store.directory),)),
    )


def begun(store: SeedStore, cache: Path) -> SeedChecked:
    cache.mkdir()
    return load(WorkingCopy(plan(store), SHAPE, cache)).checked


def test_a_seed_that_nobody_made_the_last_known_good_one_is_named(store: SeedStore, tmp_path: Path) -> None:
    made = store.publish(manifest(), fill(tmp_path / "made")).manifest
    (store.directory / SHAPE.key / "good").unlink()
    began = begun(store, tmp_path / "cache")
    assert (began.state, began.covered) == ("absent", 0)
    assert began.detail == (f"seed {made.id} matches but is not marked good: megacpp seed promote {made.id}")


def test_projects_do_not_get_each_other_s_seeds(store: SeedStore, tmp_path: Path) -> None:
    """Two projects of one desk, with equal lanes, machines and names of tests."""
    mine, theirs = replace(SHAPE, project="mine"), replace(SHAPE, project="theirs")
    made = store.publish(manifest(shape=theirs), fill(tmp_path / "made")).manifest
    (tmp_path / "cache").mkdir()
    began = load(WorkingCopy(plan(store), mine, tmp_path / "cache")).checked
    assert (began.state, began.covered, began.detail) == ("absent", 0, "")
    assert not any((tmp_path / "cache").iterdir())
    ours = store.publish(manifest(shape=mine), tmp_path / "made").manifest
    assert store.good(theirs.key) == made
    assert store.good(mine.key) == ours


def test_a_damaged_seed_is_named_with_one_that_would_serve(store: SeedStore, tmp_path: Path) -> None:
    fill(tmp_path / "made")
    older = store.publish(manifest(), tmp_path / "made").manifest
    newer = store.publish(replace(manifest(), created_at="2026-11-26T07:07:59.000Z"), tmp_path / "made").manifest
    (store.directory / SHAPE.key / newer.id / "cache.tar").unlink()
    refused, other = begun(store, tmp_path / "cache").detail.split("; ")
    assert refused.startswith(f"seed {newer.id} is refused: it has no cache.tar")
    assert other.endswith(f"megacpp seed promote {older.id}")


def test_what_many_tests_lack_fits_the_recording(store: SeedStore, tmp_path: Path) -> None:
    asked = plan(store)
    tests = tuple(replace(asked.tests[0], nodeid=f"test_a.py::test_{number}", ranks=64) for number in range(5000))
    began = load(WorkingCopy(replace(asked, tests=tests), SHAPE, tmp_path)).checked
    assert (began.wanted, began.missing[0].test) == (320_000, 0)
    assert len(encode(ev.Event("r1", "", "box", 0, 1.0, began))) < MAX_LINE_BYTES


def test_a_cache_that_can_not_be_looked_at_costs_the_run_nothing(
    store: SeedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = load(WorkingCopy(plan(store), SHAPE, tmp_path))
    monkeypatch.setattr(WorkingCopy, "size_bytes", lambda copy: 1 / 0)
    kept = keep(seed, Timeline(), RunEnd.COMPLETED)
    assert (kept.state, kept.wanted, kept.detail) == ("absent", 2, "not kept: ZeroDivisionError('division by zero')")


def test_the_warming_command_is_the_user_s_own(store: SeedStore) -> None:
    asked = plan(store, "-m", "h200x8", "--cache-seed", "require", "-k", "a or b", "--", "test_a.py")
    assert warming_command(asked) == "pytest -m h200x8 -k 'a or b' --cache-seed auto -- test_a.py"


def test_the_shape_is_the_lane_s_whatever_was_selected(store: SeedStore) -> None:
    """A run of the smaller tests alone finds the seed of all."""
    found = DeviceList(tuple(Device(i, "NVIDIA H200", f"GPU-{i}", 143_771, "570.86") for i in range(8)))
    survey = Survey({"torch": "2.13.0", "python": "3.12.1", "pytest": "9.0"}, {}, found)
    lane = replace(
        plan(store), dry_run=False, devices=8, ranks=8, seed=SeedPlan(SeedMode.AUTO, ("",), ranks=8, project="mine")
    )
    environ = {"TRITON_ALLOW_X": "1", "TORCHINDUCTOR_CACHE_DIR": "/mine", "HOME": "/root"}
    whole = shape_of(lane, survey, (), environ)
    assert whole.key == shape_of(replace(lane, devices=2, ranks=2), survey, (), environ).key
    assert whole.devices == ("NVIDIA H200",) * 8
    assert whole.versions == {"torch": "2.13.0", "python": "3.12.1", "driver": "570.86"}
    assert whole.settings == {"TRITON_ALLOW_X": "1"}
    assert whole.project == "mine"


def test_caching_that_the_operator_moved_or_switched_off_has_no_seeds(store: SeedStore, tmp_path: Path) -> None:
    ours = [
        Setting(name, "x", SettingOrigin.PLUGIN, "", SettingPhase.COMPILE, "")
        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    ]
    assert left_to_user(ours, {"TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}) == ""
    assert left_to_user([ours[0], replace(ours[1], source=SettingOrigin.USER)], {}).startswith(
        "TRITON_CACHE_DIR is set by you"
    )
    tag = Setting("TORCH_COMPILE_CACHE_KEY_TAG", "megacpp", SettingOrigin.PLUGIN, "", SettingPhase.IMPORT, "torch")
    assert left_to_user([*ours, tag], {}) == ""
    shared = left_to_user([*ours, replace(tag, value="", source=SettingOrigin.USER)], {})
    assert "a seed is shared by all" in shared
    off = left_to_user(ours, {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0"})
    store.publish(manifest(), fill(tmp_path / "made"))
    (tmp_path / "cache").mkdir()
    seed = load(WorkingCopy(plan(store), SHAPE, tmp_path / "cache", off))
    assert (seed.checked.state, seed.reasons()) == ("absent", {0: "user_disabled"})
    refused = seed.refusal()
    assert refused is not None
    assert (refused.cause, "TORCHINDUCTOR_FX_GRAPH_CACHE=0 is set by you" in refused.detail) == ("own-cache", True)
    assert "unset the variable" in refused.remedy


def test_what_is_compiled_again_after_its_warm_up_is_said(store: SeedStore, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    asked = replace(
        plan(store), tests=(PlannedTest("test_a.py::test_a", 2, Preset.FULL, Limits(), cache_seed=SeedMode.AUTO),)
    )
    seed = load(WorkingCopy(asked, SHAPE, tmp_path / "cache"))
    story = Story(2, warmup=WarmUp.RUNS)
    for rank in (0, 1):
        story.rank(11.0, ev.Compiled(rank, 0, 9.0, 1, 0, 1, {"inductor": (f"kept{rank}",)}))
        story.passes(rank, 12.0)
    story.box(13.0, ev.TestPlanned(1, NODEID, 2, of=0, purpose=Purpose.MEASURED), world="")
    story.box(14.0, ev.TestStarted(1, NODEID, 2, Limits()))
    story.rank(15.0, ev.Compiled(0, 1, 0.5, 1, 1, 0, {"inductor": ("kept0",)}))
    story.rank(15.0, ev.Compiled(1, 1, 9.0, 1, 0, 1, {"inductor": ("new1",)}))
    kept = keep(seed, story.timeline, RunEnd.STOPPED)
    assert (kept.helped, kept.missed) == (None, (ev.SeedShort(0, (1,), ("new1",)),))
    story.box(16.0, seed.checked, world="")
    story.box(17.0, kept, world="")
    assert seed_lines(story.timeline)[1] == f"the warm-up did not help {NODEID}: rank 1 compiled again (missed new1)"


def test_graphs_of_a_cache_that_a_test_had_for_itself_are_no_seed_s_to_keep(store: SeedStore, tmp_path: Path) -> None:
    """Or it would lack them for ever."""
    (tmp_path / "cache").mkdir()
    seed = load(WorkingCopy(plan(store), SHAPE, tmp_path / "cache"))
    place = graph_dir(tmp_path / "cache", "inductor", "fshared")
    assert place is not None
    place.mkdir(parents=True)
    (place / "graph").touch()
    story = Story(2)
    for rank in (0, 1):
        story.rank(11.0, ev.Compiled(rank, 0, 9.0, 1, 0, 2, {"inductor": ("fshared", "fprivate")}))
        story.passes(rank, 12.0)
    story.box(13.0, ev.TestEnded(0, TestEnd.FINISHED))
    kept = keep(seed, story.timeline, RunEnd.COMPLETED)
    assert (kept.state, kept.covered, kept.promoted) == ("warm", 2, True)
    made = store.good(SHAPE.key)
    assert made is not None
    assert [graphs.keys for test in made.tests for graphs in test.ranks] == [{"inductor": ("fshared",)}] * 2

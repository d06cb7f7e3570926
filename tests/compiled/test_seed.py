"""Seeds as their users meet them: one run's cache serves the next one elsewhere, and what it lacks is found before."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_megacpp.box.seed.compiled_graphs import graph_dir
from pytest_megacpp.box.seed.store import SeedStore, lacking
from pytest_megacpp.recording.seed import Manifest
from tests.plugin.project import LANE, WITHOUT_NUMPY, Project, Ran

SUITE = """
    import pytest
    import torch

    pytestmark = pytest.mark.h200x8(ranks=2)

    def test_compiles(modal_h200x8):
        size = modal_h200x8.rank + 2  # each rank has a graph of its own, one that needs no C++ compiler
        assert torch.compile(torch.mm)(torch.ones(size, size), torch.ones(size, size))[0, 0] == size

    @pytest.mark.h200x8(cache_seed="cold")
    def test_is_cold(modal_h200x8):
        torch.compile(torch.mm)(torch.ones(3, 3), torch.ones(3, 3))

    def test_does_not():
        pass
"""
PASSED = dict.fromkeys(("test_compiles", "test_is_cold", "test_does_not"), "passed")


def project_in(directory: Path, seeds: Path) -> Project:
    made = Project(directory)
    made.write("test_suite.py", SUITE)
    table = f"[tool.pytest_megacpp]\npreload = ['torch._inductor.compile_fx']\nseed = {{dir = '{seeds}'}}\n"
    pyproject = directory / "pyproject.toml"
    pyproject.write_text(f"{pyproject.read_text()}{table}")
    return made


class Suite:
    """The same suite in directories of its own, which share a store of seeds; the documented install has no numpy."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = SeedStore(root / "seeds")
        self._made = 0

    def project(self) -> Project:
        self._made += 1
        return project_in(self.root / f"checkout-{self._made}", self.store.directory)

    def run(self, *args: str) -> Ran:
        return self.project().pytest(*LANE, *args, env=WITHOUT_NUMPY)

    def good(self) -> Manifest:
        found = next(seed.manifest for seed in self.store.seeds() if seed.good)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """With a seed that a first run left."""
    suite = Suite(tmp_path_factory.mktemp("seeds"))
    ran = suite.run("--cache-seed", "auto")
    assert ran.outcomes() == PASSED
    receipt = ran.receipt("test_compiles")
    assert receipt["warmup"] == "explicit_warmup_allowed"
    assert [attempt["purpose"] for attempt in receipt["attempts"]] == ["warm-up", "measured"]
    warm, measured = ([rank["cache"]["misses"] for rank in attempt["ranks"]] for attempt in receipt["attempts"])
    assert min(warm) > 0
    assert measured == [0, 0]
    assert ran.receipt("test_does_not")["attempts"] == []
    seed = receipt["seed"]
    assert (seed["state"], seed["coverage"], seed["bytes_start"]) == ("absent", 0.0, 0)
    assert (seed["state_end"], seed["coverage_end"], seed["promoted"]) == ("warm", 1.0, True)
    assert f"megacpp: seeds: auto, in {suite.store.directory}" in ran.text
    assert "\nseed warm: covers 4 of 4 (test, rank) pairs, 0 at the start, " in ran.text
    assert ran.text.count("megacpp: seed") == 1  # of the header: none tears the progress line
    return suite


def keys_of(manifest: Manifest, rank: int) -> set[tuple[str, str]]:
    ranks = [graphs for test in manifest.tests for graphs in test.ranks if graphs.rank == rank]
    return {(cache, key) for graphs in ranks for cache, keys in graphs.keys.items() for key in keys}


def test_the_seed_of_one_run_serves_the_next_in_another_directory(suite: Suite) -> None:
    before = suite.good()
    assert keys_of(before, 0).isdisjoint(keys_of(before, 1))
    ran = suite.run("--cache-seed", "require")
    assert ran.outcomes() == PASSED
    receipt, cold = ran.receipt("test_compiles"), ran.receipt("test_is_cold")
    assert (cold["warmup"], min(rank["cache"]["misses"] for rank in cold["ranks"]) > 0) == ("user_disabled", True)
    assert (receipt["seed"]["state"], receipt["seed"]["id"], receipt["warmup"]) == ("warm", before.id, "seed_warm")
    assert [rank["cache"]["misses"] for rank in receipt["ranks"]] == [0, 0]
    assert receipt["seed"]["helped"] is True
    assert receipt["seed"]["detail_end"] == "nothing new"
    assert suite.good() == before


def test_a_seed_that_lacks_one_rank_s_graphs_is_found_and_repaired(suite: Suite, tmp_path: Path) -> None:
    whole = suite.good()
    suite.store.unpack(whole, tmp_path / "cache")
    for cache, key in keys_of(whole, 1):
        place = graph_dir(tmp_path / "cache", cache, key)
        if place is not None:
            shutil.rmtree(place)
    damaged = suite.store.publish(whole, tmp_path / "cache").manifest
    refused = suite.run("--cache-seed", "require")
    assert set(refused.outcomes().values()) == {"error"}
    verdict = refused.verdict("test_compiles")
    assert (verdict["code"], verdict["cause"]) == ("blocked", "seed")
    assert "3 of 4 (test, rank) pairs" in verdict["summary"]
    assert "test_suite.py::test_compiles (rank 1)" in verdict["summary"]
    assert verdict["next_step"].splitlines()[1:] == ["pytest -m h200x8 --surface local --dry-run --cache-seed auto"]
    with ThreadPoolExecutor(2) as pool:  # at the same time, as two jobs of a CI may
        repaired = list(pool.map(lambda _: suite.run("--cache-seed", "auto"), range(2)))
    seeds = [ran.receipt("test_compiles")["seed"] for ran in repaired]
    for seed in seeds:
        assert (seed["state"], seed["id"], seed["coverage"]) == ("partial", damaged.id, 0.75)
        assert [short["ranks"] for short in seed["missing"]] == [[1]]
        assert (seed["state_end"], seed["promoted"]) == ("warm", True)
    published = {seed["published"] for seed in seeds}
    assert len(published) == 2
    assert published <= {seed.id for seed in suite.store.seeds() if seed.manifest is not None}
    assert suite.good().id in published
    suite.store.unpack(suite.good(), tmp_path / "repaired")
    assert lacking(whole.tests, tmp_path / "repaired") == {}


def test_a_seed_of_another_torch_does_not_count(suite: Suite, tmp_path: Path) -> None:
    theirs = suite.good()
    other = SeedStore(tmp_path / "seeds")
    shape = replace(theirs.shape, versions=theirs.shape.versions | {"torch": "2.12.0"})
    (tmp_path / "cache").mkdir()
    other.publish(replace(theirs, shape=shape), tmp_path / "cache")
    ran = project_in(tmp_path / "checkout", other.directory).pytest(*LANE, "--cache-seed", "require")
    summary = ran.verdict("test_compiles")["summary"]
    assert "the seed is foreign" in summary
    assert f"torch 2.12.0, here {theirs.shape.versions['torch']}" in summary


def test_a_store_that_cannot_be_read_is_said_and_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "seeds").write_text("no directory")
    made = Project(tmp_path / "checkout")
    made.write("test_suite.py", "import pytest\n\n@pytest.mark.h200x8(ranks=1)\ndef test_does_not(): pass\n")
    made.write("pyproject.toml", f"[tool.pytest_megacpp.seed]\ndir = '{tmp_path / 'seeds'}'\n")
    torch_s_own = str(Path(tempfile.gettempdir(), "torchinductor_me"))  # as its desk has it where something compiled
    ran = made.pytest(*LANE, env={"TORCHINDUCTOR_CACHE_DIR": torch_s_own})
    assert ran.outcome("test_does_not") == "passed"
    seed = ran.receipt("test_does_not")["seed"]
    assert f"the seeds in {tmp_path / 'seeds'} can't be read" in seed["detail"]
    assert ran.run is not None
    assert f"not kept: the seeds in {tmp_path / 'seeds'} can't be written" in ran.run["seed"]["detail_end"]

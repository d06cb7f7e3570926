"""What can be wrong before or around a test: a clear message, the right exit code, never green, never a hang."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.project import DRY, LANE, Project, Ran

ONE = """
    import pytest

    def test_ordinary(): pass

    @pytest.mark.h200x8(ranks=2)
    def test_lane(): pass
"""


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("simple"))
    project.write("test_one.py", ONE)
    return project


# -- what was typed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["--lane-limit", "stal=5"], "unknown limit 'stal'; did you mean 'stall'?"),
        (["--lane-limit", "stall=soon"], "stall must be a number of seconds above 0"),
        (["--ranks", "0"], "--ranks: the world size must be a whole number of at least 1"),
        (["--surface", "lokal"], "did you mean 'local'?"),
        (["--replay", "nowhere"], "no run 'nowhere'"),
        (["--lane-annotations", "of"], "unknown choice 'of'; did you mean 'off'?"),
        (["--attach", "nowhere"], "pass the whole run id"),
        (["--attach", "20200101-000000-0000", "--replay", "latest"], "exclude each other"),
        (["--surface", "local", "--detach"], "--detach leaves a run on Modal"),
    ],
)
def test_options_are_checked(simple: Project, typed: list[str], answer: str) -> None:
    ran = simple.pytest("-m", "h200x8", *typed)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert answer in ran.text
    assert "Traceback" not in ran.text
    assert ran.directory is None


@pytest.mark.parametrize(
    ("mark", "answer"),
    [
        ("h200x8(4)", "its arguments need names, such as ranks=4"),
        ("h200x8(rank=4)", "unknown argument 'rank'; did you mean 'ranks'?"),
        ("h200x8(ranks=0)", "ranks must be a whole number of at least 1"),
        ("expect_verdict('rank-deth')", "did you mean 'rank-death'?"),
    ],
)
def test_marks_are_checked(project: Project, mark: str, answer: str) -> None:
    project.write("test_it.py", f"import pytest\n@pytest.mark.h200x8\n@pytest.mark.{mark}\ndef test_it(): pass\n")
    ran = project.pytest(*LANE)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert answer in ran.text
    assert "test_it.py::test_it" in ran.text
    assert "Traceback" not in ran.text
    assert ran.directory is None


def test_a_lane_without_tests_is_not_green(project: Project) -> None:
    project.write("test_it.py", "def test_it(): pass\n")
    ran = project.pytest(*LANE)
    assert ran.code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert ran.directory is None


def test_an_unknown_lane_is_named(simple: Project) -> None:
    ran = simple.pytest("-m", "h200x9", *DRY, "-o", "addopts=")
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "unknown lane 'h200x9'; did you mean 'h200x8'?" in ran.text
    # pytest's own strict markers, where a project asks for them, are faster
    assert simple.pytest("-m", "h200x9", *DRY).code == pytest.ExitCode.USAGE_ERROR


def test_a_gate_never_degrades_in_silence(simple: Project) -> None:
    ran = simple.pytest("-m", "h200x8", env={"CI": "1"})
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "a gate never falls back to a dry run silently" in ran.text
    assert ran.directory is None


def test_a_collection_error_at_the_desk_starts_nothing(project: Project) -> None:
    project.write("test_one.py", ONE)
    project.write("test_broken.py", "import no_such_module\n")
    ran = project.pytest(*LANE)
    assert ran.code == pytest.ExitCode.INTERRUPTED
    assert ran.directory is None


DESK_FIXTURE = """
    import os
    import pytest

    class TestMixed:
        @pytest.fixture(scope="class")
        def leased(self):
            yield
            raise RuntimeError("the desk's lease could not be returned")

        def test_of_the_desk(self, leased): pass

        @pytest.mark.h200x8(ranks=1)
        def test_of_the_lane(self): pass
"""


def test_a_fixture_of_the_desk_that_breaks_after_a_lane_test(project: Project) -> None:
    project.write("test_mixed.py", DESK_FIXTURE)
    ran = project.pytest(*DRY)
    assert ran.outcomes() == {"TestMixed::test_of_the_desk": "passed", "TestMixed::test_of_the_lane": "error"}
    assert "lease could not be returned" in ran.of("TestMixed::test_of_the_lane")["teardown"]["text"]
    assert ran.code == pytest.ExitCode.TESTS_FAILED


# -- where it runs -----------------------------------------------------------------------------------------------------


def test_a_lane_directory_that_cannot_be(simple: Project) -> None:
    ran = simple.pytest(*LANE, "--lane-dir", "test_one.py/below")
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "below can't be used: Not a directory" in ran.text
    assert "--lane-dir DIR" in ran.text


IN_THE_LANE = "[tool.pytest_megacpp.lanes.h200x8.environment]"


@pytest.mark.parametrize(
    ("variables", "table", "place"),
    [
        ({"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}, "", "the environment of pytest (your shell, CI"),
        ({}, "[tool.pytest_megacpp.environment]", "[tool.pytest_megacpp.environment] of "),
        ({"TORCH_DISTRIBUTED_DEBUG": "INFO"}, IN_THE_LANE, f"{IN_THE_LANE} of "),
    ],
    ids=["shell", "all-lanes", "lane"],
)
def test_a_debug_level_that_breaks_everything_is_refused(
    simple: Project, variables: dict[str, str], table: str, place: str
) -> None:
    configuration = simple.write("pyproject.toml", f"{table}\nTORCH_DISTRIBUTED_DEBUG = 'DETAIL'\n" if table else "")
    ran = simple.pytest(*LANE, "--preset", "diagnostic", env=variables)
    configuration.unlink()  # other tests have none
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.outcomes() == {"test_lane": "error"}
    assert ran.verdict("test_lane")["code"] == "blocked"
    assert ran.receipt("test_lane")["preset"] == "diagnostic"
    assert "deadlocks fully_shard" in ran.failure("test_lane")
    assert f"TORCH_DISTRIBUTED_DEBUG='DETAIL' in {place}" in ran.failure("test_lane").replace("\n", " ").replace(
        "  ", " "
    )
    assert ran.run is not None
    assert ran.run["status"] == "blocked"
    assert ran.run["versions"] == {}  # no box looked


WITHOUT_TORCH = """
    import importlib.metadata
    import sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torch":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def from_name(name, _from_name=importlib.metadata.Distribution.from_name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return _from_name(name)

    sys.meta_path.insert(0, Hidden())
    importlib.metadata.Distribution.from_name = from_name
"""


def test_without_torch_ordinary_tests_run_and_lanes_say_what_to_install(project: Project) -> None:
    project.write("test_one.py", ONE)
    hide = project.write("hide/sitecustomize.py", WITHOUT_TORCH).parent
    ran = project.pytest(*DRY, env={"PYTHONPATH": str(hide)})
    assert ran.outcomes() == {"test_ordinary": "passed", "test_lane": "error"}
    assert ran.verdict("test_lane")["code"] == "environment"
    assert "torch is not installed" in ran.failure("test_lane").splitlines()[0]
    assert "pip install 'pytest-megacpp[local]'" in ran.failure("test_lane")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert ran.run["status"] == "error"


def test_too_few_devices_is_no_failure_of_the_test(simple: Project) -> None:
    """As if the driver showed one GPU: without --dry-run the lane is for real."""
    fake = simple.write("bin/nvidia-smi", "#!/bin/sh\necho '0, NVIDIA H200, GPU-0, 143771, 570.1'\n")
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    ran = simple.pytest("-m", "h200x8", "--surface", "local", env={"PATH": path, "CUDA_VISIBLE_DEVICES": "0"})
    assert ran.outcomes() == {"test_lane": "error"}
    assert ran.verdict("test_lane")["code"] == "environment"
    assert "asked for 2 × H200; this box shows 1 × NVIDIA H200" in ran.failure("test_lane")
    assert ran.run is not None
    assert ran.run["dry_run"] is False


@contextlib.contextmanager
def small_disk(directory: Path, mib: int) -> Iterator[None]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(directory)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_an_almost_full_disk_is_refused(simple: Project) -> None:
    with small_disk(simple.root / "small", 16):
        ran = simple.pytest(*LANE, "--lane-dir", "small")
        assert ran.outcomes() == {"test_lane": "error"}
        assert "the disk is almost full" in ran.failure("test_lane").splitlines()[0]
        assert "--lane-dir" in ran.failure("test_lane")


FILLING = """
    import os
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_before(): pass

    def test_fills_the_disk():
        with pytest.raises(OSError), open("small/everything", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        print("x" * 100_000)

    def test_after(): pass
"""


def test_a_disk_that_fills_up(project: Project) -> None:
    project.write("test_filling.py", FILLING)
    with small_disk(project.root / "small", 80):
        ran = project.pytest(*LANE, "--lane-dir", "small")
        assert ran.code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        assert ran.outcome("test_before") == "passed"
        assert {ran.outcome(name) for name in ("test_fills_the_disk", "test_after")} <= {"error", "failed"}
        assert "No space left on device" in ran.text
        (directory,) = (project.root / "small" / "runs").iterdir()
        document = json.loads((directory / "run.json").read_text())
        assert document["status"] in ("error", "failed")
        assert document["finished_at"] is not None


# -- ranks that never reach the test -----------------------------------------------------------------------------------

STARTS = """
    import os
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_here(): pass
"""
IMPORTS_ON_ONE = """
    import os
    import pytest

    if os.environ.get("RANK") == "1":
        import a_module_of_rank_0_only

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    def test_of_the_broken_file(): pass
"""
DESELECTS = """
    import os

    def pytest_collection_modifyitems(items):
        if os.environ.get("RANK") == "1":
            items[:] = [item for item in items if "rank_0" not in item.name]
"""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    project = Project(tmp_path_factory.mktemp("uneven"))
    project.write("test_a_well.py", STARTS)
    project.write("test_b_imports.py", IMPORTS_ON_ONE)
    project.write("test_c_deselected.py", STARTS.replace("test_here", "test_for_rank_0"))
    project.write("test_d_well.py", STARTS.replace("test_here", "test_there"))
    project.write("conftest.py", DESELECTS)
    return project.pytest(*LANE)


def test_what_all_ranks_collected_is_run(uneven: Ran) -> None:
    assert uneven.outcomes() == {
        "test_here": "passed",
        "test_of_the_broken_file": "error",
        "test_for_rank_0": "error",
        "test_there": "passed",
    }
    assert uneven.code == pytest.ExitCode.TESTS_FAILED


def test_a_file_that_does_not_import_on_one_rank(uneven: Ran) -> None:
    verdict = uneven.verdict("test_of_the_broken_file")
    assert (verdict["code"], verdict["cause"], verdict["blamed_ranks"]) == ("startup-failure", "import", [1])
    assert "a_module_of_rank_0_only" in uneven.failure("test_of_the_broken_file")


def test_ranks_that_collect_different_tests(uneven: Ran) -> None:
    verdict = uneven.verdict("test_for_rank_0")
    assert (verdict["code"], verdict["cause"], verdict["blamed_ranks"]) == ("startup-failure", "collection", [1])


BREAKS = """
    import os

    if os.environ.get("RANK"):
        raise RuntimeError("this conftest dislikes ranks")
"""
USAGE = """
    import os
    import pytest

    def pytest_configure(config):
        if os.environ.get("RANK") == "0":
            raise pytest.UsageError("rank 0 was called wrongly")
"""
HOOK = """
    import os

    def pytest_collection_modifyitems(items):
        if os.environ.get("RANK") == "1":
            raise KeyError("a bug of a hook")
"""
PLUGIN = """
    import os

    def pytest_configure(config):
        if os.environ.get("RANK") == "1":
            raise KeyError("a bug of a plugin")
"""
GIVES_UP = """
    import os
    import sys
    import pytest

    if os.environ.get("RANK") == "1":
        sys.exit("rank 1 lacks a driver")

    @pytest.mark.h200x8(ranks=2)
    def test_here(): pass
"""
EXITS = """
    import os

    def pytest_configure(config):
        if os.environ.get("RANK") == "1":
            os._exit(7)
"""
LEAVES = """
    import os
    import pytest

    def pytest_collection_finish(session):
        if os.environ.get("RANK") == "1":
            pytest.exit("rank 1 has enough", 0)
"""


@pytest.mark.parametrize(
    ("files", "cause", "ranks", "said"),
    [
        ({"conftest.py": BREAKS}, "conftest", [0, 1], "this conftest dislikes ranks"),
        ({"conftest.py": USAGE}, "usage", [0], "rank 0 was called wrongly"),
        ({"conftest.py": HOOK}, "conftest", [1], "a bug of a hook"),
        ({"plug.py": PLUGIN, "conftest.py": "pytest_plugins = ['plug']"}, "plugin", [1], "a bug of a plugin"),
        ({"conftest.py": EXITS}, "exit:7", [1], "code 7"),
        ({"conftest.py": LEAVES}, "conftest", [1], "rank 1 has enough"),
        ({"test_a.py": GIVES_UP}, "import", [1], "rank 1 lacks a driver"),
    ],
    ids=["conftest", "usage", "hook", "plugin", "exits", "leaves", "gives up"],
)
def test_ranks_that_break_at_the_start(
    project: Project, files: dict[str, str], cause: str, ranks: list[int], said: str
) -> None:
    for name, text in {"test_a.py": STARTS, **files}.items():
        project.write(name, text)
    ran = project.pytest(*LANE)
    assert ran.outcomes() == {"test_here": "error"}
    verdict = ran.verdict("test_here")
    assert (verdict["code"], verdict["blamed_ranks"], verdict["cause"]) == ("startup-failure", ranks, cause)
    assert said in ran.failure("test_here")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert ran.run is not None
    assert ran.run["status"] == "error"


SKIPS = """
    import os
    import pytest

    if "RANK" in os.environ:
        pytest.importorskip("a_library_that_only_the_desk_has")

    @pytest.mark.h200x8(ranks=2)
    def test_here(): pass
"""


def test_a_file_that_all_ranks_skip(project: Project) -> None:
    """A skip, not a failure: `-x` goes on."""
    project.write("test_a.py", SKIPS)
    project.write("test_b.py", STARTS.replace("test_here", "test_later"))
    ran = project.pytest(*LANE, "-x")
    assert ran.outcomes() == {"test_here": "skipped", "test_later": "passed"}
    assert "a_library_that_only_the_desk_has" in ran.verdict("test_here")["summary"]
    assert ran.code == pytest.ExitCode.OK


def test_ranks_find_their_tests_whatever_paths_options_name(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """pytest takes the value of an option that it doesn't know yet for a path to tests, once it exists."""
    project.write("test_a.py", STARTS)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "artefacts"
    assert project.pytest(*LANE, "--lane-dir", str(elsewhere)).outcomes() == {"test_here": "passed"}


# -- recordings --------------------------------------------------------------------------------------------------------

RECORDED = """
    import pytest

    pytestmark = pytest.mark.h200x8(ranks=2, test=60)

    @pytest.mark.parametrize("n", range(4))
    def test_passes(modal_h200x8, n): pass

    def test_fails(): raise ValueError("on record")
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("recorded"))
    project.write("test_recorded.py", RECORDED)
    ran = project.pytest(*LANE)
    assert ran.run is not None
    assert ran.run["counts"]["passed"] == 4
    return project


def test_a_replay_gives_the_same_outcomes(recorded: Project) -> None:
    run = recorded.runs()[0].name
    ran = recorded.pytest("--replay", run)
    assert set(ran.outcomes().values()) == {"passed", "failed"}
    assert ran.outcome("test_fails") == "failed"
    assert "on record" in ran.failure("test_fails")
    assert ran.code == pytest.ExitCode.TESTS_FAILED
    assert f"megacpp: replay of {run}" in ran.text
    assert recorded.pytest("--replay", run, "-k", "test_passes").code == pytest.ExitCode.OK


def test_a_test_that_is_not_on_record_is_not_green(recorded: Project) -> None:
    new = recorded.write("test_new.py", RECORDED)
    try:
        ran = recorded.pytest("--replay", recorded.runs()[0].name, "test_new.py")
    finally:
        new.unlink()
    assert set(ran.outcomes().values()) == {"error"}


def cut(recording: bytes, share: float) -> bytes:
    return recording[: int(len(recording) * share)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_cut_recording_is_never_green(recorded: Project, share: float) -> None:
    whole = (recorded.runs()[0] / "recording.jsonl").read_bytes()
    (recorded.root / "cut.jsonl").write_bytes(cut(whole, share))
    ran = recorded.pytest("--replay", "cut.jsonl", "-k", "test_passes or test_fails")
    assert ran.code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)
    assert "failed" in ran.outcomes().values() or "error" in ran.outcomes().values() or not ran.reports
    assert "Traceback" not in ran.text


@pytest.mark.parametrize("garbage", [b"", b"\0\xff" * 5000, b"[1, 2]\n{}\n", b'{"v": 99, "run": "x"}\n'])
def test_garbage_is_never_green(recorded: Project, garbage: bytes) -> None:
    (recorded.root / "garbage.jsonl").write_bytes(garbage)
    ran = recorded.pytest("--replay", "garbage.jsonl")
    assert ran.code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)
    assert "passed" not in ran.outcomes().values()
    assert "garbage.jsonl" in ran.text
    assert "Traceback" not in ran.text


@pytest.mark.parametrize("length", [80, 190])
def test_a_temporary_directory_with_a_long_path(project: Project, tmp_path: Path, length: int) -> None:
    """Unix sockets' paths have 107 characters at most."""
    place = tmp_path / ("t" * (length - len(str(tmp_path)) - 1))
    place.mkdir()
    project.write("test_a.py", STARTS)
    ran = project.pytest(*LANE, env={"TMPDIR": str(place)})
    assert ran.outcomes() == {"test_here": "passed"}

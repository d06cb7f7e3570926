import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.declarations import misspelt_variables, options_of
from pytest_megacpp.desk.config.options import Options, read_options
from pytest_megacpp.recording import events
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.vocabulary import Preset, SeedMode
from pytest_megacpp.settings.checks import ANNOTATIONS, LIMIT_NAMES
from pytest_megacpp.surfaces.registry import CHOICES

pytest_plugins = "pytester"

Read = Callable[..., Options]
CONFTEST = "from pytest_megacpp.desk.config.options import add_options as pytest_addoption"


@pytest.fixture
def read(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Read:
    """`read(*args, toml=…)`: the options of a session with those arguments and that `[tool.pytest_megacpp]`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeconftest(CONFTEST)

    def options(*args: str, toml: str = "") -> Options:
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{toml}")
        return read_options(pytester.parseconfig("-p", "no:megacpp", *args))

    return options


def test_the_defaults(read: Read, pytester: pytest.Pytester) -> None:
    options = read()
    assert (options.surface, options.surface_given, options.ranks, options.dry_run) == ("auto", False, None, False)
    assert options.lane_dir == pytester.path / ".megacpp"
    assert options.replay is None
    assert options.preload == ()
    assert options.environment == {}
    lane = options.lanes["h200x8"]
    assert (lane.gpu, lane.ranks, lane.devices) == ("H200:8", 8, 8)
    assert options.limits_for("h200x8", {}) == Limits()
    assert options.run_limit_s("h200x8") is None
    assert options.preset_for("h200x8", None) == "full"


def test_a_warm_up_that_is_asked_for_makes_what_a_marker_requires(read: Read) -> None:
    assert read().cache_seed_for(SeedMode.REQUIRE, dry_run=False) == "require"
    assert read("--cache-seed=auto").cache_seed_for(SeedMode.REQUIRE, dry_run=True) == "auto"
    assert read("--cache-seed=cold").cache_seed_for(SeedMode.REQUIRE, dry_run=True) == "require"
    assert read("--cache-seed=refresh").cache_seed_for(SeedMode.COLD, dry_run=True) == "cold"


def test_the_command_line(read: Read, pytester: pytest.Pytester) -> None:
    options = read(
        "--surface=local", "--ranks=4", "--dry-run", "--preset=diagnostic", "--lane-dir=x", "--replay=latest"
    )
    assert (options.surface, options.surface_given, options.ranks, options.dry_run) == ("local", True, 4, True)
    assert (options.preset, options.lane_dir, options.replay) == ("diagnostic", pytester.path / "x", "latest")


TOML = """
[tool.pytest_megacpp]
surface = "local"
ranks = 2
dry_run = true
preset = "diagnostic"
lane_dir = "build/lanes"
preload = ["numpy", "my.models"]
[tool.pytest_megacpp.environment]
NCCL_DEBUG = "INFO"
[tool.pytest_megacpp.limits]
stall = 30
test = 60.5
run = 600
[tool.pytest_megacpp.lanes.b200x8]
gpu = "B200:8"
stall = 20
limits = {skew = 40}
[tool.pytest_megacpp.lanes.h100x2]
gpu = "H100:2"
preset = "full"
environment = {NCCL_DEBUG = "TRACE", NCCL_ALGO = "Ring"}
"""


def test_the_table(read: Read, pytester: pytest.Pytester) -> None:
    options = read(toml=TOML)
    assert (options.surface, options.surface_given, options.ranks, options.dry_run) == ("local", False, 2, True)
    assert options.lane_dir == pytester.path / "build" / "lanes"
    assert options.preload == ("numpy", "my.models")
    assert options.environment == {"NCCL_DEBUG": "INFO"}
    assert {name: (lane.gpu, lane.ranks) for name, lane in options.lanes.items()} == {
        "h200x8": ("H200:8", 8),
        "b200x8": ("B200:8", 8),
        "h100x2": ("H100:2", 2),
    }


def test_a_lane_s_variables_beat_those_of_all_lanes(read: Read) -> None:
    options = read(toml=TOML)
    assert options.environment_for("b200x8") == {"NCCL_DEBUG": "INFO"}
    assert options.environment_for("h100x2") == {"NCCL_DEBUG": "TRACE", "NCCL_ALGO": "Ring"}


def test_the_command_line_beats_the_table(read: Read, pytester: pytest.Pytester) -> None:
    options = read("--surface=auto", "--ranks=8", "--preset=full", "--lane-dir=/lanes", toml=TOML)
    assert (options.surface, options.surface_given, options.ranks, options.preset) == ("auto", True, 8, "full")
    assert options.lane_dir == Path("/lanes")


def test_limits_go_command_line_marker_lane_configuration_default(read: Read) -> None:
    options = read("--lane-limit", "compile=7", "--lane-limit=compile=8", toml=TOML)
    assert options.limits_for("b200x8", {"test": 5.0, "compile": 1.0}) == Limits(300.0, 40.0, 8.0, 20.0, 5.0)
    assert options.limits_for("h200x8", {}) == Limits(300.0, 120.0, 8.0, 30.0, 60.5)


def test_the_run_limit_of_several_markers_is_the_longest(read: Read) -> None:
    options = read(toml=TOML)
    assert options.run_limit_s("h200x8") == 600.0
    assert options.run_limit_s("h200x8", [{"run": 10.0}, {"run": 20.0}, {}]) == 20.0
    assert read("--lane-limit=run=5").run_limit_s("h200x8", [{"run": 10.0}]) == 5.0


def test_the_preset_goes_marker_option_lane(read: Read) -> None:
    options = read(toml=TOML)
    assert options.preset_for("h100x2", Preset.FULL) == "full"
    assert options.preset_for("h100x2", None) == "diagnostic"
    assert (
        read(toml='[tool.pytest_megacpp.lanes.l1]\ngpu="L4"\npreset="diagnostic"').preset_for("l1", None)
        == "diagnostic"
    )


def test_the_built_in_lane_can_be_changed(read: Read) -> None:
    assert read(toml="[tool.pytest_megacpp.lanes.h200x8]\nranks = 4").lanes["h200x8"].ranks == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--surface=locall"], "--surface: unknown surface 'locall'; did you mean 'local'? Known: auto, local"),
        (["--ranks=0"], "--ranks: the world size must be a whole number of at least 1, not '0'"),
        (["--ranks=-1"], "at least 1, not '-1'"),
        (["--ranks=two"], "at least 1, not 'two'"),
        (["--preset=ful"], "--preset: unknown preset 'ful'; did you mean 'full'?"),
        (
            ["--lane-limit=stal=3"],
            "--lane-limit stal=3: unknown limit 'stal'; did you mean 'stall'? Known: compile, run",
        ),
        (["--lane-limit=stall"], "--lane-limit stall: write NAME=SECONDS"),
        (["--lane-limit=stall=x"], "stall must be a number of seconds above 0, not 'x'"),
        (["--lane-limit=stall=-3"], "above 0, not '-3'"),
        (["--lane-limit=stall=nan"], "above 0, not 'nan'"),
        (["--lane-limit=stall=inf"], "above 0, not 'inf'"),
        (["--attach=x", "--replay=latest"], "--attach and --replay exclude each other: the results are either"),
        (["--lane-dir="], "--lane-dir: the directory must be a non-empty string"),
        (["--replay="], "--replay: the recording must be a non-empty string"),
    ],
)
def test_wrong_arguments_are_said(read: Read, arguments: list[str], said: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        read(*arguments)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "lane-dir = 'x'",
            "[tool.pytest_megacpp]: unknown key 'lane-dir'; did you mean 'lane_dir'? Known: boxes, cache_seed, data",
        ),
        ("cache_seed = 'hot'", "cache_seed in [tool.pytest_megacpp]: unknown cache seed 'hot'"),
        ("triage = 'yes'", "must be true or false, not 'yes'"),
        ("ranks = '0'", "ranks in [tool.pytest_megacpp]: the world size"),
        ("ranks = true", "at least 1, not True"),
        ("ranks = '4'", "at least 1, not '4'; write the number without quotes"),
        (
            "limits = {stall = '5'}",
            "seconds above 0, not '5'; write the number without quotes",
        ),
        ("lane_budget = '5'", "a budget is a number of dollars above 0, such as 5 or 0.50, not '5'; write"),
        ("dry_run = 1", "must be true or false, not 1"),
        ("surface = 3", "unknown surface 3"),
        ("lane_dir = 3", "lane_dir in [tool.pytest_megacpp]: the directory must be a non-empty string, not 3"),
        ("limits = 3", "it must be a table, not 3"),
        ("limits = {stal = 3}", "[tool.pytest_megacpp.limits]: unknown limit 'stal'; did you mean 'stall'?"),
        ("limits = {stall = 0}", "stall must be a number of seconds above 0, not 0"),
        ("lanes = {x = {}}", "[tool.pytest_megacpp.lanes.x]: gpu must be a type and a number"),
        ("lanes = {x = {gpu = 'B200:0'}}", "not 'B200:0'"),
        ("lanes = {x = {gpu = 'B200:8', rank = 3}}", "unknown key 'rank'; did you mean 'ranks'?"),
        ("lanes = {x = {gpu = 'B200:4', ranks = 8}}", "8 ranks don't fit on gpu = 'B200:4'"),
        ("lanes = {x = {gpu = 'B200:4', stall = -1}}", "[tool.pytest_megacpp.lanes.x]: stall must be"),
        ("lanes = {x = {gpu = 'B200:4', limits = {stal = 1}}}", "[tool.pytest_megacpp.lanes.x.limits]: unknown limit"),
        ("lanes = {'b200-x8' = {gpu = 'B200:8'}}", "'b200-x8' can't be a marker's name"),
        ("lanes = {skip = {gpu = 'B200:8'}}", "'skip' can't be a marker's name"),
        ("lanes = {class = {gpu = 'B200:8'}}", "'class' can't be a marker's name"),
        ("preload = 'numpy'", "preload in [tool.pytest_megacpp] must be a list of module names"),
        ("preload = ['a b']", "not ['a b']"),
        (
            "lanes.a1.gpu = 'L4'\nlanes.a1.environment = {A = 1}",
            "lanes.a1.environment]: variables are strings, such as A",
        ),
        ("preset = 'diagnostics'", "unknown preset 'diagnostics'; did you mean 'diagnostic'?"),
        ("lanes.a1 = {gpu = 'L4', preset = 'tiny'}", "[tool.pytest_megacpp.lanes.a1]: unknown preset 'tiny'"),
        ("environment = {A = 1}", 'variables are strings, such as A = "1"; not 1'),
    ],
)
def test_wrong_configuration_is_said(read: Read, toml: str, said: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        read(toml=f"[tool.pytest_megacpp]\n{toml}")
    assert said in str(refusal.value)


def test_a_broken_pyproject_that_pytest_does_not_read_is_said(pytester: pytest.Pytester, read: Read) -> None:
    pytester.makeini("[pytest]")
    pytester.path.joinpath("pyproject.toml").write_text("[tool.pytest_megacpp\n")
    with pytest.raises(pytest.UsageError, match=r"pyproject\.toml: "):
        read_options(pytester.parseconfig("-p", "no:megacpp"))


def test_the_choices_in_the_help_are_those_that_are_accepted() -> None:
    """They are written out: importing the enums would cost every session."""
    shown = {name: declared.metavar for name, declared in options_of(Options).items()}
    assert shown["preset"] == f"{{{','.join(Preset)}}}"
    assert shown["cache_seed"] == f"{{{','.join(mode for mode in SeedMode if mode)}}}"
    assert shown["surface"] == f"{{{','.join(CHOICES)}}}"
    assert shown["lane_annotations"] == f"{{{','.join(ANNOTATIONS)}}}"


def test_the_names_of_limits_are_the_same_everywhere() -> None:
    assert (*Limits.__dataclass_fields__, "run") == LIMIT_NAMES == events.LIMIT_NAMES


@pytest.mark.parametrize(
    ("variables", "field", "value"),
    [
        ({"MEGACPP_SURFACE": "local"}, "surface", "local"),
        ({"MEGACPP_SURFACE": " "}, "surface", "auto"),
        ({"MEGACPP_RANKS": "4"}, "ranks", 4),
        ({"MEGACPP_DRY_RUN": "Yes"}, "dry_run", True),
        ({"MEGACPP_DRY_RUN": "0"}, "dry_run", False),
        ({"MEGACPP_PRESET": "diagnostic"}, "preset", "diagnostic"),
        ({"MEGACPP_REPLAY": "latest"}, "replay", "latest"),
        ({"MEGACPP_LANE_DIR": "/lanes"}, "lane_dir", Path("/lanes")),
        ({"MEGACPP_LANE_LIMIT": "stall=3, test=4.5"}, "lane_limit", {"stall": 3.0, "test": 4.5}),
    ],
)
def test_an_option_s_variable_is_read(
    read: Read, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], field: str, value: object
) -> None:
    for name, content in variables.items():
        monkeypatch.setenv(name, content)
    assert getattr(read(), field) == value


def test_the_command_line_beats_the_variable_which_beats_the_configuration(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGACPP_RANKS", "4")
    monkeypatch.setenv("MEGACPP_DRY_RUN", "0")
    monkeypatch.setenv("MEGACPP_LANE_LIMIT", "stall=3,test=4")
    options = read("--ranks=8", "--lane-limit=stall=5", toml=TOML)
    assert (options.ranks, options.dry_run, options.lane_limit) == (8, False, {"stall": 5.0, "test": 4.0})
    assert read(toml=TOML).ranks == 4


def test_a_variable_asks_for_no_lane(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGACPP_SURFACE", "local")
    assert not read().surface_given


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MEGACPP_PRESET", "tiny", "MEGACPP_PRESET: unknown preset 'tiny'"),
        ("MEGACPP_SURFACE", "locall", "MEGACPP_SURFACE: unknown surface 'locall'; did you mean 'local'?"),
        ("MEGACPP_RANKS", "none", "MEGACPP_RANKS: the world size must be"),
        ("MEGACPP_DRY_RUN", "maybe", "MEGACPP_DRY_RUN: it must be 1 or 0"),
        ("MEGACPP_LANE_LIMIT", "stal=3", "MEGACPP_LANE_LIMIT stal=3: unknown limit 'stal'; did you mean 'stall'?"),
    ],
)
def test_wrong_variables_are_said(
    read: Read, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(pytest.UsageError) as refusal:
        read()
    assert said in str(refusal.value)


def test_a_variable_that_looks_like_ours_is_said() -> None:
    environ = {"MEGACPP_SURFCE": "modal", "MEGACPP_TOKENIZER": "x", "MEGACPP_RUN_ID": "y", "MEGACPP_PRESET": "full"}
    said = "the variable MEGACPP_SURFCE means nothing here; did you mean 'MEGACPP_SURFACE'?"
    assert misspelt_variables(Options, environ) == [said]


def test_the_seeds_directory_counts_from_the_configuration(read: Read, pytester: pytest.Pytester) -> None:
    seed = read(toml="[tool.pytest_megacpp.seed]\ndir = 'seeds'\nkeep = 2").seed
    assert (seed.dir, seed.keep) == (pytester.path / "seeds", 2)


@pytest.mark.parametrize("other", [("--detach",), ("--attach", "20261122-214501-3f9a"), ("--replay", "latest")])
def test_a_ladder_needs_a_desk_that_judges_while_the_box_waits(read: Read, other: tuple[str, ...]) -> None:
    assert read("--triage").triage
    with pytest.raises(pytest.UsageError, match=f"--triage and {other[0]} exclude each other: "):
        read("--triage", *other)
    assert not read(*other, toml="[tool.pytest_megacpp]\ntriage = true\n").triage


def test_whose_output_is_shown(read: Read) -> None:
    assert read().lane_output == frozenset()
    assert read("--lane-output=all").lane_output == frozenset()
    assert read("--lane-output=0,3-5, 7").lane_output == {0, 3, 4, 5, 7}
    assert read(toml='[tool.pytest_megacpp]\nlane_output = "1"').lane_output == {1}


@pytest.mark.parametrize(
    ("written", "reported"),
    [
        ("", "ranks are written as 0, 0,3, 0-3 or all, not ''"),
        ("1,,2", "ranks are written as 0, 0,3, 0-3 or all, not '1,,2'"),
        ("-1", "ranks are written as 0, 0,3, 0-3 or all, not '-1'"),
        ("all,1", "ranks are written as"),
        ("3-1", "3-1 ends before it begins, in '3-1'"),
        ("0-999999999999", "there are ranks up to 8191, in '0-999999999999'"),
    ],
)
def test_no_ranks(read: Read, written: str, reported: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"^--lane-output: {re.escape(reported)}"):
        read(f"--lane-output={written}")


def test_how_often_a_run_shows_that_it_goes_on(read: Read) -> None:
    assert (read().lane_heartbeat, read("--lane-heartbeat=0").lane_heartbeat) == (30.0, 0.0)
    assert read("--lane-heartbeat=2.5").lane_heartbeat == 2.5
    for wrong in ("-1", "soon", "nan", "inf"):
        with pytest.raises(pytest.UsageError, match="must be a number of seconds, or 0 for none"):
            read(f"--lane-heartbeat={wrong}")

import pytest

from pytest_megacpp.desk.config.markers import Expectation, MarkerArguments, expectation, marker_arguments
from pytest_megacpp.judge.verdicts import Code
from pytest_megacpp.recording.vocabulary import Preset, SeedMode

NODEID = "suite/test_a.py::test_b"


def read(*marks: pytest.MarkDecorator) -> MarkerArguments:
    return marker_arguments([mark.mark for mark in marks], NODEID)


def test_a_bare_marker_says_nothing() -> None:
    assert read(pytest.mark.h200x8) == read() == MarkerArguments()


def test_all_arguments() -> None:
    mark = pytest.mark.h200x8(ranks=2, preset="diagnostic", fresh=True, cache_seed="cold", stall=5, run=60.5)
    assert read(mark) == MarkerArguments(2, Preset.DIAGNOSTIC, True, SeedMode.COLD, {"stall": 5.0, "run": 60.5})


def test_the_closest_marker_wins_by_argument() -> None:
    assert read(pytest.mark.h200x8(ranks=2, stall=5), pytest.mark.h200x8(ranks=8, skew=7)) == MarkerArguments(
        ranks=2, limits={"stall": 5.0, "skew": 7.0}
    )


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (
            pytest.mark.h200x8(rank=2),
            f"@pytest.mark.h200x8 of {NODEID}: unknown argument 'rank'; did you mean 'ranks'?",
        ),
        (pytest.mark.h200x8.with_args(4), "its arguments need names, such as ranks=4"),
        (pytest.mark.h200x8(ranks=0), f"a lane marker of {NODEID}: ranks must be a whole number of"),
        (pytest.mark.h200x8(ranks=True), "not True"),
        (pytest.mark.h200x8(ranks=2.0), "not 2.0"),
        (pytest.mark.h200x8(preset="tiny"), "unknown preset 'tiny'"),
        (pytest.mark.h200x8(fresh="yes"), "fresh must be true or false, not 'yes'"),
        (pytest.mark.h200x8(cache_seed="warm"), "unknown cache_seed 'warm'"),
        (pytest.mark.h200x8(stall=-1), "stall must be a number of seconds above 0, not -1"),
        (pytest.mark.h200x8(stall=None), "not None"),
    ],
)
def test_wrong_arguments_name_the_test(mark: pytest.MarkDecorator, said: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        read(mark)
    assert said in str(refusal.value)


def expected(*args: object, **kwargs: object) -> Expectation:
    return expectation(pytest.mark.expect_verdict(*args, **kwargs).mark, NODEID)


def test_a_drill_names_a_verdict_and_maybe_ranks_and_cause() -> None:
    assert expected("hang") == expected(code="hang") == Expectation(Code.HANG)
    assert expected("rank-death", (3, 1)) == Expectation(Code.RANK_DEATH, (1, 3))
    assert expected("rank-death", ranks={3}, cause="exit:3") == Expectation(Code.RANK_DEATH, (3,), "exit:3")
    assert expected("straggler", ranks=[]) == Expectation(Code.STRAGGLER, ())


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "unknown verdict None"),
        (("rank-deth",), {}, "did you mean 'rank-death'"),
        (("hang", [1], "x", 4), {}, "not 4 arguments"),
        (("hang",), {"rank": 3}, "did you mean 'ranks'"),
        (("hang", ["3"]), {}, "ranks must be a list of ranks"),
        (("hang", [True]), {}, "ranks must be a list of ranks"),
        (("hang",), {"cause": ""}, "cause must be a non-empty string"),
    ],
)
def test_a_drill_that_says_nothing_sensible(args: tuple[object, ...], kwargs: dict[str, object], said: str) -> None:
    with pytest.raises(pytest.UsageError, match=said):
        expected(*args, **kwargs)

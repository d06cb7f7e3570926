"""What to do next: commands that a shell takes as they are, for every verdict that isn't green."""

import re
import shlex
from dataclasses import replace

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.findings import Finding
from pytest_megacpp.judge.next_steps import STEPS, Commands, fill, next_step, usual_step
from pytest_megacpp.judge.next_steps import commands as of_test
from pytest_megacpp.judge.verdicts import Code, Outcome
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.timeline import fold
from tests.golden.build import CASES
from tests.scenario import FakeBox
from tests.steps import all_steps

NODEID = "a/test_b.py::test_c[x y-'q'-{0}]"


def commands(surface: str = "local", dry_run: bool = True, ranks: int = 8) -> Commands:
    return Commands("run-1", "h200x8", NODEID, surface, dry_run, ranks, Limits(stall=45))


CAUSES: list[tuple[Code, str | None]] = [*((code, None) for code in sorted(Code)), *sorted(STEPS)]


@pytest.mark.parametrize(("code", "cause"), CAUSES)
def test_every_command_is_one_that_a_shell_takes(code: Code, cause: str | None) -> None:
    step = usual_step(code) if cause is None else STEPS[code, cause]
    remedy = commands().rerun("--cache-seed", "auto") if "{remedy}" in step else ""  # the box's own words
    said, *lines = next_step(Finding(code, "", (1,), cause), commands(), remedy).split("\n")
    assert said or code in (Code.PASSED, Code.SKIPPED, Code.XFAILED)
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["megacpp", "show"] or (NODEID in words and "h200x8" in words)


@pytest.mark.parametrize(("code", "cause"), CAUSES)
def test_several_ranks_are_spoken_of_as_several(code: Code, cause: str | None) -> None:
    said = next_step(Finding(code, "", (3, 7), cause), commands()).partition("\n")[0]
    assert not re.search(r"ranks 3,7'|(?<!of )ranks 3,7 (is|was|has|does|doesn't|returns|needs|comes)\b", said)


def test_a_rerun_keeps_surface_and_size() -> None:
    assert commands().rerun().startswith("pytest -m h200x8 --surface local --dry-run 'a/test_b.py")
    assert "--ranks 4" in commands(ranks=4).rerun()
    assert "--dry-run" in commands("modal").rerun()
    assert "--surface modal" in commands("modal", dry_run=False).rerun()


@pytest.mark.parametrize(("surface", "named"), [("lent", True), ("my-host_2", True), ("", False), ("-p x", False)])
def test_a_rerun_names_whatever_surface_is_recorded_if_it_can_be_one(surface: str, named: bool) -> None:
    assert (f"--surface {surface}" in commands(surface).rerun()) == named
    assert named or "--surface" not in commands(surface).rerun()


def test_a_straggler_gets_twice_the_limit() -> None:
    assert "--lane-limit stall=90" in next_step(Finding(Code.STRAGGLER, "", (1,)), commands())


def test_a_mismatch_may_have_to_do_with_the_order_of_a_set() -> None:
    mismatch = Finding(Code.COLLECTIVE_MISMATCH, "", ())
    drawn = next_step(mismatch, replace(commands(), hash_seed="123")).splitlines()
    assert "loops over sets" in drawn[0]
    assert "--hash-seed 123" in drawn[-1]
    assert "--hash-seed" not in next_step(mismatch, commands())


@pytest.mark.parametrize(("seeds", "reported"), [(("5", "6"), "5"), (("7", "7"), ""), (("", ""), "")])
def test_only_seeds_that_differ_are_repeated(seeds: tuple[str, str], reported: str) -> None:
    box = FakeBox(2).starts_world()
    for rank, seed in enumerate(seeds):
        box.box(ev.RankStarted(rank, 100 + rank, seed))
    box.readies().collects().begins()
    assert of_test(fold(box.events), NODEID, 0).hash_seed == reported


def test_who_compiles_from_a_warm_cache_isn_t_told_to_warm_it() -> None:
    said = next_step(Finding(Code.COMPILE_SKEW, "", (1,)), replace(commands(), warm=True))
    assert "--cache-seed" not in said
    assert "--triage" not in said
    assert "--lane-limit skew=240" in said
    assert "cold cache" in next_step(
        Finding(Code.COMPILE_SKEW, "", (1,), "no-progress"), replace(commands(), warm=True)
    )


def test_what_the_box_proposes_comes_first() -> None:
    step = next_step(Finding(Code.ENVIRONMENT, "", cause="device-count"), commands(), "rent {8} devices")
    assert step.startswith("rent {8} devices\npytest ")


@pytest.mark.parametrize("step", all_steps())
def test_no_step_on_a_box_elsewhere_sets_a_variable_of_this_machine(step: str) -> None:
    for line in fill(step, commands("modal"), (1,), "look").split("\n")[1:]:
        assert re.match(r"(pytest|megacpp|look)( |$)", line)


@pytest.mark.parametrize("hash_seed", ["", "7"])
@pytest.mark.parametrize("step", all_steps())
def test_every_step_ends_with_a_command_that_runs_the_test_again(step: str, hash_seed: str) -> None:
    words = shlex.split(fill(step, replace(commands("modal"), hash_seed=hash_seed), (1,)).split("\n")[-1])
    assert words[0] == "pytest"
    assert words[-1] == NODEID


@pytest.mark.parametrize(("code", "cause"), CAUSES)
def test_so_does_one_that_the_box_proposed(code: Code, cause: str | None) -> None:
    if usual_step(code):
        remedy = commands().rerun("--cache-seed", "auto") if code is Code.BLOCKED else "look"
        last = next_step(Finding(code, "", (1,), cause), commands("modal"), remedy).split("\n")[-1]
        assert shlex.split(last)[-1] == NODEID


@pytest.mark.parametrize(
    ("code", "cause"),
    [(Code.RANK_DEATH, "cuda-error"), (Code.STRAGGLER, "device-busy"), (Code.HANG, "device-busy")],
)
def test_launches_block_wherever_the_ranks_are(code: Code, cause: str) -> None:
    """A variable that is set before the command ends at the desk where the box is elsewhere."""
    first, command, *_ = next_step(Finding(code, "", (1,), cause), commands("modal", dry_run=False)).split("\n")
    assert 'set CUDA_LAUNCH_BLOCKING = "1" in [tool.pytest_megacpp.environment]' in first
    assert command.startswith("pytest -m h200x8 --surface modal")


@pytest.mark.parametrize("name", sorted(CASES))
def test_whoever_fails_is_told_what_to_do(name: str) -> None:
    for test in judge_run(CASES[name]().timeline()).tests:
        assert test.verdict.next_step or test.outcome in (Outcome.PASSED, Outcome.SKIPPED, Outcome.XFAILED)
        assert "{" not in test.verdict.next_step

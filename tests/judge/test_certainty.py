"""Each source of evidence that is missing, degraded or contradicted makes a verdict less certain."""

from collections.abc import Callable

import pytest

from pytest_megacpp.judge.arbiter import judge_run, judge_test
from pytest_megacpp.judge.causes import VerdictCause
from pytest_megacpp.judge.certainty import HARMS
from pytest_megacpp.judge.verdicts import Certainty, Code, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.vocabulary import ActReason, Stage, Stream, TestPhase
from pytest_megacpp.recording.wire import encode, read_all
from tests.golden.build import CASES, SHORT, in_step, others_wait, stalls
from tests.scenario import FakeBox

Story = Callable[[FakeBox], FakeBox]


def judged(box: FakeBox) -> Verdict:
    return judge_test(box.timeline(), 0).verdict


def straggler(box: FakeBox) -> FakeBox:
    return stalls(box, 2).at(2).aborts("stall").done()


def skew(box: FakeBox) -> FakeBox:
    box.samples(1, compiling=("dynamo_compile",)).enters((0, 2, 3), seq=7).after(31.0)
    return box.acts(ActReason.SKEW, "", (0, 2, 3), (1,), (1,), 31.0).aborts("skew").done()


def killed(box: FakeBox, oom: bool | None = False) -> FakeBox:
    others_wait(box, 3).exits(3, -9, "SIGKILL", oom).after(0.2)
    return box.acts(ActReason.EXIT, "", (0, 1, 2), (3,)).aborts("exit").done()


def killed_for_unknown_reasons(box: FakeBox) -> FakeBox:
    return killed(box, None)


def hang_in_stacks(box: FakeBox) -> FakeBox:
    """Everybody receives, which only stacks show."""
    box.after(31.0).acts(ActReason.STALL, "everybody waits", (0, 1, 2, 3), (), (), 31.0)
    for rank in range(4):
        box.blocked(rank, "recv")
    return box.aborts("stall").done()


MISSING: list[tuple[str, Story]] = [
    ("worker_server", straggler),
    ("flight_recorder", straggler),
    ("wait_counters", skew),
    ("traceback", straggler),
    ("thread_runs", hang_in_stacks),
    ("group_members", straggler),
    ("exit_code", killed),
    ("memory_events", killed_for_unknown_reasons),
    ("kernel_log", killed_for_unknown_reasons),
]


@pytest.mark.parametrize(("missing", "story"), MISSING)
def test_a_missing_capability_lowers_it(missing: str, story: Story) -> None:
    box = in_step()
    box.rank(ev.Capability(missing, False, "not on this machine", 0))
    found = judged(story(box))
    assert found.certainty is Certainty.LIKELY
    assert any(missing in e.text and "not on this machine" in e.text for e in found.evidence)


def test_a_count_of_runs_is_not_missed_where_the_recorder_shows_the_wait() -> None:
    box = in_step()
    box.box(ev.Capability("thread_runs", False, "not on this machine"))
    assert judged(straggler(box)).certainty is Certainty.CERTAIN


@pytest.mark.parametrize("story", [straggler, skew, killed, hang_in_stacks])
def test_with_all_sources_it_is_certain(story: Story) -> None:
    assert judged(story(in_step())).certainty is Certainty.CERTAIN


def test_every_known_capability_is_tested() -> None:
    assert {missing for missing, _ in MISSING} == set(HARMS)


def test_an_oom_kill_that_was_seen_needs_no_witness() -> None:
    box = in_step()
    box.say(ev.Capability("memory_events", False))
    assert judged(killed(box, True)).certainty is Certainty.CERTAIN


def test_a_source_that_is_not_used_does_no_harm() -> None:
    box = in_step()
    box.rank(ev.Capability("flight_recorder", False, "", 0)).rank(ev.Capability("py-spy", False, "", 0))
    assert judged(box.raises(1).passes((0, 2, 3)).finishes(1).ends().done()).certainty is Certainty.CERTAIN


def test_several_missing_sources_make_a_guess() -> None:
    box = in_step()
    box.rank(ev.Capability("flight_recorder", False, "", 0)).rank(ev.Capability("traceback", False, "", 0))
    assert judged(straggler(box)).certainty is Certainty.GUESS


def without(recording: bytes, kind: str, nth: int = 0) -> bytes:
    lines = recording.splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if f'"kind":"{kind}"'.encode() in line][nth]
    return b"".join(lines[:at] + lines[at + 1 :])


@pytest.mark.parametrize("name", ["passed", "straggler", "rank-death-oom-killed", "compile-skew"])
def test_a_hole_in_the_recording_lowers_it(name: str) -> None:
    recording = without(CASES[name]().recording(), "rank-started")
    found = judge_test(fold(read_all(recording)), 0).verdict
    assert found.code == judged(CASES[name]()).code
    assert found.certainty is Certainty.LIKELY


def test_a_damaged_line_lowers_it() -> None:
    recording = CASES["straggler"]().recording() + b'{"v":1,"run":\n'
    assert judge_test(fold(read_all(recording)), 0).verdict.certainty is Certainty.LIKELY


def test_a_straggler_without_a_stack() -> None:
    found = judged(stalls(in_step(), 2).aborts("stall").done())
    assert (found.code, found.blamed_ranks, found.certainty) == (Code.STRAGGLER, (2,), Certainty.LIKELY)


def test_a_stack_that_was_cut_before_the_users_code_is_one() -> None:
    """faulthandler stops at 100 frames; an import inside a library goes deeper."""
    box = stalls(in_step(), 2)
    box.stack(
        2, ("<frozen importlib._bootstrap>", 241, "_call"), ("/x/site-packages/torch/_dynamo/rules.py", 60, "<module>")
    )
    found = judged(box.aborts("stall").done())
    assert "rules.py:60" in found.summary
    assert found.certainty is Certainty.CERTAIN


def test_a_rank_that_does_not_answer() -> None:
    box = stalls(in_step(), 2).samples(2, answered=False).at(2)
    assert judged(box.aborts("stall").done()).certainty is Certainty.LIKELY


def test_a_group_that_nobody_announced() -> None:
    box = in_step().enters((0, 1), group="5").after(31.0).acts(ActReason.STALL, "", (0, 1), (), (), 31.0)
    found = judged(box.at((2, 3)).aborts("stall").done())
    assert (found.code, found.blamed_ranks) == (Code.STRAGGLER, (2, 3))
    assert found.certainty is Certainty.GUESS


def test_the_box_and_the_recording_contradict_each_other() -> None:
    box = in_step().enters((0, 1, 3), seq=4).after(31.0).acts(ActReason.STALL, "", (0, 1), (3,), (), 31.0)
    found = judged(box.at(2).aborts("stall").done())
    assert (found.blamed_ranks, found.certainty) == ((2,), Certainty.LIKELY)


def test_a_wait_that_only_the_box_saw() -> None:
    box = in_step().after(31.0).acts(ActReason.STALL, "", (0, 1, 3), (2,), (), 31.0)
    assert judged(box.at(2).aborts("stall").done()).certainty is Certainty.LIKELY


def test_two_failures_too_close_to_order() -> None:
    box = in_step().enters((0, 3), seq=2).raises(1, line=5).after(0.004).raises(2, "KeyError", "'x'", 9).after(0.5)
    found = judged(box.acts(ActReason.FAILURE_STUCK, "", (0, 3), (1, 2)).aborts("failure-stuck").done())
    assert (found.blamed_ranks, found.certainty) == ((1,), Certainty.LIKELY)


def test_a_stall_judged_by_time_alone_is_a_guess() -> None:
    assert judged(CASES["hang-at-the-limit"]()).certainty is Certainty.GUESS


def test_a_recording_that_stops_in_the_test() -> None:
    found = judged(in_step().raises(1))
    assert (found.code, found.certainty) == (Code.TEST_FAILED, Certainty.LIKELY)


def test_a_mismatch_that_only_the_box_saw() -> None:
    box = FakeBox(limits=SHORT).begins().acts(ActReason.MISMATCH, "size differs at #2 of group 0").aborts("mismatch")
    found = judged(box.done())
    assert (found.code, found.certainty) == (Code.UNCLEAR, Certainty.GUESS)
    assert "mismatch" in found.summary


def less_certain(found: Verdict, why: str) -> bool:
    """One step, and the evidence says why."""
    return found.certainty is Certainty.LIKELY and any(f"less certain: {why}" in e.text for e in found.evidence)


def test_members_that_contradict_each_other() -> None:
    box = in_step()
    for rank in range(4):
        box.rank(ev.GroupCreated(rank, 0, "5", (0, 1, 2, 3) if rank else (0, 1, 2)))
    box.enters((0, 1, 3), group="5").after(31.0).acts(ActReason.STALL, "", (0, 1, 3), (2,), (), 31.0).at(2)
    found = judged(box.aborts("stall").done())
    assert (found.code, found.cause, found.blamed_ranks) == (Code.COLLECTIVE_MISMATCH, VerdictCause.MEMBERS, (0,))
    assert found.certainty is Certainty.CERTAIN


def test_members_that_agree() -> None:
    box = in_step()
    for rank in range(4):
        box.rank(ev.GroupCreated(rank, 0, "0", () if rank else (0, 1, 2, 3)))
    assert judged(straggler(box)).certainty is Certainty.CERTAIN


def test_a_compile_that_only_the_box_saw() -> None:
    box = in_step().enters((0, 2, 3), seq=7).after(31.0)
    found = judged(box.acts(ActReason.SKEW, "", (0, 2, 3), (1,), (1,), 31.0).aborts("skew").done())
    assert found.code == Code.COMPILE_SKEW
    assert less_certain(found, "the box saw rank 1 compiling, but the recording doesn't show it")


def test_stacks_that_show_everybody_waiting() -> None:
    assert judged(CASES["straggler-outnumbered"]()).certainty is not Certainty.CERTAIN


def test_an_end_that_was_not_learnt() -> None:
    assert less_certain(judged(CASES["rank-death-exit-unknown"]()), "how the process ended is unknown")


def test_a_dead_rank_that_answers() -> None:
    box = others_wait(in_step(), 3).exits(3, 1).after(1.5).samples(3)
    found = judged(box.acts(ActReason.EXIT, "", (0, 1, 2), (3,)).aborts("exit").done())
    assert less_certain(found, "rank 3 still responded afterwards")


def test_an_oom_kill_by_another_signal() -> None:
    box = others_wait(in_step(), 3).exits(3, None, "SIGTERM", True).after(0.2)
    found = judged(box.acts(ActReason.EXIT, "", (0, 1, 2), (3,)).aborts("exit").done())
    assert less_certain(found, "an OOM kill was recorded, but rank 3 ended by another signal")


def back_in_time(box: FakeBox) -> FakeBox:
    """The box's clock jumps back once, for a sample."""
    return box.samples(0).after(-5.0).samples(0).after(5.0)


def test_clocks_that_contradict_each_other() -> None:
    assert less_certain(judged(straggler(back_in_time(in_step().after(9.0)))), "1 timestamps run backwards")


def test_clocks_matter_where_order_does() -> None:
    box = back_in_time(in_step().after(9.0)).raises((1, 2)).reports(TestPhase.CALL, (0, 3)).finishes().ends()
    assert judged(box.done()).certainty is Certainty.CERTAIN
    box = others_wait(back_in_time(in_step().after(9.0)), 3).raises(3).finishes(3).after(0.04)
    found = judged(box.loses_peer((0, 1, 2)).finishes((0, 1, 2)).ends().done())
    assert (found.code, found.blamed_ranks) == (Code.RANK_DEATH, (3,))
    assert less_certain(found, "1 timestamps run backwards")


def test_threads_of_the_box_that_overtake_each_other() -> None:
    box = in_step().after(9.0).samples(0).after(-0.05).samples(0).after(0.05)
    assert judged(straggler(box)).certainty is Certainty.CERTAIN


@pytest.mark.parametrize("name", ["passed", "straggler", "rank-death-oom-killed", "startup-failure-import"])
def test_facts_of_an_unknown_kind(name: str) -> None:
    newer = encode(ev.Event("run-1", "w1", "gauge", 0, 0.5, ev.Progress("x"))).replace(b'"progress"', b'"of-tomorrow"')
    found = judge_test(fold(read_all(CASES[name]().recording() + newer)), 0).verdict
    assert found.code == judged(CASES[name]()).code
    assert less_certain(found, "the recording is incomplete: events of unknown kinds: 1")


@pytest.mark.parametrize("name", ["passed", "straggler", "rank-death-oom-killed", "startup-failure-import"])
def test_a_fact_with_an_unknown_word(name: str) -> None:
    newer = encode(ev.Event("run-1", "w1", "gauge", 0, 0.5, ev.RankBroken(0, Stage.IMPORT, "", "", "")))
    recording = CASES[name]().recording() + newer.replace(b'"import"', b'"of-tomorrow"')
    found = judge_test(fold(read_all(recording)), 0).verdict
    assert found.code == judged(CASES[name]()).code
    assert less_certain(found, "the recording is incomplete: events of unknown kinds: 1")


def test_facts_that_do_not_fit() -> None:
    box = in_step().say(ev.Finished(1, 0, True), "rank 2")
    assert less_certain(judged(straggler(box)), "the recording is incomplete: events that don't belong to the run: 1")


def test_a_hole_in_another_world_does_no_harm() -> None:
    box = FakeBox(tests=("a.py::a", "a.py::b"), limits=SHORT).begins().passes().ends()
    box.box(ev.WorldEnded("worn out"))
    box.world = ""
    recording = box.begins(1).passes().ends().done().recording()
    lines = recording.splitlines(keepends=True)
    kept = [line for line in lines if b'"world":"w2"' not in line or b"rank-ready" not in line]
    first, second = judge_run(fold(read_all(b"".join(kept)))).tests
    assert (first.verdict.certainty, second.verdict.certainty) == (Certainty.CERTAIN, Certainty.LIKELY)
    assert less_certain(second.verdict, "the recording is incomplete: missing events: 4")


def test_an_output_cut_in_its_middle_is_as_good() -> None:
    """What a process that dies says about it stands at the end."""
    box = others_wait(in_step(), 3)
    box.box(ev.OutputRead(3, 0, Stream.STDERR, "begin … end\n", 1_000_000)).exits(3, None, "SIGABRT").after(0.2)
    assert judged(box.acts(ActReason.EXIT, "", (0, 1, 2), (3,)).aborts("exit").done()).certainty is Certainty.CERTAIN


def test_a_rank_without_a_report() -> None:
    found = judged(CASES["not-run-no-result"]())
    assert (found.code, found.blamed_ranks) == (Code.NOT_RUN, (3,))

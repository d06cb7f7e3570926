import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.judge.verdicts import Code, Outcome, Verdict
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.vocabulary import (
    ForwardOrigin,
    Preset,
    SeedMode,
    SeedState,
    SettingOrigin,
    SettingPhase,
    Stage,
)
from pytest_megacpp.report.money import Rate
from pytest_megacpp.report.receipt import receipt, receipt_name
from pytest_megacpp.report.run_json import RunMeta, RunStatus, run_json, run_status
from tests.report.story import NODEID, Story, killed, result

PLAN = Plan("r1", "h200x8", "local", "H200:8", 0, 8, True, False, (), (), "", run_s=60.0)
META = RunMeta(PLAN, "2026-11-22T21:45:01.000Z")
RENTED: ev.Json = {"task": "ta-1", "image": "im-1", "cloud": "oci", "region": "here", "runtime": "gvisor"}
CIRCUMSTANCES = {"seed", "environment", "versions", "machine", "devices", "git", "ids"}
RECEIPT = CIRCUMSTANCES | {
    *("schema", "run_id", "nodeid", "outcome", "verdict", "distributed_mode", "preset", "world_size", "backend"),
    *("dry_run", "limits", "ranks", "skew", "flight_record"),
}
RANK = {
    *(
        "rank",
        "phases",
        "first_forward_s",
        "warmup",
        "compile_s",
        "graphs",
        "cache",
        "collectives",
        "exit",
        "error",
        "stack",
    ),
    *("device", "last_line", "records"),
}
RUN = CIRCUMSTANCES | {
    *("schema", "run_id", "status", "lane", "surface", "dry_run", "ranks", "started_at", "finished_at", "tests"),
    *("counts", "gate", "unreported", "bad_endings", "cost", "rate", "boxes", "part_of"),
}


def same(text: str) -> str:
    return text


def test_every_field_is_there_when_nothing_is_known() -> None:
    story = Story(2, released=False)
    document = receipt(result(Verdict(Code.NOT_RUN, "no rank came back")), story.timeline, META, redact=same)
    assert set(document) >= RECEIPT
    assert document["schema"] == "megacpp.receipt/1"
    assert document["backend"] == "gloo"
    assert document["limits"] == dict.fromkeys(("startup", "skew", "compile", "stall", "test")) | {"run": 60.0}
    assert set(document["seed"].values()) == {None}  # type: ignore[union-attr]
    assert {"state", "id", "bytes_start", "bytes_end", "coverage"} <= set(document["seed"])  # type: ignore[arg-type]
    ranks = document["ranks"]
    assert isinstance(ranks, list)
    assert [r["rank"] for r in ranks if isinstance(r, dict)] == [0, 1]
    for rank in ranks:
        assert isinstance(rank, dict)
        assert set(rank) >= RANK
        assert rank["cache"] == {"hits": None, "misses": None}
        assert rank["collectives"] == {"entered": 0, "completed": 0, "last": None}


def test_what_the_ranks_did_is_said() -> None:
    story = Story(2)
    for rank, seconds in ((0, 2.5), (1, 26.5)):
        story.rank(10.5, ev.PhaseStarted(rank, 0, "call"))
        story.rank(10.6, ev.PhaseStarted(rank, 0, "step"))
        story.rank(11.0, ev.FirstForward(rank, 0, "block", seconds, ForwardOrigin.TEST))
        story.rank(11.0, ev.Compiled(rank, 0, seconds - 1, 3, 2, 1))
        story.rank(11.0, ev.Recorded(rank, 0, "distributed_mode", "fsdp2"))
        story.waits(rank, 11.0 + 4 * rank, done=True)
        story.rank(15.0, ev.PhaseEnded(rank, 0, "step"))
        story.passes(rank, 16.0)
    document = json.loads(
        json.dumps(receipt(result(Verdict(Code.PASSED, "passed"), Outcome.PASSED), story.timeline, META, redact=same))
    )
    assert document["distributed_mode"] == "fsdp2"
    assert document["backend"] == "gloo"
    assert document["skew"] == {"first_forward_s": 24.0, "worst_wait_s": 4.0}
    first = document["ranks"][0]
    assert first["phases"] == [
        {"name": "call", "start_s": 10.5, "end_s": 16.0},
        {"name": "step", "start_s": 10.6, "end_s": 15.0},
    ]
    assert (first["first_forward_s"], first["compile_s"], first["graphs"]) == (2.5, 1.5, 3)
    assert first["cache"] == {"hits": 2, "misses": 1}
    last = {"group": "0", "seq": 7, "op": "all_reduce(Float [[8]])", "done": True}
    assert first["collectives"] == {"entered": 1, "completed": 1, "last": last}
    assert first["exit"]["code"] is first["exit"]["at_s"] is None


def test_the_first_forward_is_the_test_s_own_else_the_warm_up_s_else_the_longest_seen() -> None:
    def reported(*said: tuple[ForwardOrigin, float]) -> object:
        story = Story(1)
        for origin, seconds in said:
            story.rank(11.0, ev.FirstForward(0, 0, "Model", seconds, origin))
        return receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)["ranks"][0]  # type: ignore[index]

    seen = [(ForwardOrigin.AUTOMATIC, seconds) for seconds in (1.0, 9.0, 2.0)]
    warm, named = (ForwardOrigin.WARM_UP, 4.0), (ForwardOrigin.TEST, 3.0)
    found = [reported(), reported(*seen), reported(*seen, warm), reported(*seen, warm, named)]
    assert [rank["first_forward_s"] for rank in found] == [None, 9.0, 4.0, 3.0]  # type: ignore[index]
    assert [f["origin"] for f in found[-1]["first_forwards"]] == ["automatic"] * 3 + ["warmup", "test"]  # type: ignore[index]


def test_what_became_of_a_warm_up_is_said_for_each_rank() -> None:
    story = Story(4)
    for rank in (0, 1):
        story.rank(11.0, ev.PhaseStarted(rank, 0, "warmup"))
    story.rank(14.0, ev.FirstForward(0, 0, "warmup", 2.5, ForwardOrigin.WARM_UP))
    story.rank(14.0, ev.PhaseEnded(0, 0, "warmup"))
    story.rank(14.0, ev.WarmupSkipped(2, 0, "user_disabled"))
    document = json.loads(json.dumps(receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)))
    assert [rank["warmup"] for rank in document["ranks"]] == [
        {"reason": "explicit_warmup_allowed", "seconds": 2.5},
        {"reason": "explicit_warmup_allowed", "seconds": None},
        {"reason": "user_disabled", "seconds": None},
        None,
    ]


def test_configurations_that_were_not_tried_are_said_once() -> None:
    story = Story(2)
    for limit_bytes in (100, 100, 200):
        story.rank(11.0, ev.ConfigsDropped(1, 0, "matmul", ("num_stages=4: 300 bytes",), limit_bytes))
    document = json.loads(json.dumps(receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)))
    dropped = {"kernel": "matmul", "dropped": ["num_stages=4: 300 bytes"], "kept": False}
    assert [rank["dropped_configs"] for rank in document["ranks"]] == [
        [],
        [{**dropped, "limit_bytes": 100}, {**dropped, "limit_bytes": 200}],
    ]


def test_the_rank_s_own_count_of_collectives_is_believed() -> None:
    story = Story(1)
    story.waits(0, 11.0)
    story.rank(12.0, ev.Finished(0, 0, True, entered=900, completed=899))
    document = json.loads(json.dumps(receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)))
    assert document["ranks"][0]["collectives"] | {"last": None} == {"entered": 900, "completed": 899, "last": None}


def test_a_death_is_said_with_its_time_and_the_box_s_own_kills_apart() -> None:
    story, judged = killed(4)
    document = json.loads(json.dumps(receipt(judged, story.timeline, META, redact=same)))
    exits = [rank["exit"] for rank in document["ranks"]]
    assert exits[3] == {"code": None, "signal": "SIGKILL", "at_s": 22.31, "oom_killed": False, "by_box": False}
    assert exits[0]["by_box"] is True
    assert document["verdict"]["code"] == "rank-death"
    assert document["verdict"]["evidence"][0] == {
        "rank": 3,
        "time_s": 22.31,
        "source": "exit",
        "text": "SIGKILL, not killed for memory",
    }
    assert document["skew"]["worst_wait_s"] == 11.4


def test_a_mode_is_never_invented() -> None:
    def mode(ranks: int, *said: tuple[int, str]) -> object:
        story = Story(ranks)
        for rank, value in said:
            story.rank(11.0, ev.Recorded(rank, 0, "distributed_mode", value))
        verdict = Verdict(Code.PASSED, "passed")
        return receipt(result(verdict), story.timeline, META, redact=same)["distributed_mode"]

    assert mode(1) == "single"
    assert mode(2) is None
    assert mode(2, (0, "ddp"), (1, "fsdp2")) is None
    assert mode(2, (0, "ddp")) == "ddp"


def test_a_broken_start_is_said() -> None:
    story = Story(2, released=False)
    story.rank(5.0, ev.RankBroken(1, Stage.IMPORT, "ImportError", "no x", "Traceback"))
    story.box(6.0, ev.RankExited(1, 3))
    verdict = Verdict(Code.STARTUP_FAILURE, "rank 1 could not import", (1,))
    document = json.loads(json.dumps(receipt(result(verdict, Outcome.ERROR), story.timeline, META, redact=same)))
    assert document["ranks"][1]["error"]["type"] == "ImportError"
    assert document["ranks"][1]["exit"]["code"] == 3


def test_the_preset_is_told_of_a_test_that_never_began() -> None:
    story = Story(2, released=False, preset=Preset.DIAGNOSTIC)
    assert receipt(result(Verdict(Code.BLOCKED, "")), story.timeline, META, redact=same)["preset"] == "diagnostic"


def test_a_receipt_lists_what_its_own_test_lacked() -> None:
    story = Story(2)
    short = ev.SeedShort(0, (1,), ("fabc",)), ev.SeedShort(7, (0, 1))
    story.box(1.0, ev.SeedChecked(SeedMode.AUTO, SeedState.PARTIAL, "k", "i", "r0", 1, 4, 10, short), world="")
    seed: Any = receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)["seed"]
    assert (seed["coverage"], seed["missing"]) == (0.25, [{"nodeid": NODEID, "ranks": [1], "keys": ["fabc"]}])
    whole: Any = run_json(META, RunStatus.PASSED, [NODEID], {}, {}, story.timeline, redact=same)["seed"]
    assert [short["nodeid"] for short in whole["missing"]] == [NODEID, "test 7"]


KEPT = ev.SeedKept(SeedState.WARM, "new", True, 4, 4, 20, True, (ev.SeedShort(0, (1,), ("fabc",)),))
AT_THE_END = ("state_end", "coverage_end", "bytes_end", "published", "promoted", "helped", "missed", "detail_end")


def seed_of(story: Story) -> Any:
    return receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)["seed"]


def sampled(compile_s: float, compiling: str = "") -> ev.Sampled:
    return ev.Sampled(1, 0, True, "R", (compiling,) if compiling else (), compile_s, 1.0)


@pytest.mark.parametrize(
    "fact",
    [ev.Compiled(1, 0, 2.0, 1, 0, 1), ev.Compiled(1, 0, 0.1, 1, 1, 0), sampled(3.0), sampled(0.0, "matmul")],
    ids=["compiled", "from-a-cache", "seen-from-outside", "died-in-it"],
)
def test_a_receipt_of_what_compiled_has_what_the_run_kept(fact: ev.RankFact) -> None:
    story = Story(2)
    story.rank(11.0, fact)
    assert [seed_of(story)[name] for name in AT_THE_END] == [None] * len(AT_THE_END)
    story.box(12.0, KEPT, world="")
    missed = [{"nodeid": NODEID, "ranks": [1], "keys": ["fabc"]}]
    assert [seed_of(story)[name] for name in AT_THE_END] == ["warm", 1.0, 20, "new", True, True, missed, None]


def test_a_receipt_of_what_compiled_nothing_never_changes() -> None:
    """Else all receipts of a run would have to be written twice."""
    story = Story(2)
    story.passes(0, 11.0)
    story.rank(11.0, ev.Compiled(1, 0, 0.0, 0, 0, 0))
    before = seed_of(story)
    story.box(12.0, KEPT, world="")
    assert seed_of(story) == before
    whole: Any = run_json(META, RunStatus.PASSED, [NODEID], {}, {}, story.timeline, redact=same)["seed"]
    assert whole["published"] == "new"


def test_receipts_of_runs_that_take_turns_have_each_their_own_circumstances() -> None:
    stories = [Story(1) for _ in range(6)]
    for number, story in enumerate(stories):
        story.box(1.0, ev.EnvironmentSet("A", str(number), SettingOrigin.USER, "yours"))
        short = ev.SeedShort(0, (number,))
        story.box(1.0, ev.SeedChecked(SeedMode.AUTO, SeedState.PARTIAL, "k", "i", "r", 1, 4, 10, (short,)), world="")
    for _ in range(2):
        for number, story in enumerate(stories):
            document: Any = receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)
            assert document["environment"]["A"]["value"] == str(number)
            assert document["seed"]["missing"][0]["ranks"] == [number]
    stories[0].box(2.0, ev.EnvironmentSet("A", "later", SettingOrigin.USER, "yours"))
    document = receipt(result(Verdict(Code.PASSED, "")), stories[0].timeline, META, redact=str.upper)
    assert document["ENVIRONMENT"]["A"]["VALUE"] == "LATER"


def test_a_variable_says_who_set_it_until_when_it_counts_and_why() -> None:
    story = Story(1)
    story.box(
        1.0,
        ev.EnvironmentSet("TORCH_DISTRIBUTED_DEBUG", "INFO", SettingOrigin.PLUGIN, "more words", SettingPhase.IMPORT),
    )
    story.box(1.0, ev.EnvironmentSet("OLD", None, SettingOrigin.PLUGIN, "one host"))
    document = json.loads(json.dumps(receipt(result(Verdict(Code.PASSED, "")), story.timeline, META, redact=same)))
    assert document["environment"] == {
        "TORCH_DISTRIBUTED_DEBUG": {"value": "INFO", "source": "plugin", "phase": "import", "reason": "more words"},
        "OLD": {"value": None, "source": "plugin", "phase": None, "reason": "one host"},
    }


def test_every_text_is_redacted() -> None:
    story = Story(2)
    story.box(1.0, ev.EnvironmentSet("WANDB_API_KEY", "s3cret-by-name", SettingOrigin.USER, "yours"))
    story.box(1.0, ev.EnvironmentSet("PLAIN", "hush", SettingOrigin.USER, "yours"))
    story.raises(1, 12.0, "hush")
    story.rank(12.0, ev.Recorded(1, 0, "hush", {"hush": ["hush"]}))
    story.prints(0, 12.0, "hush")
    verdict = Verdict(Code.RANK_DEATH, "rank 1: hush", (1,))

    def hide(text: str) -> str:
        return text.replace("hush", "***")

    document = json.dumps(receipt(result(verdict), story.timeline, META, redact=hide))
    run = run_json(META, RunStatus.FAILED, ["t[hush]"], {}, {}, story.timeline, redact=hide)
    assert "hush" not in document + json.dumps(run)
    assert "s3cret" not in document + json.dumps(run)
    assert run["environment"]["WANDB_API_KEY"]["value"] == "[redacted:WANDB_API_KEY]"  # type: ignore[index, call-overload]


def test_run_json_has_every_field_while_running_and_after() -> None:
    story, judged = killed(4)
    story.box(
        1.0,
        ev.BoxReady({"torch": "2.13.0"}, {"cpus": 2, "gpus": {"driver": "570"}, "machine": RENTED}, ("NVIDIA H200",)),
    )
    nodeids = [NODEID, "other"]
    expects: ev.Json = {"code": "rank-death", "ranks": [3], "cause": None}
    meta = replace(META, drills={"other": expects})
    running = run_json(meta, RunStatus.RUNNING, nodeids, {}, {}, story.timeline, redact=same)
    over = run_json(META, RunStatus.FAILED, nodeids, {0: judged}, {0: "receipts/x.json"}, story.timeline, redact=same)
    assert RUN == set(running) == set(over)
    assert list(over)[:3] == ["schema", "run_id", "status"]
    unknown = {"outcome": None, "verdict": None, "receipt": None}
    assert [{k: v for k, v in test.items() if k != "cost"} for test in running["tests"]] == [  # type: ignore[union-attr]
        {"nodeid": NODEID, **unknown, "expects": None},
        {"nodeid": "other", **unknown, "expects": expects},
    ]
    assert over["tests"][0] == {  # type: ignore[index]
        "nodeid": NODEID,
        "outcome": "failed",
        "verdict": "rank-death",
        "receipt": "receipts/x.json",
        "expects": None,
        "cost": over["tests"][0]["cost"],  # type: ignore[index, call-overload]
    }
    assert over["counts"]["failed"] == 1  # type: ignore[index, call-overload]
    assert over["devices"] == {
        "requested": "H200:8",
        "observed": ["NVIDIA H200"],
        "details": {"driver": "570"},
    }
    assert over["machine"] == RENTED
    assert running["machine"] == RENTED


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([], "error"),
        ([(Outcome.PASSED, Code.PASSED), (Outcome.SKIPPED, Code.SKIPPED)], "passed"),
        ([(Outcome.PASSED, Code.RANK_DEATH)], "passed"),
        ([(Outcome.ERROR, Code.NOT_RUN), (Outcome.FAILED, Code.HANG)], "failed"),
        ([(Outcome.ERROR, Code.NOT_RUN), (Outcome.PASSED, Code.PASSED)], "error"),
        ([(Outcome.ERROR, Code.BLOCKED)], "blocked"),
        ([(Outcome.ERROR, Code.BLOCKED), (Outcome.PASSED, Code.PASSED)], "error"),
    ],
)
def test_a_run_is_green_only_by_its_tests(outcomes: list[tuple[Outcome, Code]], status: str) -> None:
    assert run_status(result(Verdict(code, ""), outcome) for outcome, code in outcomes) == status


def test_a_name_is_readable_and_stays_in_its_directory() -> None:
    assert re.fullmatch(r"a-test_b\.py-test_c-x-[0-9a-f]{8}\.json", receipt_name("a/test_b.py::test_c[x]"))
    assert receipt_name("a[1]") != receipt_name("a[2]")


@given(st.text(st.characters()))
def test_no_node_id_escapes(nodeid: str) -> None:
    name = receipt_name(nodeid)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.json", name)
    assert ".." not in name[:2]
    assert len(name) < 100


def test_a_test_costs_the_whole_box_while_it_runs() -> None:
    story, judged = killed(4)
    run = replace(META, rate=Rate(36.0, 8, "list prices"))
    document = run_json(run, RunStatus.FAILED, [NODEID, "other"], {0: judged}, {}, story.timeline, redact=same)
    test = story.timeline.tests[0]
    seconds = story.timeline.last_s - test.started_s
    assert seconds > 1
    spent = {"seconds": round(seconds, 3), "gpu_seconds": round(8 * seconds, 3), "usd": round(seconds * 0.01, 6)}
    assert document["tests"][0]["cost"] == spent  # type: ignore[index, call-overload]
    assert document["tests"][1]["cost"] == {"seconds": None, "gpu_seconds": None, "usd": None}  # type: ignore[index, call-overload]
    assert receipt(judged, story.timeline, run, redact=same)["cost"] == spent
    assert document["rate"] == {"usd_per_hour": 36.0, "gpus": 8, "source": "list prices"}


def test_a_receipt_of_a_large_world_is_of_a_size_to_work_with() -> None:
    story = Story(1024)
    secret = "SECRET"
    for rank in range(1024):
        story.raises(rank, 20.0, "x" * 40_000 + secret + "x" * 20_000)
    document = receipt(
        result(Verdict(Code.TEST_FAILED, "rank 3 raised", (3,))),
        story.timeline,
        META,
        redact=lambda text: text.replace(secret, "[redacted]"),
    )
    written = json.dumps(document, indent=1)
    assert len(written) < 16_000_000
    assert secret not in written
    ranks: Any = document["ranks"]
    assert [len(r["error"]["message"]) > 60_000 for r in ranks[2:5]] == [False, True, False]
    assert all("characters cut" in r["error"]["traceback"] for r in ranks if r["rank"] != 3)

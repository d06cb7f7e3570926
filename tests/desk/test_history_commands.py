"""`megacpp history`, `diff` and `prune` on runs made of receipts."""

import fcntl
import html
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.desk.hooks import history as history_hook
from pytest_megacpp.desk.hooks.history import FEWER_TESTS, READ_RECEIPTS, HistoryPage
from pytest_megacpp.desk.run import receipts as receipts_module
from pytest_megacpp.desk.run.earlier import seconds_before
from pytest_megacpp.desk.run.receipts import newest_receipts, read_receipt
from pytest_megacpp.judge.verdicts import Code, Outcome, TestResult, Verdict
from pytest_megacpp.report.history.page import history_page
from pytest_megacpp.report.history.series import series
from pytest_megacpp.report.measures import Measures
from pytest_megacpp.report.reporter import Artefact, Line
from tests.desk.receipts import receipt, run_id_of, write_run

GOOD, BAD = "a.py::test_good", "a.py::test_bad"
Megacpp = Callable[..., SimpleNamespace]


@pytest.fixture
def lane_dir(tmp_path: Path) -> Path:
    return tmp_path / ".megacpp"


@pytest.fixture
def megacpp(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Megacpp:
    """`megacpp(*args)`, typed in `tmp_path`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> SimpleNamespace:
        code = cli.main(args)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


def ten_runs(lane_dir: Path) -> None:
    """GOOD becomes slow in the last one, BAD fails now and then."""
    for number in range(10):
        good = receipt("", GOOD, seconds=12.0 if number == 9 else 8.0 + number / 100)
        bad = receipt("", BAD, "failed" if number % 3 == 1 else "passed", git={"revision": "0f3c2a1b", "dirty": False})
        write_run(lane_dir, number, good, bad)


# -- history -------------------------------------------------------------------------------------------------


def test_a_history_of_all_tests(megacpp: Megacpp, lane_dir: Path) -> None:
    ten_runs(lane_dir)
    done = megacpp("history")
    assert done.code == 0
    head, bad, good, *rest = done.out.splitlines()
    assert head.split() == ["RUNS", "OUTCOMES", "LAST", "DURATION", "TEST"]
    assert bad.split()[:2] == ["10", "✓✗✓✓✗✓✓✗✓✓"]
    assert good.split()[2:4] == ["12.00", "s"]
    reported = "\n".join(rest)
    assert (
        f"slower: {GOOD} (h200x8 · local (dry run) · 2 ranks)\n  duration 12.00 s, median of 9 earlier runs 8.04 s"
        in reported
    )
    assert f"flaky: {BAD}" in reported
    assert "failed in 3 of 10 runs: 30 % (11 % to 60 %, Wilson 95 %), passed and failed at 0f3c2a1b" in reported


def test_a_history_of_one_test(megacpp: Megacpp, lane_dir: Path) -> None:
    ten_runs(lane_dir)
    done = megacpp("history", "test_good", "--limit", "6")
    rows = [line for line in done.out.splitlines() if line.startswith("202611")]
    assert [row.split()[0] for row in rows] == [run_id_of(number) for number in range(9, 3, -1)]
    assert "DURATION" in done.out
    assert "BAD" not in done.out
    assert all("loss=0.5" in row for row in rows)


def test_rows_of_one_test_are_told_apart(megacpp: Megacpp, lane_dir: Path) -> None:
    """A dry run and one on Modal, and two sizes of worlds; of a test that ran in one way only nothing is said."""
    kinds = [("modal", False, 2), ("local", True, 2), ("modal", False, 4)]
    for number, (surface, dry_run, size) in enumerate(kinds):
        both = [receipt("", BAD)] if number == 0 else []
        write_run(
            lane_dir, number, receipt("", GOOD, surface=surface, dry_run=dry_run, world_size=size, preset=None), *both
        )
    head, bad, *good = megacpp("history").out.splitlines()
    assert head.split() == ["RUNS", "OUTCOMES", "LAST", "DURATION", "WHERE", "TEST"]
    column = slice(head.index("WHERE"), head.index("TEST"))
    assert bad[column].strip() == ""
    assert [row[column].strip() for row in good] == ["modal · 4 ranks", "local (dry run) · 2 ranks", "modal · 2 ranks"]
    alone = megacpp("history", "--limit", "1").out.splitlines()[0]
    assert "WHERE" not in alone


def test_a_history_for_programs(megacpp: Megacpp, lane_dir: Path) -> None:
    ten_runs(lane_dir)
    bad, good = json.loads(megacpp("history", "--json").out)
    assert (bad["nodeid"], good["nodeid"]) == (BAD, GOOD)
    assert [run["seconds"] for run in good["runs"]][-1] == 12.0
    assert {change["metric"] for change in good["changes"]} == {"seconds", "first_forward_s"}
    assert bad["flaky"]["failures"] == 3
    assert good["flaky"] is None


def test_no_history_is_said(megacpp: Megacpp, lane_dir: Path) -> None:
    done = megacpp("history")
    assert (done.code, done.out) == (1, "")
    assert "no receipts in" in done.err
    write_run(lane_dir, 0, receipt("", GOOD))
    assert "no receipt of the 1 runs" in megacpp("history", "zzz").err
    assert megacpp("history", "--limit", "0").code == 2


def test_no_history_is_a_document_for_programs(megacpp: Megacpp, lane_dir: Path) -> None:
    done = megacpp("history", "--json")
    assert (done.code, json.loads(done.out)) == (1, [])
    assert "run tests with pytest -m LANE" in done.err
    write_run(lane_dir, 0, receipt("", GOOD))
    assert json.loads(megacpp("history", "zzz", "--json").out) == []


def test_replays_alone_are_no_history(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(2):
        write_run(lane_dir, number, receipt("", GOOD, started_at="2020-01-01T00:00:00Z"))
    for arguments in ([], ["--html"]):
        done = megacpp("history", *arguments)
        assert (done.code, done.out) == (1, "")
        assert "all 2 runs in" in done.err
        assert "are replays" in done.err
    assert not (lane_dir / "history.html").exists()


def test_damaged_receipts_are_passed_over(megacpp: Megacpp, lane_dir: Path) -> None:
    run = write_run(lane_dir, 0, receipt("", GOOD))
    for name, content in (
        ("1", b""),
        ("2", b"[1"),
        ("3", b"[]"),
        ("4", b'{"nodeid": 5}'),
        ("5", b"\xff"),
        ("6", b"[" * 10**5),
    ):
        (run / "receipts" / f"{name}.json").write_bytes(content)
    (run / "receipts" / "7.json").mkdir()
    assert len(newest_receipts(lane_dir).receipts) == 1
    assert megacpp("history").code == 0


@pytest.mark.parametrize(
    "odd", [-5.0, -1e308, 1e308, 10**400, 1e999, float("nan"), True, "8", [], {}], ids=lambda odd: str(odd)[:9]
)
def test_no_number_of_a_receipt_ends_a_command(megacpp: Megacpp, lane_dir: Path, odd: Any) -> None:
    """The numbers that JSON can say and a clock or a price can't are no measures."""
    fields = {
        "cost": {"seconds": odd, "usd": odd},
        "skew": {"first_forward_s": odd, "worst_wait_s": odd},
        "ranks": [{"first_forward_s": odd, "compile_s": odd, "records": {"loss": odd}}] * 2,
        "attempts": [{"start_s": 0.0, "end_s": odd}],
    }
    for number in range(9):
        run = write_run(lane_dir, number, receipt("", GOOD))
        if number % 2 == 0:
            reported = receipt(run.name, GOOD, started_at=f"2026-11-01T12:0{number}:00Z") | fields
            (run / "receipts" / "0.json").write_text(json.dumps(reported))
            tests = [{"nodeid": GOOD, "outcome": "passed", "cost": {"seconds": odd}}]
            document = {
                "status": "passed",
                "lane": "x",
                "dry_run": False,
                "cost": {"usd": odd},
                "counts": {"a": odd},
                "tests": tests,
            }
            (run / "run.json").write_text(json.dumps(document | ({"tests": odd} if number == 6 else {})))
    assert seconds_before(run.with_name("later"), "x", dry_run=False) == {}
    for command in (["history"], ["history", GOOD], ["history", "--html"], ["runs"], ["diff", run_id_of(1)]):
        done = megacpp(*command)
        assert (done.code, done.err) == (0, ""), command
        assert "$nan" not in done.out, command
    assert "NaN" not in megacpp("runs", "--json").out + megacpp("diff", run_id_of(1), "--json").out
    (one,) = json.loads(megacpp("history", "--json").out, parse_constant=pytest.fail)
    assert [run["seconds"] for run in one["runs"]] == [None, 8.0] * 4 + [None]
    assert {run["usd"] for run in one["runs"]} == {None, 0.0}


def test_long_node_ids_are_told_apart(megacpp: Megacpp, lane_dir: Path) -> None:
    long = f"a.py::test[{'x' * 600}"
    for number in range(2):
        write_run(lane_dir, number, receipt("", f"{long}-1]"), receipt("", f"{long}-2]", seconds=20.0))
    assert [one["nodeid"] for one in json.loads(megacpp("history", "--json").out)] == [f"{long}-1]", f"{long}-2]"]
    assert "2 tests of 2 without a difference" in megacpp("diff", run_id_of(0)).out
    megacpp("history", "--html")
    assert (lane_dir / "history.html").read_text().count("<article") == 2


def test_what_is_left_out_of_a_receipt_is_only_its_circumstances(tmp_path: Path) -> None:
    """A receipt that isn't written by the plugin is read whole."""
    fields: dict[str, Any] = {"seed": {"id": 1}, "environment": {"A": {}}, "git": {"revision": "abc", "dirty": False}}
    run = write_run(tmp_path, 0, receipt("", GOOD, **fields))
    quick = read_receipt(run / "receipts" / "0.json")
    assert quick is not None
    assert quick["git"] == fields["git"]
    assert "environment" not in quick
    (tmp_path / "other.json").write_text(json.dumps(receipt("", GOOD, **fields)))
    whole = read_receipt(tmp_path / "other.json")
    assert whole is not None
    assert whole["environment"] == fields["environment"]


def test_at_least_two_runs_are_read_however_many_receipts_they_have(lane_dir: Path) -> None:
    for number in range(5):
        write_run(lane_dir, number, *(receipt("", f"a.py::test_{index}") for index in range(10)))
    few, more = newest_receipts(lane_dir, 5), newest_receipts(lane_dir, 25)
    assert (few.runs, few.all_runs, len(few.receipts)) == (2, 5, 20)
    assert more.runs == 3
    assert "megacpp history --html takes all" in few.covered
    assert [one.run_id for one in few.receipts] == sorted(one.run_id for one in few.receipts)


def test_a_test_that_is_nowhere_is_looked_for_in_few_runs(lane_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of tests that are all new ends as soon as one of old tests."""
    looked_at: list[str] = []
    real = receipts_module.receipts_of

    def counted(run: Path, names: Sequence[str] | None = None) -> Iterator[tuple[Path, Measures]]:
        looked_at.append(run.name)
        return real(run, names)

    monkeypatch.setattr(receipts_module, "receipts_of", counted)
    for number in range(8):
        write_run(lane_dir, number, receipt("", GOOD))
    monkeypatch.setattr(receipts_module, "LOOKED_AT", 3)
    found = newest_receipts(lane_dir, READ_RECEIPTS, names=["new.json"])
    assert looked_at == [run_id_of(number) for number in (7, 6, 5)]
    assert (found.runs, found.receipts) == (3, [])
    assert newest_receipts(lane_dir, READ_RECEIPTS).runs == newest_receipts(lane_dir).runs == 8


# -- the page ------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """What a browser would make of a page: elements, attributes, texts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'></svg></title>{{7*7}}\x1b]0;x\x07\u202e&amp;"


def test_the_page_is_written_and_stands_alone(megacpp: Megacpp, lane_dir: Path) -> None:
    ten_runs(lane_dir)
    done = megacpp("history", "--html")
    assert done.code == 0
    page = Path(done.out.strip()).read_bytes()
    found = Elements(page)
    assert not {"script", "link", "iframe", "object", "base", "img"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]
    links = [value for name, value in found.attributes if name in ("href", "src", "action")]
    assert links
    assert all(str(value).startswith("#") for value in links)
    text = html.unescape(page.decode())
    assert "default-src 'none'; style-src 'sha256-" in text
    assert "duration 12.00 s, median of 9 earlier runs 8.04 s (+49 %" in text
    assert "failed in 3 of 10 runs: 30 %" in text


def test_the_page_counts_the_runs_that_are_on_it(megacpp: Megacpp, lane_dir: Path) -> None:
    """A replay is none of them, nor a run whose receipts can't be read, and the line below the title says so."""
    for number in range(3):
        write_run(lane_dir, number, receipt("", GOOD), receipt("", BAD))
    write_run(lane_dir, 3, receipt("", GOOD, started_at="2020-01-01T00:00:00Z"))
    write_run(lane_dir, 4)
    page = Path(megacpp("history", "--html").out.strip()).read_text()
    assert page.count("Lane tests over 3 runs") == 2
    said = "All 5 runs that have receipts, 6 receipts; left out: 1 replay, 1 run without such receipts."
    assert said in page
    assert newest_receipts(lane_dir, runs=3).covered == (
        "The newest 3 of 5 runs, 2 receipts; left out: 1 replay, 1 run without such receipts; "
        "megacpp history --html takes all."
    )


def test_the_style_is_the_one_that_the_policy_allows(megacpp: Megacpp, lane_dir: Path) -> None:
    import base64
    import hashlib

    ten_runs(lane_dir)
    page = Path(megacpp("history", "--html").out.strip()).read_text()
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = re.findall(r"style-src '(.*?)'", html.unescape(page))
    assert [f"sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}" for one in style] == allowed
    assert "light-dark(" in style[0]


def test_nothing_a_test_wrote_is_markup(lane_dir: Path) -> None:
    """Every text of a receipt is hostile; the page has the elements of one with plain texts."""

    def pages(text: str) -> Elements:
        def odd(value: Any) -> Any:
            match value:
                case str():
                    return text
                case dict():
                    return {name if depth_known(name) else text: odd(item) for name, item in value.items()}
                case list():
                    return [odd(item) for item in value]
                case _:
                    return value

        where = lane_dir / ("plain" if text == "plain" else "hostile")
        for number in range(6):
            outcome = "failed" if number % 2 else "passed"
            reported = odd(receipt("", GOOD, verdict={"summary": "s"}, ranks=[{"records": {"loss": 0.5 + number}}]))
            write_run(where, number, reported | {"outcome": outcome})
        history = newest_receipts(where)
        return Elements(history_page(series(history.receipts), history.receipts, text))

    known = {*receipt("", GOOD), "code", "summary", "records", "seconds", "usd", "revision", "dirty", "first_forward_s"}

    def depth_known(name: str) -> bool:
        return name in known

    hostile, plain = pages(HOSTILE), pages("plain")
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    assert not [value for _, value in hostile.attributes if "\x1b" in (value or "") or "\u202e" in (value or "")]


def test_many_runs_are_drawn_in_few_bytes(lane_dir: Path) -> None:
    receipts = [replace(found, started_at="") for number in range(3) for found in _measured(lane_dir, number)]
    one = series(receipts * 400)
    assert len(one[0].entries) == 1200
    assert len(history_page(one, receipts * 400, "")) < 400_000


def _measured(lane_dir: Path, number: int) -> list[Any]:
    write_run(lane_dir, number, receipt("", GOOD))
    return newest_receipts(lane_dir, runs=1).receipts


def session_of(lane_dir: Path, number: int, tests: int, *, red: int) -> Any:
    """A session that ran so many tests, of which one failed."""
    results = {
        index: TestResult(
            index,
            f"a.py::test_{index}",
            Outcome.FAILED if index == red else Outcome.PASSED,
            Verdict(Code.PASSED, ""),
            {"call": float(index)},
        )
        for index in range(tests)
    }
    run = SimpleNamespace(
        written={"run.json"},
        receipt_names=[f"{index}.json" for index in range(tests)],
        nodeids=[result.nodeid for result in results.values()],
        judged=results,
        plan=SimpleNamespace(run_id=run_id_of(number)),
    )
    return SimpleNamespace(runs=[run])


def test_the_end_of_a_large_session_costs_little(lane_dir: Path) -> None:
    """The page has what failed and what took longest."""
    tests = READ_RECEIPTS // 2 + 1
    for number in range(2):
        write_run(lane_dir, number, *(receipt("", f"a.py::test_{index}") for index in range(tests)))
    (page,) = HistoryPage(lane_dir).closing(session_of(lane_dir, 1, tests, red=7))
    assert isinstance(page, Artefact)
    ((path, content),) = page.files
    assert path == "history.html"
    assert isinstance(content, bytes)
    shown = set(re.findall(r"a\.py::test_(\d+)", content.decode()))
    assert {int(number) for number in shown} == {7, *range(tests - FEWER_TESTS + 1, tests)}
    assert "megacpp history --html takes all" in content.decode()


def test_what_is_slower_is_a_line_of_the_session(lane_dir: Path) -> None:
    for number in range(7):
        write_run(lane_dir, number, receipt("", "a.py::test_0", seconds=12.0 if number == 6 else 8.0))
    page, line = HistoryPage(lane_dir).closing(session_of(lane_dir, 6, 1, red=-1))
    assert isinstance(page, Artefact)
    assert isinstance(line, Line)
    assert line.text.startswith("history: 1 test slower than its median, see megacpp history or")
    assert len(list(HistoryPage(lane_dir).closing(session_of(lane_dir, 5, 1, red=-1)))) == 1


def test_one_run_is_no_history(lane_dir: Path) -> None:
    write_run(lane_dir, 0, receipt("", GOOD))
    assert list(HistoryPage(lane_dir).closing(session_of(lane_dir, 0, 1, red=-1))) == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_page_of_runs_that_are_gone_goes(lane_dir: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool) -> None:
    """Where only replays are left; not where older runs were not looked at."""
    began = "2020-01-01T00:00:00Z"
    for number in range(2, 5):
        write_run(lane_dir, number, receipt("", "a.py::test_0", started_at=began))
    if not is_whole:
        write_run(lane_dir, 0, receipt("", "a.py::test_0"))
        monkeypatch.setattr(history_hook, "READ_RECEIPTS", 2)
    (lane_dir / "history.html").write_text("of older runs")
    assert list(HistoryPage(lane_dir).closing(session_of(lane_dir, 4, 1, red=-1))) == []
    assert (lane_dir / "history.html").exists() == (not is_whole)


# -- diff ----------------------------------------------------------------------------------------------------


def test_a_diff_tells_what_broke_and_what_is_slower(megacpp: Megacpp, lane_dir: Path) -> None:
    environment = {"TRITON_CACHE_DIR": {"value": "/tmp/megacpp-aaaaaaaa/triton"}, "NCCL_DEBUG": {"value": "WARN"}}
    write_run(lane_dir, 0, receipt("", GOOD), receipt("", BAD), versions={"torch": "2.12"}, environment=environment)
    environment = {"TRITON_CACHE_DIR": {"value": "/tmp/megacpp-bbbbbbbb/triton"}, "NCCL_DEBUG": {"value": "INFO"}}
    broken = receipt("", BAD, "failed", verdict={"blamed_ranks": [1]})
    write_run(lane_dir, 1, receipt("", GOOD, seconds=12.0), broken, versions={"torch": "2.13"}, environment=environment)
    done = megacpp("diff", run_id_of(0), "last")
    assert done.code == 1
    lines = [line.split() for line in done.out.splitlines()]
    assert ["versions.torch", "2.12", "2.13"] in lines
    assert ["NCCL_DEBUG", "WARN", "INFO"] in lines
    assert "TRITON_CACHE_DIR" not in done.out
    assert ["broke", "passed", "rank-death", "(1)", BAD] in lines
    assert ["duration", "8.00", "s", "12.00", "s", "+50", "%", GOOD] in lines
    assert "loss" not in done.out
    back = megacpp("diff", "last", run_id_of(0), "--json")
    assert back.code == 0
    document = json.loads(back.out)
    assert [test["broke"] for test in document["tests"]] == [False, False]
    assert {"name": "versions.torch", "before": "2.13", "after": "2.12"} in document["circumstances"]


@pytest.mark.parametrize(
    ("outcome", "code", "broke"),
    [
        ("failed", "hang", True),
        ("error", "startup-failure", True),
        ("skipped", "skipped", False),
        ("error", "not-run", False),
        ("error", "blocked", False),
        ("error", "environment", False),
        ("error", "box-lost", False),
    ],
)
def test_only_what_fails_broke(megacpp: Megacpp, lane_dir: Path, outcome: str, code: str, broke: bool) -> None:
    write_run(lane_dir, 0, receipt("", GOOD))
    write_run(lane_dir, 1, receipt("", GOOD, outcome, code))
    done = megacpp("diff", run_id_of(0))
    assert done.code == int(broke)
    assert ("broke" in done.out) == broke
    assert [code, GOOD] == next(line for line in done.out.splitlines() if GOOD in line).split()[-2:]


def test_a_diff_of_equal_runs(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(2):
        write_run(lane_dir, number, receipt("", GOOD))
    done = megacpp("diff", run_id_of(0))
    assert done.code == 0
    assert done.out.splitlines()[-1] == "1 test of 1 without a difference"
    assert "both are run" in megacpp("diff", "last").err
    (lane_dir / "runs" / run_id_of(1) / "receipts" / "0.json").unlink()
    assert "has no receipts to compare" in megacpp("diff", run_id_of(0)).err


# -- prune ---------------------------------------------------------------------------------------------------


def kept(lane_dir: Path) -> list[int]:
    return [int(path.name[-4:], 16) for path in sorted((lane_dir / "runs").iterdir())]


def test_the_newest_runs_stay(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(5):
        write_run(lane_dir, number, receipt("", GOOD))
    (lane_dir / "latest").write_text(f"{run_id_of(4)}\n")
    seen = megacpp("prune", "--keep", "2", "--dry-run")
    assert seen.out.count("would be removed") == 4
    assert kept(lane_dir) == [0, 1, 2, 3, 4]
    done = megacpp("prune", "--keep", "2")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1].startswith("3 runs removed, ")
    assert kept(lane_dir) == [3, 4]


def test_a_run_that_goes_on_is_never_removed(megacpp: Megacpp, lane_dir: Path) -> None:
    detached = write_run(lane_dir, 0, receipt("", GOOD), status="detached")
    held = write_run(lane_dir, 1, receipt("", GOOD))
    write_run(lane_dir, 2, receipt("", GOOD))
    with (held / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = megacpp("prune", "--keep", "0")
    assert kept(lane_dir) == [0, 1]
    assert done.out.count("stays: it goes on") == 2
    assert detached.exists()
    megacpp("prune", "--keep", "0")
    assert kept(lane_dir) == [0]


def renamed(run: Path, days: int) -> Path:
    """The run as if it had begun so many days ago."""
    began = datetime.now(UTC) - timedelta(days=days)
    return run.rename(run.with_name(f"{began:%Y%m%d-%H%M%S}-{run.name[-4:]}"))


def test_age_and_number_must_both_allow_it(megacpp: Megacpp, lane_dir: Path) -> None:
    for number, days in enumerate((400, 399, 0)):
        renamed(write_run(lane_dir, number, receipt("", GOOD)), days)
    megacpp("prune", "--keep", "2", "--older-than", "1d")
    assert kept(lane_dir) == [1, 2]
    megacpp("prune", "--older-than", "1h")
    assert kept(lane_dir) == [2]


def test_a_run_is_as_old_as_its_id_whatever_its_document_says(megacpp: Megacpp, lane_dir: Path) -> None:
    for number, reported in enumerate(("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "soon")):
        renamed(write_run(lane_dir, number, receipt("", GOOD), started_at=reported), 40)
    assert megacpp("runs").out.count("  40 d  ") == 3
    assert megacpp("prune", "--older-than", "41d").out.startswith("0 runs removed")
    assert megacpp("prune", "--older-than", "39d").out.splitlines()[-1].startswith("3 runs removed")


@pytest.mark.parametrize("arguments", [[], ["--keep", "-1"], ["--older-than", "soon"], ["--older-than", "3"]])
@pytest.mark.parametrize("runs", [0, 1])
def test_what_may_go_has_to_be_said(megacpp: Megacpp, lane_dir: Path, arguments: list[str], runs: int) -> None:
    (lane_dir / "runs").mkdir(parents=True)
    for number in range(runs):
        write_run(lane_dir, number, receipt("", GOOD))
    done = megacpp("prune", *arguments)
    assert done.code == 2
    assert "prune" in done.err or "has to be" in done.err
    assert kept(lane_dir) == list(range(runs))


def test_a_replay_is_as_old_as_its_id(megacpp: Megacpp, lane_dir: Path) -> None:
    """Its document has the beginning of the run that it repeats."""
    began, now = "2020-01-01T00:00:00Z", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = write_run(lane_dir, 0, receipt("", GOOD), started_at=began, finished_at=now)
    replay = renamed(run, 0)
    (listed,) = json.loads(megacpp("runs", "--json").out)
    assert listed["duration_s"] is None
    assert re.search(r"  \d+ s  passed", megacpp("runs").out)
    assert megacpp("prune", "--older-than", "30d").out.startswith("0 runs removed")
    assert replay.exists()


def put_others_there(lane_dir: Path) -> set[str]:
    """What may lie among the runs 0 to 2 and is none of them, so that each would be the newest; their names."""
    runs = lane_dir / "runs"
    for name in ("notes", "20261399-120000-0000"):
        (runs / name).mkdir()
    (runs / "20991231-120000-0000").touch()
    shutil.copytree(runs / run_id_of(2), runs / f"{run_id_of(2)}.bak")
    elsewhere = write_run(lane_dir.parent / "elsewhere", 9, receipt("", GOOD))
    (runs / elsewhere.name).symlink_to(elsewhere)
    return {path.name for path in runs.iterdir()} - {run_id_of(number) for number in range(3)}


def test_only_runs_count_and_go(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(3):
        write_run(lane_dir, number, receipt("", GOOD))
    runs, others = lane_dir / "runs", put_others_there(lane_dir)
    done = megacpp("prune", "--keep", "1")
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in runs.iterdir()} == {*others, run_id_of(2)}
    assert megacpp("prune", "--keep", "0").code == 0
    assert {path.name for path in runs.iterdir()} == others
    assert (lane_dir.parent / "elsewhere" / "runs" / run_id_of(9) / "run.json").exists()


def test_only_runs_are_listed_and_counted(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(3):
        write_run(lane_dir, number, receipt("", GOOD))
    others = put_others_there(lane_dir)
    assert [run["run_id"] for run in json.loads(megacpp("runs", "--json").out)] == [run_id_of(n) for n in (2, 1, 0)]
    assert [run["run_id"] for run in json.loads(megacpp("runs", "--json", "--limit", "1").out)] == [run_id_of(2)]
    (one,) = json.loads(megacpp("history", "--json").out)
    assert [run["run_id"] for run in one["runs"]] == [run_id_of(number) for number in range(3)]
    assert f"both are run {run_id_of(2)}" in megacpp("diff", run_id_of(2)).err
    for command in ("show", "logs", "stacks", "diff"):
        for name in others:
            assert f"no run {name!r} in" in megacpp(command, name).err, (command, name)


def test_a_copy_is_read_by_its_path(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(3):
        write_run(lane_dir, number, receipt("", GOOD))
    put_others_there(lane_dir)
    for name in (f"{run_id_of(2)}.bak", run_id_of(9)):
        said = megacpp("diff", run_id_of(0), name)
        assert said.code == 2
        path = re.search(r"it is read by its path: (\S+)", said.err)
        assert path is not None
        assert megacpp("diff", run_id_of(0), path[1]).code == 0
    assert "by its path" not in megacpp("diff", "..").err


def test_removed_is_said_of_what_is(megacpp: Megacpp, lane_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs one can't be removed whole, of a third not even the name."""
    half, whole, stuck = (write_run(lane_dir, number, receipt("", GOOD)) for number in range(3))
    rmtree, rename = shutil.rmtree, Path.rename

    def broken(path: Path, **options: Any) -> None:
        if half.name in path.name and not options:
            raise PermissionError(13, "Permission denied", str(path / "receipts"))
        rmtree(path, **options)

    def refused(path: Path, target: Path) -> Path:
        if path == stuck:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(shutil, "rmtree", broken)
    monkeypatch.setattr(Path, "rename", refused)
    done = megacpp("prune", "--keep", "0")
    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines() if line.endswith("removed")] == [whole.name]
    assert done.out.splitlines()[-1].startswith("1 run removed, ")
    assert f"run {half.name} is only half removed, files of it are left in" in done.err
    assert f"run {stuck.name} can't be removed, it is as it was" in done.err
    assert stuck.exists()


def test_a_run_that_goes_on_meanwhile_stays(megacpp: Megacpp, lane_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the newer one is removed, somebody attaches to the older one."""
    older, newer = (write_run(lane_dir, number, receipt("", GOOD)) for number in range(2))
    rmtree = shutil.rmtree

    def slow(path: Path, **options: Any) -> None:
        (older / "run.json").write_text(json.dumps({"status": "running"}))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", slow)
    done = megacpp("prune", "--keep", "0")
    assert f"{older.name}  stays: it goes on" in done.out
    assert (older.exists(), newer.exists()) == (True, False)


def test_what_names_removed_runs_is_renewed(megacpp: Megacpp, lane_dir: Path) -> None:
    for number in range(3):
        write_run(lane_dir, number, receipt("", GOOD), receipt("", f"a.py::test_{number}"))
    megacpp("history", "--html")
    (lane_dir / "latest").write_text(f"{run_id_of(0)}\n")
    (lane_dir / "runs" / ".deleting-1").mkdir()
    megacpp("prune", "--keep", "2")
    assert (lane_dir / "latest").read_text().strip() == run_id_of(2)
    page = (lane_dir / "history.html").read_text()
    assert run_id_of(2) in page
    assert run_id_of(0) not in page
    assert not (lane_dir / "runs" / ".deleting-1").exists()
    megacpp("prune", "--keep", "0")
    assert not (lane_dir / "history.html").exists()
    assert not (lane_dir / "latest").exists()

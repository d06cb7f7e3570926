"""Output of ranks as it is shown with `-s`: from logs that grow."""

from pathlib import Path

import pytest

from pytest_megacpp.desk.hooks.rank_output import KEPT_BEHIND_BYTES, LINE_CHARS, LOOK_BYTES, RankOutput
from pytest_megacpp.desk.run.growing_log import LINE_BYTES
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.report.reporter import RunResults
from pytest_megacpp.report.run_json import RunMeta, RunStatus
from tests.scenario import FakeBox


class Ranks:
    """Ranks that write; `shows` returns what is new on the terminal."""

    def __init__(
        self, directory: Path, size: int = 3, shown: frozenset[int] = frozenset(), surface: str = "local"
    ) -> None:
        self._surface = surface
        self.box = FakeBox(size).starts_world()
        self._directory = directory
        self._output = RankOutput(shown)

    def write(self, rank: int, data: bytes, stream: str = "stdout", world: str = "w1") -> "Ranks":
        log = self._directory / "ranks" / world / str(rank) / f"{stream}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(data)
        return self

    def results(self) -> RunResults:
        plan = Plan("run-1", "h200x8", self._surface, "H200:8", 8, 3, True, False, (), (), "/")
        known = Redactor({}).text
        redact = lambda text: known(text).replace("hunter2", "[redacted]").replace("BEGIN\nEND", "[redacted]")  # noqa: E731
        meta = RunMeta(plan, "2026-01-01T00:00:00.000Z")
        timeline = self.box.timeline()
        return RunResults(meta, RunStatus.RUNNING, (), (), {}, timeline, redact, directory=self._directory)

    def shows(self) -> list[str]:
        lines = list(self._output.running(self.results()))
        assert all(line.plain and line.always for line in lines)
        return [line.text for line in lines]

    def with_result(self) -> list[str]:
        """With the first test's result."""
        return [line.text for line in self._output.tested(self.results(), 0)]

    def ends(self) -> list[str]:
        return [line.text for line in self._output.ended(self.results())]


def test_whole_lines_with_their_rank(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    assert ranks.shows() == []
    ranks.write(1, b"step 0\nstep").write(0, b"hello\n").write(1, b"warn\n", "stderr")
    assert ranks.shows() == ["[rank 0] hello", "[rank 1] step 0", "[rank 1] warn"]
    assert ranks.shows() == []
    ranks.write(1, b" 1\n\nlast")
    assert ranks.shows() == ["[rank 1] step 1", "[rank 1] "]
    assert ranks.ends() == ["[rank 1] last"]
    assert ranks.ends() == []


def test_only_the_chosen_ranks(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, shown=frozenset({0, 2, 9}))
    for rank in range(3):
        ranks.write(rank, b"x\n")
    assert ranks.shows() == ["[rank 0] x", "[rank 2] x"]


def test_each_world_has_logs_of_its_own_and_an_ended_one_its_last_words(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, size=1).write(0, b"first\nunfinished")
    assert ranks.shows() == ["[rank 0] first"]
    ranks.box.box(ev.WorldEnded("failure"))
    ranks.box.starts_world()
    ranks.write(0, b"second\n", world="w2")
    assert ranks.shows() == ["[rank 0] unfinished", "[rank 0] second"]
    assert ranks.shows() == []


def test_what_acts_on_a_terminal_or_is_secret_is_not_shown(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, size=1)
    ranks.write(0, b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x07 hunter2\n::error::x::\nBEGIN\nEND\n\xff\xfe\r\n")
    shown = ranks.shows()
    assert shown[0] == "[rank 0] red \\x07 [redacted]"
    assert shown[1].startswith("[rank 0] \\::error")
    assert shown[2] == "[rank 0] [redacted]"
    assert all(char.isprintable() for line in shown for char in line)


def test_a_rank_that_writes_faster_than_anybody_reads(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, size=1).write(0, b"first\n")
    assert ranks.shows() == ["[rank 0] first"]
    ranks.write(0, b"some line\n" * (KEPT_BEHIND_BYTES // 10 + 100_000)).write(0, b"the last line\n")
    shown = ranks.shows()
    assert "bytes left out: stdout.log of the rank has them" in shown[0]
    assert shown[-1] == "[rank 0] the last line"
    assert len(shown) < 10_000


def test_one_look_takes_so_much_of_all_logs_together(tmp_path: Path) -> None:
    """The desk reads no events meanwhile; no log is left out for ever."""
    ranks = Ranks(tmp_path, size=16)
    for rank in range(16):
        ranks.write(rank, f"line of {rank}\n".encode() * 20_000)
    looks = [ranks.shows() for _ in range(16)]
    assert all(sum(map(len, look)) < 4 * LOOK_BYTES for look in looks)
    assert {line.split("]")[0] for look in looks[:8] for line in look} == {f"[rank {rank}" for rank in range(16)}


def test_the_end_of_a_world_is_no_longer_than_a_look(tmp_path: Path) -> None:
    """The last lines are what matters most; how much is before them is said."""
    ranks = Ranks(tmp_path, size=16)
    for rank in range(16):
        ranks.write(rank, f"line of {rank}\n".encode() * 20_000).write(rank, b"last words")
    ranks.box.box(ev.WorldEnded("failure"))
    shown = ranks.shows()
    assert sum(map(len, shown)) < 4 * LOOK_BYTES
    assert sum(line.endswith("last words") for line in shown) == 16
    assert sum("bytes left out: stdout.log of the rank has them" in line for line in shown) == 16
    assert ranks.ends() == []


def test_a_key_that_is_written_over_two_looks(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, size=1)
    key = [b"-----BEGIN PRIVATE KEY-----", b"MIIEowIB" * 8, b"-----END PRIVATE KEY-----"]
    ranks.write(0, b"before\n" + key[0] + b"\n")
    assert ranks.shows() == ["[rank 0] before"]
    ranks.write(0, key[1] + b"\n").write(0, b"other\n", "stderr")
    assert ranks.shows() == ["[rank 0] other"]
    ranks.write(0, key[2] + b"\nafter\n")
    shown = ranks.shows()
    assert [line.removeprefix("[rank 0] ") for line in shown] == ["[redacted:private-key]", "after"]


def test_what_is_left_out_ends_between_lines(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, size=1)
    ranks.write(0, b"x" * 7 + b" a secret that is known as a whole\n" * (KEPT_BEHIND_BYTES // 35 + 100))
    first, *shown = ranks.shows()
    assert "bytes left out" in first
    assert set(shown) == {"[rank 0]  a secret that is known as a whole"}


@pytest.mark.parametrize("more", [5, 2 * LINE_BYTES])
def test_a_line_without_an_end(tmp_path: Path, more: int) -> None:
    """It is shown once it has one; the end of a long one is in the log. How much that is isn't known for every one."""
    ranks = Ranks(tmp_path, size=1).write(0, b"x" * (LINE_CHARS + more))
    assert ranks.shows() == []
    ranks.write(0, b"\n")
    shown = [line for _ in range(4) for line in ranks.shows()]
    assert shown == ["[rank 0] " + "x" * LINE_CHARS + " … the rest of the line is in ranks/w1/0/stdout.log"]


def test_a_log_that_its_box_has_cut(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, size=1).write(0, b"a line\n" * 100)
    assert len(ranks.shows()) == 100
    (tmp_path / "ranks" / "w1" / "0" / "stdout.log").write_bytes(b"cut\n")
    assert ranks.shows() == ["[rank 0] …", "[rank 0] cut"]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(parents=True), lambda path: None])
def test_a_log_that_cannot_be_read_is_nothing_yet(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "ranks" / "w1" / "0" / "stdout.log")
    assert Ranks(tmp_path, size=1).shows() == []


def test_output_of_a_box_elsewhere_comes_with_the_result(tmp_path: Path) -> None:
    """Once, although its logs arrive at the end as well, and a drill's result is reported twice."""
    ranks = Ranks(tmp_path, surface="modal", shown=frozenset({1}))
    ranks.box.readies().collects().begins()
    ranks.box.writes(0, "not asked for\n").writes(1, "a\x07\nhunter2\n").passes().ends()
    assert ranks.shows() == []
    assert ranks.with_result() == ["[rank 1] a\\x07", "[rank 1] [redacted]"]
    ranks.write(1, b"a\nb\n")
    assert (ranks.with_result(), ranks.shows(), ranks.ends()) == ([], [], [])

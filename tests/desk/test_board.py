"""The board on a terminal to which pytest's own reporter writes as well."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from pytest_megacpp.desk.hooks.board import TerminalBoard, rendered
from pytest_megacpp.desk.hooks.terminal import LINE_CHARS
from pytest_megacpp.desk.hooks.terminal import Terminal as PytestTerminal
from pytest_megacpp.report.reporter import Board, Line, Span, Style
from tests.terminal import Terminal

pytest_plugins = "pytester"

ROWS = Board(
    (
        (Span("h200x8 ", Style.STRONG), Span("3/12 tests · 1:41")),
        (
            Span("0:41  "),
            Span("test_step.py::test_step[" + "x" * 80 + "-last]", cut=True),
            Span(" · 1:28 of skew left"),
        ),
        (Span("> 5  compiling for 12 s", Style.AWAITED),),
    )
)


@dataclass
class Desk:
    """pytest's reporter and the board on one terminal."""

    reporter: Any
    shows: PytestTerminal
    terminal: Terminal
    config: pytest.Config


Start = Callable[..., Desk]


@pytest.fixture
def start(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start(columns, lines, *args)`: a desk whose session has these arguments."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    terminals, files = [], []

    def desk(columns: int = 80, lines: int = 24, *args: str) -> Desk:
        terminal = Terminal(columns, lines).__enter__()
        terminals.append(terminal)
        config = pytester.parseconfigure("-p", "no:megacpp", "-p", "no:xdist", *args)
        files.append(os.fdopen(os.dup(terminal.program), "w", encoding="utf-8"))
        reporter = TerminalReporter(config, files[-1])
        reporter._tw.fullwidth = columns
        if (own := config.pluginmanager.get_plugin("terminalreporter")) is not None:
            config.pluginmanager.unregister(own)
        config.pluginmanager.register(reporter, "terminalreporter")
        return Desk(reporter, PytestTerminal(config), terminal, config)

    yield desk
    for file in files:
        file.close()
    for terminal in terminals:
        terminal.__exit__(None, None, None)


def ended(desk: Desk) -> list[str]:
    """All lines once everything was written."""
    desk.reporter._tw._file.close()
    desk.terminal.close()
    return [line for line in desk.terminal.everything() if line]


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("lines", [8, 24])
def test_results_stand_where_they_would_have_stood(start: Start, columns: int, lines: int) -> None:
    """Also at the bottom of the screen, where drawing scrolls, in the middle of a line and between results."""
    desk = start(columns, lines)
    reporter = desk.reporter
    for number in range(lines):
        reporter.write_line(f"line {number}")
        desk.shows.show([ROWS])
        desk.shows.show([Board()])
    reporter.write("test_step.py ")
    for letter in "..F.":
        desk.shows.show([ROWS])
        desk.shows.show([ROWS])
        desk.shows.show([Board()])
        reporter.write(letter)
    desk.shows.show([ROWS])
    desk.shows.show([Board()])
    reporter.line("")
    reporter.section("summary")
    found = ended(desk)
    assert found[: lines + 1] == [*(f"line {n}" for n in range(lines)), "test_step.py ..F."]
    assert found[lines + 1].strip("=") == " summary "
    assert len(found) == lines + 2
    assert desk.terminal.has_seen(lambda screen: any(line.startswith("h200x8 3/12 tests") for line in screen))


def test_the_board_is_below_the_line_that_pytest_writes(start: Start) -> None:
    desk = start(80, 24)
    desk.reporter.write("test_step.py ..")
    desk.shows.show([ROWS])
    desk.reporter.write("F")
    ended(desk)
    *_, last = (screen for screen in desk.terminal.seen if any("compiling" in line for line in screen))
    assert [line for line in last if line] == [
        "test_step.py ..F",
        "h200x8 3/12 tests · 1:41",
        "0:41  test_step.py::test_step[xx…xxxxxxxxxxxxxxxxxxxx-last] · 1:28 of skew left",
        "> 5  compiling for 12 s",
    ]


def test_the_rows_of_several_runs_stand_below_each_other(start: Start) -> None:
    """Each run is looked at by itself; the rows of one that is over go."""
    desk = start(80, 24)
    desk.reporter.write("test_step.py ..")
    for name in ("a", "b"):
        desk.shows.show([Board(((Span(f"{name} 1/3"),),), of=name)])
    desk.shows.show([Board(((Span("a 2/3"),),), of="a")])
    desk.shows.show([Board(of="b")])
    desk.shows.show([Board()])
    assert ended(desk) == ["test_step.py .."]
    shown = [[line for line in screen[1:] if line] for screen in desk.terminal.seen]
    assert ["a 1/3", "b 1/3"] in shown
    assert ["a 2/3", "b 1/3"] in shown
    assert ["a 2/3"] in shown


def test_an_empty_line_is_taken_for_the_first_row(start: Start) -> None:
    desk = start(80, 24)
    desk.reporter.write_line("collected")
    desk.shows.show([ROWS])
    desk.shows.show([ROWS])
    desk.shows.show([Board()])
    desk.reporter.write("test_step.py .")
    assert ended(desk) == ["collected", "test_step.py ."]
    (drawn,) = {tuple(screen[:3]) for screen in desk.terminal.seen if any("compiling" in line for line in screen)}
    assert drawn[:2] == ("collected", "h200x8 3/12 tests · 1:41")


def test_a_line_that_is_said_goes_above_it(start: Start) -> None:
    desk = start(80, 24)
    desk.reporter.write("test_step.py ..")
    desk.shows.show([ROWS])
    desk.shows.show([Line("seed warm")])
    desk.shows.show([Line("[rank 3] step 0", plain=True)])
    desk.shows.show([Board()])
    desk.shows.show([Line("the end")])
    assert ended(desk) == ["test_step.py ..", "megacpp: seed warm", "[rank 3] step 0", "megacpp: the end"]
    assert desk.terminal.has_seen(lambda screen: "[rank 3] step 0" in screen and "> 5  compiling for 12 s" in screen)


def test_a_line_that_ends_at_the_edge_is_left_alone(start: Start) -> None:
    """Where the cursor is then, terminals do not agree."""
    desk = start(80, 24)
    desk.reporter.write("x" * 80)
    desk.shows.show([ROWS])
    desk.reporter.write("y")
    assert ended(desk) == ["x" * 80, "y"]


def test_once_results_are_over_it_has_a_line_of_its_own(start: Start) -> None:
    """The last line of results is as wide as the terminal, and only a new line can follow."""
    desk = start(80, 24)
    desk.reporter.write("x" * 80)
    desk.shows.results_are_over()
    for _ in range(2):
        desk.shows.show([ROWS])
    desk.shows.show([Board()])
    desk.reporter.line("")
    desk.reporter.section("summary")
    first, title = ended(desk)
    assert first == "x" * 80
    assert title.strip("=") == " summary "
    assert desk.terminal.has_seen(lambda screen: screen[1].startswith("h200x8 3/12 tests"))


def test_a_line_longer_than_the_terminal(start: Start) -> None:
    desk = start(80, 24)
    desk.reporter.write("x" * 100)
    desk.shows.show([ROWS])
    desk.shows.show([Board()])
    desk.reporter.write("y")
    assert ended(desk) == ["x" * 80, "x" * 20 + "y"]


def test_many_lines_of_one_look_are_one_drawing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than hundreds of lines, and the desk reads no events meanwhile."""
    desk = start(80, 24)
    drawings: list[Sequence[Sequence[Span]]] = []

    def counted(rows: Sequence[Sequence[Span]], columns: int, *, colours: bool) -> list[str]:
        drawings.append(rows)
        return rendered(rows, columns, colours=colours)

    monkeypatch.setattr("pytest_megacpp.desk.hooks.board.rendered", counted)
    desk.shows.show([ROWS])
    lines = [Line(f"[rank 0] {n}", plain=True) for n in range(500)]
    desk.shows.show([*lines[:300], ROWS, *lines[300:]])
    assert len(drawings) == 2
    desk.shows.show(lines[:100])
    assert len(drawings) == 3
    desk.shows.show([lines[0], Board()])
    assert len(drawings) == 3
    shown = ended(desk)
    assert shown == [line.text for line in [*lines, *lines[:100], lines[0]]]
    assert desk.terminal.has_seen(lambda screen: "[rank 0] 99" in screen and "h200x8 3/12 tests · 1:41" in screen)


def test_a_line_that_is_too_long_says_so(start: Start) -> None:
    desk = start(80, 24)
    desk.shows.show([Line("x" * (LINE_CHARS + 7), plain=True)])
    assert "".join(ended(desk)) == "x" * LINE_CHARS + " … 7 more characters"


@pytest.mark.parametrize(("columns", "lines"), [(0, 0), (19, 24), (80, 2)])
def test_a_terminal_without_room_gets_lines(start: Start, columns: int, lines: int) -> None:
    """As a terminal of a container whose size nobody set: whoever asks shows lines instead of a board."""
    desk = start(80, 24)
    board = TerminalBoard.of(desk.config)
    assert board.is_possible()
    desk.terminal.resize(columns, lines)
    assert not board.is_possible()
    desk.terminal.resize(80, 24)
    assert board.is_possible()


def test_a_terminal_whose_shell_has_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `bg`: what somebody types stands where the board would be."""
    desk = start(80, 24)
    assert TerminalBoard.of(desk.config).is_possible()
    monkeypatch.setattr(os, "tcgetpgrp", lambda file: os.getpgrp() + 1)
    assert not TerminalBoard.of(desk.config).is_possible()


def test_a_terminal_that_gets_smaller(start: Start) -> None:
    desk = start(120, 24)
    desk.reporter.write("test_step.py ..")
    desk.shows.show([ROWS])
    desk.terminal.resize(60, 5)
    desk.shows.show([ROWS])
    file = desk.reporter._tw._file
    desk.terminal.resize(60, 2)
    desk.shows.show([ROWS])
    assert not file.closed
    desk.reporter.write("F")
    assert ended(desk) == ["test_step.py ..F"]
    rows = [line for screen in desk.terminal.seen for line in screen if line.startswith("0:41")]
    assert max(map(len, rows)) > 60
    assert min(map(len, rows)) < 60


@pytest.mark.parametrize("args", [("-q",), ("--log-cli-level=INFO",)])
def test_where_somebody_wants_no_board_or_writes_meanwhile(start: Start, args: tuple[str, ...]) -> None:
    desk = start(80, 24, *args)
    assert not TerminalBoard.of(desk.config).is_possible()
    desk.shows.show([ROWS])
    assert ended(desk) == []


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", ""), ("CI", "true")])
def test_where_nobody_looks_or_the_cursor_cannot_go_back(start: Start, name: str, value: str) -> None:
    desk = start()
    environ = {"TERM": "xterm", name: value}
    assert not TerminalBoard(desk.config, environ).is_possible()
    assert TerminalBoard(desk.config, {"TERM": "xterm"}).is_possible()


def test_no_terminal(pytester: pytest.Pytester, tmp_path: Path) -> None:
    config = pytester.parseconfig("-p", "no:megacpp")
    with (tmp_path / "out").open("w") as file:
        config.pluginmanager.register(TerminalReporter(config, file), "terminalreporter")
        assert not TerminalBoard(config, {"TERM": "xterm"}).is_possible()
    config.pluginmanager.unregister(name="terminalreporter")
    assert not TerminalBoard(config, {"TERM": "xterm"}).is_possible()


def test_drawing_that_fails_says_so_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = start(120, 24)
    monkeypatch.setattr("pytest_megacpp.desk.hooks.board.rendered", lambda *_, **__: 1 / 0)
    desk.reporter.write("test_step.py ..")
    for _ in range(3):
        desk.shows.show([ROWS])
    desk.shows.show([Line("still here")])
    assert not TerminalBoard.of(desk.config).is_possible()
    assert ended(desk) == [
        "test_step.py ..",
        "megacpp: the board can't be drawn (ZeroDivisionError: division by zero): lines instead",
        "megacpp: still here",
    ]


def test_no_row_is_wider_than_the_terminal_nor_acts_on_it() -> None:
    hostile = "\x1b[2J\x1b]0;title\x07[red]x[/red] :boom: 漢字\u202e" * 20
    board = Board(((Span(hostile, cut=True), Span("the end")), (Span(hostile),), (Span("short"),)))
    for columns in range(20, 90):
        rows = rendered(board.rows, columns, colours=False)
        assert all(char.isprintable() for row in rows for char in row)
        assert all(_width(row) <= columns for row in rows)
        assert rows[0].endswith("the end")
        assert rows[2] == "short"
        assert "[red]x[/red]" in rendered(board.rows, 900, colours=False)[0]


def _width(text: str) -> int:
    return sum(2 if "一" <= char <= "鿿" else 1 for char in text)


def test_colours_where_pytest_has_some() -> None:
    assert "\x1b[1;33m" in rendered(ROWS.rows, 80, colours=True)[2]
    assert not any("\x1b" in row for row in rendered(ROWS.rows, 80, colours=False))

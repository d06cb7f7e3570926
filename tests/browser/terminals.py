"""Owns how a terminal with the board looks as a picture: a kept drill, a moment before the box ends it."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from pytest_megacpp.desk.hooks.board import SPARE_COLUMNS, rendered
from pytest_megacpp.report.live import Now, Tally, board_rows
from pytest_megacpp.report.text import headline
from tests.golden.drills import cases
from tests.golden.live import moments

COLUMNS = 100
MARGIN = 9
CELL = 12.2, 24.4  # a character as rich draws it
# Without the fonts that rich's own format gets from a network.
FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="-MARGIN -MARGIN VIEW" width="1000">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px "DejaVu Sans Mono", monospace; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#0c0c0c" x="-MARGIN" y="-MARGIN" width="100%" height="100%" rx="8"/>
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</svg>
"""


def board_of(nodeid: str, failed: str) -> str:
    """An SVG: what somebody sees of test `nodeid`, after `failed`. How far the run is, is made up."""
    drills = cases.load()
    *_, live = moments(drills[nodeid].recording)
    failure = failed, headline(cases.judged(drills[failed].recording))
    now = Now(Tally(2, 12, 101.0, 250.0, failed=1), (live,), failures=(failure,))
    rows = rendered(board_rows(now, "h200x8"), COLUMNS - SPARE_COLUMNS, colours=True)
    before, begun = (test.partition("::")[0] for test in (failed, nodeid))
    return _picture(["$ pytest -m h200x8", "…", f"{before} \x1b[32m.\x1b[31mF\x1b[0m", begun, *rows])


def _picture(lines: Sequence[str]) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    width, height = COLUMNS * CELL[0], len(lines) * CELL[1]
    view = f"{width + 2 * MARGIN:.0f} {height + 2 * MARGIN:.0f}"
    drawn = FORMAT.replace("VIEW", view).replace("MARGIN", str(MARGIN))
    return console.export_svg(theme=MONOKAI, code_format=drawn, unique_id="board")

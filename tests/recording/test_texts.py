"""What is left of texts that are too long, before secrets are taken out of them."""

import ast
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_megacpp.plugin
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.texts import beginning, cut_middle, ending, guarded
from tests.recording.test_redact import JWT, PEM, SECRETS

PACKAGE = Path(pytest_megacpp.plugin.__file__).parent
TOKEN, WORDS = "Zq81kdLs0-vmwPq33xxR", "horses staple batteries"
REDACTOR = Redactor({"API_TOKEN": TOKEN, "DB_PASSWORD": WORDS})
HALF_CHARS = 6
Cut = Callable[[str, int], str]
AROUND = {
    "in a line of its own": "a word\n{}\nand more",
    "in a line": "the token was {} and more",
    "quoted": "{{'token': '{}', 'more': 1}}",
    "assigned": "some text\nDB_PASSWORD = {}\n",
}


class TimedOut(BaseException):
    """As pytest-timeout's."""


def time_out(*_: object) -> None:
    raise TimedOut


def time_out_with_a_note(*_: object, note: object = None) -> None:
    raise TimedOut(note)


class Watch:
    def time_out(self, *args: object, note: object = None) -> None:
        raise TimedOut(note, *args)


@pytest.fixture
def timer() -> Iterator[Callable[[float], object]]:
    before = signal.signal(signal.SIGALRM, time_out)
    yield lambda after_s: signal.setitimer(signal.ITIMER_REAL, after_s)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_what_a_handler_of_a_signal_raises_is_no_answer(timer: Callable[[float], object]) -> None:
    timer(0.02)
    with pytest.raises(TimedOut):
        guarded(lambda: time.sleep(30), None)


@pytest.mark.parametrize("handler", [time_out_with_a_note, Watch().time_out])
def test_however_it_takes_its_arguments(timer: Callable[[float], object], handler: Callable[..., None]) -> None:
    signal.signal(signal.SIGALRM, handler)
    timer(0.02)
    with pytest.raises(TimedOut):
        guarded(lambda: time.sleep(30), None)


def test_nor_is_an_interrupt() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            guarded(partial(signal.raise_signal, signal.SIGINT), None)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("timer")
@pytest.mark.parametrize("error", [TimedOut, SystemExit, RecursionError])
def test_whatever_else_an_object_raises_is(error: type[BaseException]) -> None:
    def read() -> str:
        raise error

    assert guarded(read, "otherwise") == "otherwise"


class Namespace(dict[str, object]):
    def values(self) -> NoReturn:
        raise TypeError


def of_its_caller() -> str:
    frame = sys._getframe(1)
    raise ValueError(frame.f_lineno)


def of_any_names() -> str:
    exec("raise ValueError", {}, Namespace())
    return ""


@pytest.mark.parametrize("read", [of_its_caller, of_any_names])
def test_an_object_that_looks_at_frames_is_no_handler(read: Callable[[], str]) -> None:
    assert guarded(read, "otherwise") == "otherwise"


def shown_halves(text: str, secret: str) -> list[str]:
    return [half for half in (secret[:HALF_CHARS], secret[-HALF_CHARS:]) if half in text]


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("secret", [TOKEN, JWT, *(SECRETS[kind][1] for kind in ("github", "modal-drawn", "npm"))])
def test_no_half_of_a_secret_is_left(secret: str, around: str) -> None:
    text = "y " * 30 + "\n" + around.format(secret) + "\n" + "z " * 30
    for limit in range(len(text)):
        for cut in (beginning(text, limit), ending(text, limit), cut_middle(text, limit)):
            assert not shown_halves(REDACTOR.text(cut), secret), cut


def test_an_ending_begins_with_a_line_of_which_all_is_known() -> None:
    text = "some text\nDB_PASSWORD = hunter2\nsaid " + WORDS + "\nand more"
    for limit in range(len(text)):
        shown = REDACTOR.text(ending(text, limit))
        assert "hunter2" not in shown
        assert not shown_halves(shown, WORDS)


@pytest.mark.parametrize("newline", ["\n", "\nE   ", "\\n"])
@pytest.mark.parametrize("cut", [beginning, ending, cut_middle])
def test_no_line_of_a_private_key_is_left(cut: Cut, newline: str) -> None:
    lines = [f"{n:02}" + "aB3/" * 15 for n in range(40)]
    key = newline.join((*PEM.splitlines()[:1], *lines, PEM.splitlines()[-1]))
    text = f"before it\n{key}\nand behind it"
    for limit in range(10, len(text), 7):
        assert "aB3/aB3/" not in REDACTOR.text(cut(text, limit)), limit


@given(st.text(max_size=60), st.integers(0, 40))
def test_ends_are_ends_and_short_texts_stay(text: str, limit: int) -> None:
    head, tail, cut = beginning(text, limit), ending(text, limit), cut_middle(text, limit)
    assert text.startswith(head)
    assert text.endswith(tail)
    if len(text) <= limit:
        assert head == tail == cut == text
    else:
        assert max(len(head), len(tail)) <= limit
        head, tail = beginning(text, limit // 2), ending(text, limit // 2)
        assert cut == f"{head}\n… {len(text) - len(head) - len(tail)} characters cut …\n{tail}"


def test_a_long_text_without_a_space_is_not_lost() -> None:
    assert len(beginning("x" * 50_000, 24_000)) > 16_000
    assert len(ending("x" * 50_000, 24_000)) > 16_000


NO_TEXTS = {
    "rank.compile_counts: str(key)[:KEY_CHARS]": "a key of a compile cache, by which the box finds its files",
    "rank.lane: f'digest {digest.hexdigest()[:16]} {described}'[:SIGNATURE_BYTES]": "a tensor's, read by peers",
    "rank.hot_reads: os.fsencode(path)[:PATH_BYTES]": "compared with paths, in shared memory",
    "box.desk_commands: tail[:MAX_WORD_BYTES]": "commands of the desk",
}


def cuts(path: Path) -> Iterator[str]:
    """Slices by a number of characters or bytes: names of constants say so, and numbers of things are small."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            bounds = [bound for bound in (node.slice.lower, node.slice.upper) if bound is not None]
            for bound in [b.operand if isinstance(b, ast.UnaryOp) else b for b in bounds]:
                number = isinstance(bound, ast.Constant) and isinstance(bound.value, int) and bound.value >= 100
                if number or (isinstance(bound, ast.Name) and bound.id.endswith(("_CHARS", "_BYTES"))):
                    yield ast.unparse(node)


def test_nothing_that_a_rank_or_box_tells_is_cut_in_another_way() -> None:
    found = {
        f"{part}.{path.stem}: {cut}"
        for part in ("rank", "box")
        for path in sorted((PACKAGE / part).rglob("*.py"))
        for cut in cuts(path)
    }
    assert found == NO_TEXTS.keys()

"""What a desk says to its box, from one end to the other."""

import pytest

from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.commands import Word, read_word, word_line
from pytest_megacpp.recording.plan import Again, Enough, Look, Stop
from pytest_megacpp.recording.vocabulary import Purpose, RunEnd

WORDS = (
    Again(3, Purpose.WARM_UP, 7),
    Enough(0),
    Look(),
    Look("3f"),
    Stop(RunEnd.STOPPED),
    Stop(RunEnd.INTERRUPTED, by_command=True),
    Stop(RunEnd.INTERRUPTED, why="Ctrl-C"),
)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_arrives_as_it_was_said(word: Word) -> None:
    line = word_line(word)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert read_word(line) == word


@pytest.mark.parametrize("line", [b"{}", b'{"fetched":true}', b'{"later":{"item":1}}'])
def test_what_is_no_word_is_none(line: bytes) -> None:
    assert read_word(line) is None


def test_a_stop_for_a_reason_of_tomorrow_is_a_stop() -> None:
    """A newer desk may follow an older box (`--attach`)."""
    assert read_word(b'{"stop":{"reason":"of-tomorrow"}}') == Stop(RunEnd.STOPPED)


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b'{"enough":true}',
        b'{"enough":{"item":true}}',
        b'{"enough":{"item":1.5}}',
        b'{"again":{"item":1}}',
        b'{"again":{"item":1,"purpose":["warm-up"],"after":1}}',
        b'{"again":{"item":1,"purpose":"of-tomorrow","after":1}}',
        b'{"stop":"stopped"}',
    ],
)
def test_a_malformed_word_is_refused(line: bytes) -> None:
    with pytest.raises(CodecError):
        read_word(line)

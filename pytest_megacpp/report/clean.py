"""Owns making what a rank wrote safe and short enough to show; must not know where it is shown.

Terminal sequences are dropped, every other character that acts instead of showing (C0, C1, bidirectional and
invisible ones, lone surrogates) is shown as its escape, and so is what a CI system reads as a command (GitHub's
`::name::` at the beginning of a line, `##[name]` anywhere). Texts are bounded in the middle: a traceback's first and
last lines matter most. Redact before: half a secret has no shape.
"""

import re
from collections.abc import Sequence

_SEQUENCE = re.compile(  # no body holds what begins one, so that a text full of beginnings takes no longer than others
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f\n]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS: titles
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
_LINE_END = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_COMMAND = re.compile(r"^([^\S\n]*)(?=::[^\n]*::)|(?<=#)(?=#\w*\[)", re.MULTILINE)
TAB = "    "


def clean(text: str) -> str:
    """`text` as lines that a terminal, a CI log or a file shows as they are."""
    text = _LINE_END.sub("\n", _SEQUENCE.sub("", text)).replace("\t", TAB)
    text = _ACTING.sub(lambda match: _escape(match[0]), text)
    return _COMMAND.sub(r"\1\\", text)


def one_line(text: str, limit: int = 300) -> str:
    """`text` cleaned, its white space folded to single blanks, no longer than `limit` characters."""
    line = " ".join(clean(text[: 16 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def bounded_lines(text: str, *, lines: int, columns: int = 500) -> list[str]:
    """The cleaned lines of `text`, at most `lines` and one mark: a third from its start, the rest from its end."""
    found = [_cut(line.rstrip(), columns) for line in clean(text).strip("\n").split("\n")]
    if len(found) <= lines:
        return found
    head = lines // 3
    tail = lines - head
    return [*found[:head], f"… {len(found) - lines} lines cut …", *found[-tail:]]


def useful_lines(text: str) -> Sequence[str]:
    """The cleaned lines of an output that say something, in order."""
    return [line for line in clean(text).split("\n") if line.strip()]


def _cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else f"{line[:columns]}…"


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escaped(text: str, encoding: str | None) -> str:
    """The text with escapes for characters that an output's encoding lacks; None stands for UTF-8."""
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)

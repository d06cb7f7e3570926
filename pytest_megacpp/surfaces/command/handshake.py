"""Owns the first exchange with a far program: its greeting amid whatever else is said there, what it is and what it
refuses; must not know how the connection is made.

Pure: bytes in, lines out. What is not the far program's own (a banner, a scheduler's prologue) is kept for error texts.
"""

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

NOISE_BYTES = 16 << 10
MAX_LINE_BYTES = 64 << 10
_MARK = b"#megacpp "
GREETER = (
    "import sys; sys.path = [p for p in sys.path if p]; f = sys.stdin.buffer; print(); "
    'print("#megacpp", sys.argv[2], flush=True); d = {}; exec(f.read(int(f.readline())), d); sys.exit(d["main"](f))'
)
"""What a far Python runs with the run's id and a token: greets, and runs the program that it is then sent. It has to
stand on a command line, so it is one line without quotes that shells treat differently.
"""


@dataclass
class Greeting:
    """Waits for the line with its own token. `rest` is what came behind it, `noise` what came before; `is_terminal`:
    the line's end was changed on the way, as terminals do.
    """

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    is_heard: bool = False
    is_terminal: bool = False
    rest: bytes = b""
    _before: bytearray = field(default_factory=bytearray)

    @property
    def noise(self) -> str:
        return bytes(self._before).decode(errors="replace")

    def feed(self, data: bytes) -> None:
        """Takes bytes, until the greeting `is_heard`."""
        self._before += data
        wanted = b"\n" + _MARK + self.token.encode()
        at = self._before.find(wanted)
        end = self._before.find(b"\n", at + len(wanted)) if at >= 0 else -1
        if end < 0:
            del self._before[: -NOISE_BYTES - len(wanted)]
            return
        self.is_heard = True
        self.is_terminal = self._before[end - 1 : end] == b"\r"
        self.rest = bytes(self._before[end + 1 :])
        del self._before[at:]


def far_words(python: str, run_id: str, token: str) -> list[str]:
    """The far program as words of a command; the id is for whoever lists processes there."""
    return [python, "-c", GREETER, run_id, token]


def sent_program(source: bytes, request: dict[str, Any]) -> bytes:
    """What the greeter is sent: the program, then the line that says what is wanted of it."""
    return b"%d\n%s%s\n" % (len(source), source, json.dumps(request).encode())


@dataclass
class Answers:
    """Reads `#word {…}` lines; others are passed over. `rest` is what hasn't been read."""

    rest: bytes = b""

    def next(self, data: bytes) -> tuple[str, dict[str, Any]] | None:
        """Takes bytes; returns the next word with its facts, None until more has arrived."""
        self.rest += data
        while b"\n" in self.rest:
            line, _, self.rest = self.rest.partition(b"\n")
            if (found := _answer(line)) is not None:
                return found
        if len(self.rest) > MAX_LINE_BYTES:
            self.rest = b""
        return None


def _answer(line: bytes) -> tuple[str, dict[str, Any]] | None:
    word, _, facts = line.partition(b" ")
    if not word.startswith(b"#"):
        return None
    try:
        document = json.loads(facts)
    except (ValueError, RecursionError):
        return None
    return (word[1:].decode(errors="replace"), document) if isinstance(document, dict) else None

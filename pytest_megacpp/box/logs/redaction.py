"""Owns taking secrets out of a log file in place; must not know what a secret is, nor whose log it is."""

import contextlib
import os
import stat
import sys
from typing import IO, Any

from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.recording.secret_shapes import KEY_ENDS, OPEN_KEY

PORTION_CHARS = 4 << 20
MAX_KEY_CHARS = 64 << 10
_AS_WRITTEN: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def _for_us(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _rest_of_key(log: IO[str], portion: str) -> str:
    """Returns what follows in the log of a private key that `portion` ends in: its lines alone don't show that they are
    one.
    """
    rest: list[str] = []
    left = MAX_KEY_CHARS if OPEN_KEY.search(portion) else 0
    while left > 0 and (line := log.readline(MAX_KEY_CHARS)):
        rest.append(line)
        left = 0 if KEY_ENDS in line else left - len(line)
    return "".join(rest)


def redact_file(path: str, redactor: Redactor) -> bool:
    """Takes secrets out of a log in place, portion by portion; leaves a clean one untouched, and its permissions as
    they are. Returns whether no secret is left.
    """
    beside = f"{path}.tmp"
    try:
        with open(path, **_AS_WRITTEN) as log, open(beside, "w", opener=_for_us, **_AS_WRITTEN) as copy:
            if sys.platform != "win32":
                os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(log.fileno()).st_mode))
            changed = False
            while portion := log.read(PORTION_CHARS) + log.readline(PORTION_CHARS):
                portion += _rest_of_key(log, portion)
                cleaned = redactor.text(portion)
                changed = changed or cleaned != portion
                copy.write(cleaned)
        os.replace(beside, path) if changed else os.unlink(beside)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        return False
    return True

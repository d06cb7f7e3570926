"""Owns streaming a run to a remote desk: the recording from a byte offset on, then the logs; must not know a run.

`python -m pytest_megacpp.box.remote.follow DIRECTORY OFFSET`. Standard output carries whole lines of the recording as
they are, and between them lines that begin with `#`: `#beat` while nothing happens, so that a silent network is
noticed, `#up-to-date` once all that was recorded before the follower began has been sent,
`#file {"path":…,"bytes":…}` before the raw bytes of a log, `#end {"status":…}` after the last. Standard input carries
the desk's lines, JSON objects: any line renews the lease, words (`recording.commands`) are for the box,
{"fetched": true} lets the box go. A follower whose desk is silent ends by itself.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_megacpp.box.remote.control import Control, Desk

POLL_S = 0.01
BEAT_S = 2.0
SILENT_S = 60.0
PORTION_BYTES = 1 << 20  # of the recording, each time
LOG_BYTES = 4 << 20  # of one log, its end
LOGS_BYTES = 64 << 20  # of all logs together


def main(directory: str, offset: str) -> int:
    control = Control(Path(directory))
    desk = Desk(control)
    return follow(Path(directory), int(offset), control, lambda: time.monotonic() - desk.heard_s > SILENT_S)


def follow(run: Path, offset: int, control: Control, is_desk_gone: Callable[[], bool]) -> int:
    """Says everything to the desk; returns 0 once it has fetched that, 1 if it is gone before the box has ended."""
    _say(b"#beat\n")
    for line in _lines(run / "recording.jsonl", offset, control, is_desk_gone):
        _say(line)
    if control.ended() is None:
        return 1
    for path, data in _logs(run):
        head = json.dumps({"path": path, "bytes": len(data)})
        _say(f"#file {head}\n".encode())
        _say(data)
    _say(f"#end {json.dumps({'status': control.ended()})}\n".encode())
    while not control.fetched() and not is_desk_gone():
        time.sleep(POLL_S)
    return 0


def _lines(recording: Path, offset: int, control: Control, is_desk_gone: Callable[[], bool]) -> Iterator[bytes]:
    """Yields whole lines until the box has ended, and signs of life between them; a torn last line at the very end."""
    tail, said_s, is_up_to_date = b"", time.monotonic(), False
    while not is_desk_gone():
        ended = control.ended() is not None  # before reading: what is written later than this is read next time
        data = _read(recording, offset)
        offset += len(data)
        is_at_end = len(data) < PORTION_BYTES
        *lines, tail = (tail + data).split(b"\n")
        if lines:
            yield b"".join(line + b"\n" for line in lines)
            said_s = time.monotonic()
        if is_at_end and not is_up_to_date:
            is_up_to_date = True
            yield b"#up-to-date\n"
        if lines or not is_at_end:
            continue
        if ended:
            if tail:
                yield tail + b"\n"
            return
        if time.monotonic() - said_s > BEAT_S:
            yield b"#beat\n"
            said_s = time.monotonic()
        else:
            time.sleep(POLL_S)


def _read(recording: Path, offset: int) -> bytes:
    try:
        with recording.open("rb") as file:
            file.seek(offset)
            return file.read(PORTION_BYTES)
    except OSError:
        return b""


def _logs(run: Path) -> Iterator[tuple[str, bytes]]:
    """Yields every log with its path in the run, as long as there is room."""
    left = LOGS_BYTES
    for path in [*sorted(run.glob("*.log")), *sorted(run.glob("ranks/*/*/*.log"))]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            data = file.read(LOG_BYTES)
            if len(data) <= left:
                left -= len(data)
                yield str(path.relative_to(run)), data


def _say(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

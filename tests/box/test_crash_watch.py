"""A crashing process is looked at while it stands still, and what it says ends up in its log."""

import socket
from pathlib import Path

import pytest

from pytest_megacpp.box.look.watch import MAX_DUMP_BYTES, CrashWatch, RankWatch, Target


class Looking(RankWatch):
    """Notes how much the process had got rid of when it was looked at."""

    def __init__(self, log: Path, ours: socket.socket) -> None:
        self.target = Target(3, 1, "", ("", str(log)))
        self.seen: list[str] = []
        self._log = log
        self._ours = ours

    def last_look(self) -> None:
        self.seen.append(self._log.read_text())


def crash(log: Path, *words: bytes) -> Looking:
    ours, theirs = socket.socketpair()
    looking = Looking(log, ours)
    watch = CrashWatch(ours, looking)
    watch.start()
    for word in words:
        theirs.sendall(word)
    theirs.close()
    watch.join(10)
    assert not watch.is_alive()
    ours.close()
    return looking


def test_the_look_comes_before_anything_is_taken_off_the_process(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    log.write_text("before\n")
    looking = crash(log, b"Fatal Python error: Aborted\n", b"\nThread 0x1\n" * 5_000)
    assert looking.seen == ["before\n"]
    assert log.read_text() == "before\nFatal Python error: Aborted\n" + "\nThread 0x1\n" * 5_000


def test_a_process_that_ends_in_peace_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").touch()
    assert crash(tmp_path / "stderr.log").seen == []


def test_where_the_log_can_not_be_written_the_process_may_go_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").touch()
    ours, theirs = socket.socketpair()
    looking = Looking(tmp_path / "stderr.log", ours)
    looking.target = Target(3, 1, "", ("", str(tmp_path / "gone" / "stderr.log")))
    CrashWatch(ours, looking).start()
    theirs.settimeout(10)
    theirs.sendall(b"Fatal Python error: Aborted\n" * 50_000)
    theirs.close()


def test_a_dump_without_an_end_is_refused_and_does_not_fill_the_disk(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    log.touch()
    ours, theirs = socket.socketpair()
    watch = CrashWatch(ours, Looking(log, ours))
    watch.start()
    theirs.settimeout(10)
    with pytest.raises(BrokenPipeError):
        theirs.sendall(b"Fatal Python error: Aborted\n" * 1_000_000)
    watch.join(10)
    assert not watch.is_alive()
    assert log.stat().st_size == MAX_DUMP_BYTES

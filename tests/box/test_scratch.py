"""What a run needs only while it runs goes with it, whoever was killed."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box import scratch

HOLDS = """
import os, sys, time
from pytest_megacpp.box import scratch
print(scratch.make(), flush=True)
if os.fork():
    os._exit(0)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short enough for sockets, which pytest's own aren't."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as place:
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(place)


def test_sockets_have_short_names_whatever_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / ("x" * 60)
    far.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    made = Path(scratch.make())
    assert len(str(made.parent)) <= scratch.MAX_PLACE_CHARS
    shutil.rmtree(made)
    monkeypatch.setattr(scratch, "SHORT_PLACES", ())
    assert Path(scratch.make()).parent == far, "where nothing shorter can be written, what there is"


def test_a_directory_that_somebody_holds_stays_until_the_last_one_was_killed(temporary: Path) -> None:
    """The process that made it has ended; the one forked from it works on."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        held = Path(child.stdout.readline().strip())
        child.wait()
        scratch.sweep()
        assert held.is_dir()
        os.killpg(child.pid, signal.SIGKILL)
        child.stdout.read()  # its end is that of the last holder
    scratch.sweep()
    assert list(temporary.iterdir()) == []


def test_systemd_keeps_away_from_what_is_locked() -> None:
    """It looks for a lock on the directory itself (tmpfiles.d(5))."""
    made = scratch.make()
    directory = os.open(made, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(directory)
    assert scratch.lost(made, [scratch.LOCK, "box"]) == ["box"]
    shutil.rmtree(made)


def test_a_temporary_directory_may_be_called_as_one_is_before_its_birth(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = temporary / "new-megacpp-ci"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    made = Path(scratch.make())
    assert made.parent == place
    assert made.name.startswith(scratch.PREFIX)


def test_what_is_no_scratch_stays(temporary: Path) -> None:
    (temporary / "megacpp-notes").mkdir()
    (temporary / "megacpp-file").touch()
    (temporary / "megacpp-link").mkdir()
    (temporary / "megacpp-link" / scratch.LOCK).symlink_to("/etc/hostname")
    scratch.sweep()
    assert len(list(temporary.iterdir())) == 3


def test_one_that_could_not_be_locked_is_never_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run on the machine may have locks."""

    def refuse(lock: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        made = Path(scratch.make())
    scratch.sweep()
    assert made.is_dir()
    shutil.rmtree(made)

"""What a run needs only while it runs goes with it, whoever was killed."""

import os
import signal
import subprocess
import sys
import tempfile
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
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


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


def test_what_is_no_scratch_stays(temporary: Path) -> None:
    (temporary / "megacpp-notes").mkdir()
    (temporary / "megacpp-file").touch()
    (temporary / "megacpp-link").mkdir()
    (temporary / "megacpp-link" / scratch.LOCK).symlink_to("/etc/hostname")
    scratch.sweep()
    assert len(list(temporary.iterdir())) == 3

"""A real sandbox of gVisor whose host runs out of memory: the host kills all of it, and what was recorded says why."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.judge.arbiter import judge_run
from pytest_megacpp.judge.verdicts import Certainty, Code
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import Plan, PlannedTest
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.vocabulary import Preset, SeedMode
from pytest_megacpp.recording.wire import read_all
from tests.gvisor import builds
from tests.gvisor.conftest import unavailable

LIMIT_BYTES = 2 << 30
ORDERED_BYTES = LIMIT_BYTES + (128 << 20)
"""The host charges pages of files to whoever read them first, gVisor counts them: torch's libraries are some 350 MB, so
that the sandbox sees more in use than its limit before it is killed. A box that lives on like that explains nothing.
"""
LIMIT_S = 150
GROWS = """
import time
import pytest

@pytest.mark.h200x8(ranks=2)
def test_grow(modal_h200x8):
    held = []
    while modal_h200x8.rank == 1:
        held.append(bytearray(b"x") * 50_000_000)
        time.sleep(0.09)
    time.sleep(600)
"""
FOLLOWED = """
cd "$0" && mkdir run && sleep 600 | "$1" -m pytest_megacpp.box plan.json run > box.log 2>&1 &
while [ ! -e "$0/run/recording.jsonl" ]; do sleep 0.1; done
exec tail -n +1 -f "$0/run/recording.jsonl"
"""
JOINED = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory group of the host with a limit."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (v2, "memory.max")
    made = root / f"megacpp-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
    except OSError as e:
        pytest.skip(f"no memory group can be made here: {e}")
    try:
        try:
            (made / limit).write_text(str(LIMIT_BYTES))
        except OSError as e:
            pytest.skip(f"no memory limit can be set here: {e}")
        for swap, most in (("memory.memsw.limit_in_bytes", str(LIMIT_BYTES)), ("memory.swap.max", "0")):
            with contextlib.suppress(OSError):
                (made / swap).write_text(most)
        yield made
    finally:
        _remove(made)


def _remove(group: Path) -> None:
    """Once its last process is gone, which its gofer may outlive by a moment."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)


@pytest.fixture
def sandbox(tmp_path: Path) -> list[str]:
    """The beginning of a command in a sandbox."""
    try:
        builds.check_machine()
        runsc = str(builds.found()[0].path)
    except builds.Unusable as e:
        unavailable(str(e), in_ci=bool(os.environ.get("CI")))
    flags = subprocess.run([runsc, "flags"], capture_output=True, text=True)
    newer = ["--ignore-cgroups"] if "ignore-cgroups" in flags.stdout + flags.stderr else []
    return [runsc, "--root", str(tmp_path / "runsc"), "--network=none", *newer, "do"]


def test_a_sandbox_that_its_host_kills_for_memory(tmp_path: Path, sandbox: list[str], group: Path) -> None:
    (tmp_path / "test_grow.py").write_text(GROWS)
    test = PlannedTest("test_grow.py::test_grow", 2, Preset.FULL, Limits(), cache_seed=SeedMode.COLD)
    args = ("-m", "h200x8", "--surface", "local", "--dry-run", "-p", "no:cacheprovider", "test_grow.py")
    plan = Plan("r1", "h200x8", "local", "H200:8", 8, 8, True, False, (test,), args, str(tmp_path))
    ordered = to_json(plan) | {"memory_bytes": ORDERED_BYTES}
    (tmp_path / "plan.json").write_text(json.dumps(ordered))
    follow = [*sandbox, "bash", "-c", FOLLOWED, str(tmp_path), sys.executable]
    ran = subprocess.run(["bash", "-c", JOINED, str(group), *follow], stdout=subprocess.PIPE, timeout=LIMIT_S)
    (result,) = judge_run(fold(read_all(ran.stdout))).tests
    assert ran.returncode == 137
    assert (result.verdict.code, result.verdict.cause) == (Code.BOX_LOST, "oom"), result.verdict
    assert result.verdict.certainty is not Certainty.CERTAIN
    assert "of 2.1 GiB (requested)" in result.verdict.summary
    assert "rank 1 used" in result.verdict.summary
    assert result.verdict.blamed_ranks == ()

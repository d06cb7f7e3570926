"""What the guard does before it starts the box."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
from pytest_megacpp.box.__main__ import _restart_with_library_path

_restart_with_library_path(sys.argv[1])
with open("/proc/self/environ") as f:
    started = dict(pair.split("=", 1) for pair in f.read().split("\\0") if "=" in pair)
print(json.dumps([started.get("LD_LIBRARY_PATH"), os.environ.get("LD_LIBRARY_PATH"), sorted(os.environ), os.getpid()]))
"""
VENDORS, MINE = "/usr/local/cuda/lib64", "/mine/lib"


@pytest.mark.parametrize(
    ("inherited", "configured", "loaded"),
    [
        (f"{VENDORS}:{MINE}", None, MINE),
        (VENDORS, None, None),
        (MINE, None, MINE),
        (None, None, None),
        (MINE, VENDORS, VENDORS),
    ],
)
def test_the_box_s_own_libraries_obey_the_contract(
    tmp_path: Path, inherited: str | None, configured: str | None, loaded: str | None
) -> None:
    """The loader has the contract's path, and the contract still sees what there was, to say what it removed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"LD_LIBRARY_PATH": configured} if configured else {}
    (tmp_path / "plan.json").write_text(json.dumps({"environment": environment}))
    env = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])} | ({"LD_LIBRARY_PATH": inherited} if inherited else {})
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "plan.json")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        started, seen, names, pid = json.loads(child.stdout.read())
    assert (started, seen) == (loaded, inherited)
    assert "MEGACPP_LIBRARY_PATH" not in names
    assert pid == child.pid, "surfaces know the guard by its process"

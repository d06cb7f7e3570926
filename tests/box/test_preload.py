"""What is imported once for all ranks, and finding the module that would spoil CUDA for every fork."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_megacpp.recording.codec import from_json

SPOILS = """
import os, sys, types

PID = os.getpid()
torch = types.ModuleType("torch")
torch._C = types.SimpleNamespace(_cuda_isInBadFork=lambda: SPOILT and os.getpid() != PID)
SPOILT = False
sys.modules["torch"] = torch
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "fake_torch.py").write_text(SPOILS)
    (tmp_path / "harmless.py").write_text("")
    (tmp_path / "starts_cuda.py").write_text("import fake_torch\nfake_torch.SPOILT = True\n")
    (tmp_path / "broken.py").write_text("raise ValueError('no such device')\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    return tmp_path


def preload(project: Path, *modules: str) -> dict[str, object]:
    """As the forkserver does it, in a process of its own."""
    report = project / "report"
    order = json.dumps(
        {"path": [str(project), *sys.path], "modules": modules, "report": str(report), "hash_seed": None}
    )
    code = "import os, sys; os.environ['MEGACPP_PRELOAD'] = sys.argv[1]; import pytest_megacpp.box.worlds.preload as p"
    subprocess.run([sys.executable, "-c", code, order], check=True, timeout=60)
    said: dict[str, object] = json.loads(report.read_text())
    return said


def test_the_first_module_that_starts_cuda_is_named(project: Path) -> None:
    assert preload(project, "fake_torch", "harmless", "starts_cuda", "json")["spoiler"] == "starts_cuda"


def test_harmless_modules_spoil_nothing(project: Path) -> None:
    assert preload(project, "fake_torch", "harmless") == {"spoiler": "", "failed": {}}


def test_what_does_not_import_is_said_and_the_rest_goes_on(project: Path) -> None:
    said = preload(project, "broken", "nowhere_to_be_found", "leaves", "fake_torch", "starts_cuda")
    assert said["spoiler"] == "starts_cuda"
    assert said["failed"] == {
        "broken": "ValueError: no such device",
        "leaves": "SystemExit: 3",
        "nowhere_to_be_found": "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    }


def test_the_box_reads_the_report(project: Path) -> None:
    from pytest_megacpp.box.worlds.preload import Preloaded

    assert from_json(Preloaded, preload(project, "broken")).failed.keys() == {"broken"}

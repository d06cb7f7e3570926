"""Tests that need a GPU: `pytest -m gpu`. One suffices. Without one they skip."""

import shutil
import subprocess
from functools import cache

import pytest


@cache
def gpu_name() -> str:
    """The first GPU's, as its driver calls it; empty when there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return said.stdout.splitlines()[0].strip() if said.returncode == 0 and said.stdout.strip() else ""


@pytest.fixture(autouse=True, scope="session")
def _gpu() -> None:
    if not gpu_name():
        pytest.skip("needs an NVIDIA GPU (nvidia-smi lists none)")

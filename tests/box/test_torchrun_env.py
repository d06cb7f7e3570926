"""A rank's environment against that of a real torchrun."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_megacpp.box.worlds.torchrun_env import rank_environment

TORCHRUN_DEADLINE_S = 120
CHOSEN_ANEW_BY_EVERY_LAUNCH = {"MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE"}
DUMP = """
import json, os, pathlib, sys
pathlib.Path(sys.argv[1], os.environ["RANK"] + ".json").write_text(json.dumps(dict(os.environ)))
"""


def bare_environment(operators: dict[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **operators}


def torchrun(directory: Path, world_size: int, env: dict[str, str]) -> list[dict[str, str]]:
    """What each rank under torchrun sees, by rank."""
    script = directory / "dump.py"
    script.write_text(DUMP)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(world_size),
    ]
    process = subprocess.Popen(
        [*command, str(script), str(directory)],
        env=env,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TORCHRUN_DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs torch: pip install 'pytest-megacpp[local]'"
)
@pytest.mark.parametrize(
    ("world_size", "operators"),
    [
        (2, {}),
        (
            2,
            {"OMP_NUM_THREADS": "3", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3", "CUDA_VISIBLE_DEVICES": "1,0"},
        ),
        (1, {}),
    ],
    ids=["two-ranks", "operators-values", "one-rank"],
)
def test_a_rank_sees_what_torchrun_shows(tmp_path: Path, world_size: int, operators: dict[str, str]) -> None:
    inherited = bare_environment(operators)
    for rank, theirs in enumerate(torchrun(tmp_path, world_size, inherited)):
        ours = inherited | rank_environment(
            rank=rank,
            world_size=world_size,
            master_addr="localhost",
            master_port=29500,
            run_id="run",
            inherited=inherited,
        )
        assert set(ours) == set(theirs)
        assert {n: v for n, v in ours.items() if n not in CHOSEN_ANEW_BY_EVERY_LAUNCH} == {
            n: v for n, v in theirs.items() if n not in CHOSEN_ANEW_BY_EVERY_LAUNCH
        }


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_an_error(rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        rank_environment(rank=rank, world_size=world_size, master_addr="127.0.0.1", master_port=1, run_id="run")

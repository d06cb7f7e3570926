"""Owns the environment that torchrun's agent gives a worker on one node; must not know a process.

A test that runs under torchrun must not see a difference here, so the variables are exactly those of torch
2.13's `LocalElasticAgent._start_workers`, and those that `torchrun` leaves in its own environment for its
workers (`OMP_NUM_THREADS`, `TORCHELASTIC_SIGNALS_TO_HANDLE`). A conformance test compares them with a real
`torchrun`.
"""

from collections.abc import Mapping
from types import MappingProxyType

SIGNALS_TO_HANDLE = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
_NOTHING: Mapping[str, str] = MappingProxyType({})


def rank_environment(
    *,
    rank: int,
    world_size: int,
    master_addr: str,
    master_port: int,
    run_id: str,
    error_file: str = "",
    role: str = "default",
    restart_count: int = 0,
    max_restarts: int = 0,
    inherited: Mapping[str, str] = _NOTHING,
) -> dict[str, str]:
    """The variables of one rank, to be laid over the environment that it inherits.

    `master_addr` and `master_port` are those of a store that somebody else already hosts (torchrun's agent,
    or the box): `TORCHELASTIC_USE_AGENT_STORE` makes every rank a client of it. `error_file` is empty where
    nobody collects one, as torchrun has it; elastic's process API replaces it when it makes a log directory.
    `inherited` is the environment that the rank starts from: as in torchrun, its `OMP_NUM_THREADS`,
    `TORCH_NCCL_ASYNC_ERROR_HANDLING` and `CUDA_VISIBLE_DEVICES` win.

    Raises:
        ValueError: `rank` is not one of `world_size` ranks.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} ranks")
    return {
        **_place(rank, world_size, role),
        "MASTER_ADDR": master_addr,
        "MASTER_PORT": str(master_port),
        "TORCHELASTIC_RESTART_COUNT": str(restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(max_restarts),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_ERROR_FILE": error_file,
        **_from_launcher(world_size, inherited),
    }


def _place(rank: int, world_size: int, role: str) -> dict[str, str]:
    """Returns the ranks and world sizes. One node is one group, so the three kinds of rank and of
    world size coincide.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "ROLE_RANK": str(rank),
        "GROUP_RANK": "0",
        "ROLE_NAME": role,
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "ROLE_WORLD_SIZE": str(world_size),
        "GROUP_WORLD_SIZE": "1",
    }


def _from_launcher(world_size: int, inherited: Mapping[str, str]) -> dict[str, str]:
    env = {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": inherited.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": SIGNALS_TO_HANDLE,
    }
    if world_size > 1:
        env["OMP_NUM_THREADS"] = "1"
    env.update((name, inherited[name]) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES") if name in inherited)
    return env

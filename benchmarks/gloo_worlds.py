"""In how many worlds gloo connects all ranks, in the environment that a box gives them; exits 1 unless in all.

python -m benchmarks.gloo_worlds --worlds 100                                       # this kernel
python -m tests.gvisor --runsc all -- python -m benchmarks.gloo_worlds --worlds 100    # gVisor's, each build

Each world looks anew at the loopback interface, as a box of its own does. A `GLOO_SOCKET_IFNAME` of one's own stays:
with `lo`, the builds of gVisor before 2025-04 fail in some worlds.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from pytest_megacpp.box.host import contract, loopback
from pytest_megacpp.box.host.survey import cpu_count
from pytest_megacpp.box.worlds.stores import ADDRESS
from pytest_megacpp.box.worlds.torchrun_env import rank_environment

CONNECT_S = 30.0  # until gloo gives up
WORLD_S = 90.0  # until this gives up on a world
VARIABLE = "GLOO_SOCKET_IFNAME"


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gloo_worlds", description=__doc__)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=4)
    options = parser.parse_args()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # c10d warns of the host's name on each rank under gVisor
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed"])
    began_s, connected, choices = time.monotonic(), 0, set[str]()
    for number in range(options.worlds):
        environment = box_environment(options.ranks)
        choices.add(environment.get(VARIABLE, "not set"))
        connected += connects(context, number, options.ranks, environment)
        print(f"{connected} of {number + 1} after {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began_s
    print(f"{VARIABLE}: {', '.join(sorted(choices))}; {options.ranks} ranks, {seconds:.0f} s")
    print(f"{connected} of {options.worlds}")
    return int(connected < options.worlds)


def box_environment(ranks: int) -> dict[str, str]:
    """What ranks of a dry run inherit from their box."""
    loopback.lists_ipv4_first.cache_clear()
    shape = contract.LaunchShape(cuda=False, ranks=ranks, cpus=cpu_count(), cache_dir="", loopback=loopback.for_gloo())
    return contract.apply(os.environ, contract.resolve(os.environ, shape=shape))


def connects(context: ForkServerContext, number: int, size: int, environment: Mapping[str, str]) -> bool:
    """Starts a world, and returns whether every rank of it reached all others. None of it is left."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(ADDRESS, 0, is_master=True, wait_for_workers=False)
    ranks: list[BaseProcess] = []
    try:
        for rank in range(size):
            place = rank_environment(
                rank=rank,
                world_size=size,
                master_addr=ADDRESS,
                master_port=store.port,
                run_id=f"world-{number}",
                inherited=environment,
            )
            ranks.append(context.Process(target=take_part, args=({**environment, **place},)))
            ranks[-1].start()
        deadline_s = time.monotonic() + WORLD_S
        for process in ranks:
            process.join(max(0.0, deadline_s - time.monotonic()))
        return all(process.exitcode == 0 for process in ranks)
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
                process.join()


def take_part(environment: Mapping[str, str]) -> None:
    """One rank: a group, one `all_reduce`."""
    import torch
    import torch.distributed as dist

    os.environ.clear()
    os.environ.update(environment)
    name = f"{environment['TORCHELASTIC_RUN_ID']}, rank {environment['RANK']}"
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=CONNECT_S))
        together = torch.ones(1)
        dist.all_reduce(together)
        dist.destroy_process_group()
    except Exception as e:
        sys.exit(f"{name}: {e!r:.300}")
    if together.item() != int(environment["WORLD_SIZE"]):
        sys.exit(f"{name}: all_reduce gave {together.item():g}")


if __name__ == "__main__":
    sys.exit(main())

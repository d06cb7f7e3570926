"""Owns what the flight recorders show of the legacy NCCL backend and of nccl2, as the box and a rank read them.

Each backend runs in a process of its own in a world of one: a collective that is over, one behind a kernel that runs
for a while, messages, and a group after it was destroyed. A torch without nccl2 says so.
"""

import json
import os
import subprocess
import sys
from typing import Any

from tests.gpu.conftest import gpu_name

LIMIT_S = 45
SCRIPT = """
import json, os, sys, tempfile, time
import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d
from pytest_megacpp.box.look.probe import ask, handlers
from pytest_megacpp.box.look.flight_recorders import Recorders
from pytest_megacpp.rank import flight_recorders as own

path = os.path.join(tempfile.mkdtemp(), "ws")
server = c10d._WorkerServer(path)
store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=torch.device("cuda", 0))
backend = dist.group.WORLD._get_backend(torch.device("cuda"))
box = Recorders(path, True, 0.0)
told = {"class": type(backend).__name__, "name": backend.name(), "hooks": own.has_hooks()}
told["lacking"] = box.learn(handlers(path))


def brief(read):
    entries, status = read
    return {
        "last": [[e.group, e.seq, e.op, e.started, e.done] for e in entries[-3:]],
        "status": [[s.pg, s.enqueued, s.completed] for s in status],
    }


def look(name):
    began = time.perf_counter()
    seen = box.read()
    told[name] = {"box": brief(seen), "box_ms": round((time.perf_counter() - began) * 1000, 2)}
    try:
        told[name]["rank"] = brief(own.read_recorders(0.0, 64))
        told[name]["unrecorded"] = own.unrecorded()
    except Exception as e:
        told[name]["rank"] = repr(e)


look("nothing issued")
x = torch.ones(8, device="cuda")
for _ in range(3):
    dist.all_reduce(x)
torch.cuda.synchronize()
look("over, at once")
time.sleep(1.5)
look("over, 1.5 s later")
torch.cuda._sleep(3 * 10**9)
dist.all_reduce(x)
time.sleep(0.2)
look("behind a kernel")
torch.cuda.synchronize()
for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, x, 0), dist.P2POp(dist.irecv, torch.empty_like(x), 0)]):
    work.wait()
torch.cuda.synchronize()
time.sleep(1.2)
look("messages")
raw = json.loads(ask(path, "fr_trace_json", backend="nccl2"))
told["raw nccl2"] = {key: raw.get(key) for key in ("pg_status", "pg_config")}
told["raw nccl2"]["entries"] = (raw.get("entries") or [])[-1:]
dist.destroy_process_group()
told["destroyed"] = {"box": brief(box.read())}
server.shutdown()
print(json.dumps(told))
"""


def run(chosen: str) -> Any:
    """What a process said with `TORCH_DIST_USE_NCCL2` so, or its last words."""
    ours = {"MEGACPP_DEVICE": "cuda", "TORCH_DIST_USE_NCCL2": chosen}
    ours |= {"TORCH_NCCL_ENABLE_TIMING": "1", "TORCH_FR_BUFFER_SIZE": "64"}
    command = [sys.executable, "-c", SCRIPT]
    try:
        answer = subprocess.run(
            command, env={**os.environ, **ours}, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {LIMIT_S} s"}
    lines = answer.stdout.splitlines()
    if answer.returncode or not lines:
        return {"error": answer.stderr[-1500:]}
    return json.loads(lines[-1])


def main() -> int:
    if not gpu_name():
        print(json.dumps({"recorders": "no GPU"}))
        return 0
    from torch._C import _distributed_c10d as c10d

    told = {"legacy": run("0")}
    has_nccl2 = hasattr(c10d, "ProcessGroupNCCL2")
    told["nccl2"] = run("1") if has_nccl2 else "this torch has no ProcessGroupNCCL2"
    for name, seen in told.items():
        print(name, json.dumps(seen, indent=1))
    print(json.dumps(told))
    return int(any(isinstance(seen, dict) and "error" in seen for seen in told.values()))


if __name__ == "__main__":
    sys.exit(main())

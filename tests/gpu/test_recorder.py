"""What NCCL's flight recorder says of a live device: the facts that reading it rests on (`recording/flight.py`)."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

ASK = """
import json, os, sys, time
import torch
import torch.distributed as dist
import torch._C._distributed_c10d as c10d
from torch._C._distributed_c10d import _WorkerServer
from pytest_megacpp.box.look.probe import ask, handlers, read_wait_counters

path = sys.argv[1]
server = _WorkerServer(path)
store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=torch.device("cuda", 0))
x = torch.ones(8, device="cuda")
answers = {"handlers": handlers(path), "cuda": torch.version.cuda, "torch": torch.__version__}

def look(name):
    dump = ask(path, "dump_nccl_trace_json", includecollectives="true", onlyactive="false")
    answers[name] = json.loads(dump).get("entries", [])

dist.all_reduce(x); torch.cuda.synchronize(); time.sleep(0.3); look("over")
torch.cuda._sleep(2 * 10**9); dist.all_reduce(x); time.sleep(0.2); look("queued"); torch.cuda.synchronize()
stream = torch.cuda.Stream()
for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, x, 0), dist.P2POp(dist.irecv, torch.empty_like(x), 0)]):
    work.wait()
torch.cuda.synchronize(); time.sleep(0.5); look("messages")
answers["counters"] = read_wait_counters(ask(path, "wait_counter_values"))
dist.destroy_process_group(); look("destroyed")
server.shutdown()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = tmp_path_factory.mktemp("recorder") / "ask.py"
    script.write_text(ASK)
    environment = {"TORCH_NCCL_ENABLE_TIMING": "1", "TORCH_FR_BUFFER_SIZE": "64", "TORCH_DIST_USE_NCCL2": "0"}
    answer = subprocess.run(
        [sys.executable, str(script), str(script.with_name("ws"))],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def states(entries: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    return [(e["profiling_name"], e["state"], e["retired"]) for e in entries]


def test_handlers_of_a_cuda_build(answers: dict[str, Any]) -> None:
    expected = {"ping", "fr_trace_json", "wait_counter_values", "dump_traceback", "dump_nccl_trace_json"}
    assert expected <= set(answers["handlers"])


def test_timing_tells_when_a_device_began(answers: dict[str, Any]) -> None:
    assert states(answers["over"]) == [("nccl:all_reduce", "completed", True)]
    assert answers["over"][0]["time_discovered_started_ns"]


def test_a_collective_behind_a_kernel_is_scheduled_only(answers: dict[str, Any]) -> None:
    assert states(answers["queued"])[-1][:2] == ("nccl:all_reduce", "scheduled")
    assert not answers["queued"][-1]["time_discovered_started_ns"]


def test_messages_of_a_batch_stay_open_and_its_closing_entry_is_over(answers: dict[str, Any]) -> None:
    ended = states(answers["messages"])[-3:]
    assert [e[0] for e in ended] == ["nccl:send 0->0", "nccl:recv 0<-0", "nccl:coalesced"]
    assert [e[1] for e in ended] == ["scheduled", "scheduled", "completed"]
    assert answers["messages"][-1]["p2p_seq_id"] == answers["messages"][-2]["p2p_seq_id"]


def test_the_recorder_remembers_a_destroyed_group(answers: dict[str, Any]) -> None:
    """gloo's forgets it."""
    assert len(answers["destroyed"]) == len(answers["messages"])

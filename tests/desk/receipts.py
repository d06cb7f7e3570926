"""Owns lane directories with runs made of receipts alone; must not know what is read from them."""

import json
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import dump_json


def receipt(
    run_id: str, nodeid: str, outcome: str = "passed", code: str | None = None, **fields: Any
) -> dict[str, Any]:
    """A receipt with what a history needs; `seconds` is how long the test took."""
    seconds = fields.pop("seconds", 8.0)
    verdict = {"code": code or ("passed" if outcome == "passed" else "rank-death"), "summary": "", "blamed_ranks": []}
    return {
        "schema": "megacpp.receipt/1",
        "run_id": run_id,
        "nodeid": nodeid,
        "outcome": outcome,
        "verdict": verdict | fields.pop("verdict", {}),
        "attempts": [],
        "world_size": 2,
        "dry_run": True,
        "preset": "full",
        "ranks": [{"rank": rank, "first_forward_s": seconds / 2, "records": {"loss": 0.5}} for rank in (0, 1)],
        "skew": {"first_forward_s": 0.0, "worst_wait_s": 0.1},
        "cost": {"seconds": seconds, "gpu_seconds": 0.0, "usd": 0.0},
        "lane": "h200x8",
        "surface": "local",
        "started_at": "",
        "seed": None,
        "environment": {},
        "git": {"revision": None, "dirty": None},
        **fields,
    }


def run_id_of(number: int) -> str:
    return f"202611{1 + number // 10:02d}-12{number % 10:02d}00-{number:04x}"


def write_run(lane_dir: Path, number: int, *receipts: dict[str, Any], **fields: Any) -> Path:
    """A run of these receipts, whose run ids are set; `fields` are those of its `run.json`."""
    run = lane_dir / "runs" / run_id_of(number)
    (run / "receipts").mkdir(parents=True)
    for index, one in enumerate(receipts):
        began = f"{run.name[:4]}-{run.name[4:6]}-{run.name[6:8]}T12:{run.name[11:13]}:00.000Z"
        content = dump_json(one | {"run_id": run.name, "started_at": one["started_at"] or began})
        (run / "receipts" / f"{index}.json").write_bytes(content)
    document = {"status": "passed", "lane": "h200x8", "surface": "local", "counts": {"passed": len(receipts)}} | fields
    (run / "run.json").write_text(json.dumps(document))
    return run

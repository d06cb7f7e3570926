"""Owns the order of what is checked on one GPU, and the limits that end each step; must not know what a step measures.

    OUT=results benchmarks/gpu_check.sh [STEP ...]

Steps run one after the other in processes of their own, and go on after a failure. `$OUT` (a new directory where it
isn't set) then has `summary.md`, `results.json` and one log per step.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_megacpp.box.host import process

ROOT = Path(__file__).resolve().parents[2]
TOTAL_S = 690.0
END_S = 10.0  # for killed processes to be gone
LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class Step:
    """`command` is what python runs; `limit_s` are the seconds after which it is killed."""

    name: str
    about: str
    limit_s: float
    command: tuple[str, ...]


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.gpu_check.{name}", *arguments)


SUITE = ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu")
STEPS = (
    Step("environment", "versions and devices", 120, _module("environment")),
    Step("nvml", "NVML and nvidia-smi, idle and while a kernel loops", 60, _module("nvml")),
    Step("recorders", "flight recorders of the legacy backend and of nccl2", 100, _module("recorders")),
    Step("pruning", "configurations of @triton.autotune that exceed shared memory", 110, _module("lane", "pruning")),
    Step("seed", "a seed round trip in a world of one", 200, _module("lane", "seed")),
    Step("suite", "pytest -m gpu", 240, SUITE),
)


@dataclass(frozen=True)
class Outcome:
    """`state` is ok, failed, limit, or left out; `told` is the JSON that the step printed last, if it did."""

    step: Step
    state: str
    seconds: float
    told: Any
    last_line: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(step.name for step in STEPS))
    wanted = parser.parse_args().steps
    if unknown := set(wanted) - {step.name for step in STEPS}:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    out = Path(os.environ.get("OUT") or tempfile.mkdtemp(prefix="gpu-check-"))
    out.mkdir(parents=True, exist_ok=True)
    process.adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `timeout` ends this, with what it started
    end_s = time.monotonic() + TOTAL_S
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        environment = _environment(Path(scratch))
        outcomes: list[Outcome] = []
        for step in STEPS:
            if not wanted or step.name in wanted:
                outcomes.append(_run(step, min(step.limit_s, end_s - time.monotonic()), environment, out))
                _write(out, outcomes)
    print((out / "summary.md").read_text())
    print(f"results in {out}")
    return int(any(outcome.state != "ok" for outcome in outcomes))


def _environment(scratch: Path) -> dict[str, str]:
    """With this package as if it were installed: pytest finds a plugin by the metadata of its distribution."""
    metadata = scratch / "site" / "pytest_megacpp-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-megacpp\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nmegacpp = pytest_megacpp.plugin\n")
    paths = [str(ROOT), str(metadata.parent), os.environ.get("PYTHONPATH", "")]
    (scratch / "tmp").mkdir()
    ours = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TMPDIR": str(scratch / "tmp")}
    return {**os.environ, **ours, "PYTHONUNBUFFERED": "1"}


def _run(step: Step, limit_s: float, environment: dict[str, str], out: Path) -> Outcome:
    if limit_s < 5:
        return Outcome(step, "left out", 0.0, None, "no time was left")
    print(f"{step.name}: {step.about}, at most {limit_s:.0f} s", flush=True)
    log = out / f"{step.name}.log"
    began_s = time.monotonic()
    with log.open("w+b") as output:
        child = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        state = _wait(child, limit_s)
    seconds = time.monotonic() - began_s
    text = log.read_text(errors="replace")
    log.write_text(text[-LOG_BYTES:])
    return Outcome(step, state, seconds, *_told(text))


def _wait(child: "subprocess.Popen[bytes]", limit_s: float) -> str:
    """Nothing that the step started is left when this returns or raises."""
    try:
        return "ok" if child.wait(limit_s) == 0 else "failed"
    except subprocess.TimeoutExpired:
        return "limit"
    finally:
        _end_all_that_is_left(child)


def _end_all_that_is_left(child: "subprocess.Popen[bytes]") -> None:
    """Desks, boxes and ranks have sessions of their own, so the step's process group isn't all of it. Whatever it
    orphans becomes a child of this process.
    """
    deadline_s = time.monotonic() + END_S
    while (left := process.descendants(os.getpid())) and time.monotonic() < deadline_s:
        process.end_all(one.pid for one in left)
        time.sleep(0.05)
    if child.poll() is None:
        child.kill()
    child.wait()
    process.reap_strays()


def _told(text: str) -> tuple[Any, str]:
    """The last line that is JSON, and the last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                return json.loads(line), line
            except ValueError:
                continue
    return None, lines[-1][:300] if lines else ""


def _write(out: Path, outcomes: list[Outcome]) -> None:
    told = {o.step.name: {"state": o.state, "seconds": round(o.seconds, 1), "told": o.told} for o in outcomes}
    (out / "results.json").write_text(json.dumps(told, indent=1))
    rows = [f"| {o.step.name} | {o.state} | {o.seconds:.1f} | {_brief(o)} |" for o in outcomes]
    (out / "summary.md").write_text("\n".join(["| step | state | s | told |", "|---|---|---|---|", *rows, ""]))


def _brief(outcome: Outcome) -> str:
    if not isinstance(outcome.told, dict):
        return outcome.last_line.replace("|", "\\|")
    return "<br>".join(f"{name}: {value}" for name, value in outcome.told.items()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())

"""What a kernel charges threads that compute, poll and sleep, and how often it shows them running: decision 0060.

python -m benchmarks.ticks                              # this kernel
python -m tests.gvisor -- python -m benchmarks.ticks    # gVisor's
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LOOKS, BETWEEN_S = 250, 0.1
WINDOW = 5  # looks, over which CPU time is added up
TICK_S = 0.01
THREADS = {
    **{f"computes {i}": "while True: pass" for i in range(6)},
    **{f"sleeps 10 ms {i}": "import time\nwhile True: time.sleep(0.01)" for i in range(3)},
    "polls every 1 ms": "import os, time\nwhile True: os.path.exists('/no'), time.sleep(0.001)",
    "asleep": "import time\ntime.sleep(1000)",
}


def look(pid: int) -> tuple[float, str, float]:
    """(now, state letter, CPU seconds) of a process's main thread."""
    text = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return time.monotonic(), fields[0], (int(fields[11]) + int(fields[12])) * TICK_S


def main() -> None:
    with contextlib.ExitStack() as children:
        started: dict[str, subprocess.Popen[bytes]] = {}
        for name, code in THREADS.items():
            started[name] = children.enter_context(subprocess.Popen([sys.executable, "-c", code]))
            children.callback(started[name].kill)
        time.sleep(2)
        measure(started)


def measure(started: Mapping[str, "subprocess.Popen[bytes]"]) -> None:
    looks: dict[str, list[tuple[float, str, float]]] = {name: [] for name in started}
    for _ in range(LOOKS):
        for name, process in started.items():
            looks[name].append(look(process.pid))
        time.sleep(BETWEEN_S)
    for name, seen in looks.items():
        shares = [
            (after[2] - before[2]) / (after[0] - before[0]) for before, after in zip(seen, seen[WINDOW:], strict=False)
        ]
        runs = ", ".join(f"{_running(seen, in_a_row):.1%} at {in_a_row}" for in_a_row in (1, 2, 3, 5))
        print(f"{name:<16} charged {min(shares):4.0%} to {max(shares):4.0%}; runs: {runs} in a row")


def _running(seen: Sequence[tuple[float, str, float]], in_a_row: int) -> float:
    """Returns the share of looks that end so many in a row which all saw the thread running."""
    states = "".join(state for _, state, _ in seen)
    ends = range(in_a_row, len(states) + 1)
    return sum(states[end - in_a_row : end] == "R" * in_a_row for end in ends) / len(ends)


if __name__ == "__main__":
    main()

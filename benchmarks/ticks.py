"""What a kernel charges threads that compute, poll and sleep, and how often it shows them running: decision 0060.

python -m benchmarks.ticks                              # this kernel
python -m tests.gvisor -- python -m benchmarks.ticks    # gVisor's
"""

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

LOOKS, BETWEEN_S = 15, 1.0
TICK_S = 0.01
THREADS = {
    **{f"computes {i}": "while True: pass" for i in range(6)},
    "sleeps 10 ms": "import time\nwhile True: time.sleep(0.01)",
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
        pairs = list(itertools.pairwise(seen))
        shares = [(after[2] - before[2]) / (after[0] - before[0]) for before, after in pairs]
        running = sum(state == "R" for _, state, _ in seen) / len(seen)
        twice = sum(before[1] == after[1] == "R" for before, after in pairs) / len(pairs)
        print(
            f"{name:<17} charged {min(shares):4.0%} to {max(shares):4.0%}, runs at {running:4.0%}, twice {twice:4.0%}"
        )


if __name__ == "__main__":
    main()

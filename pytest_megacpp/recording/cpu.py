"""Owns when the CPU time of a process or thread shows that it computes; must not know ranks, waits or limits.

A rank that waits still spends CPU time: it polls, answers the box, collects garbage. Only what is more than such
housekeeping counts as progress. To receive a message costs less than that (docs/decisions/0009): where nothing but
messages pass, the runs of the main thread have to show it.
"""

from dataclasses import dataclass

# A waiting thread's housekeeping stays below this many seconds plus this share of the window.
CPU_PROGRESS_S = 0.02
CPU_PROGRESS_SHARE = 0.04
CPU_WINDOW_S = 1.0
# Where the kernel samples CPU time in ticks (gVisor), a thread that sleeps 10 ms at a time is charged up to 65 %, one
# that computes 78 to 98 %, however busy the machine is: docs/decisions/0060.
TICKS_SHARE = 0.75
TICKS_WINDOW_S = 0.5


@dataclass(slots=True)
class CpuMeter:
    """Tells computing from housekeeping by the CPU time that adds up over a window: many short looks see as much as one
    long look, also of a process that gets little of a busy machine.
    """

    since_s: float = 0.0
    cpu_s: float | None = None

    def computes(self, time_s: float, cpu_s: float, *, by_ticks: bool = False) -> bool:
        """Whether the process computed, given its CPU seconds so far. `by_ticks`: the kernel only samples that time."""
        if self.cpu_s is None or cpu_s < self.cpu_s:
            self.since_s, self.cpu_s = time_s, cpu_s
            return False
        window_s, spent_s = time_s - self.since_s, cpu_s - self.cpu_s
        computed = spent_s > (_least_by_ticks_s if by_ticks else _least_s)(window_s)
        if computed or window_s >= CPU_WINDOW_S:
            self.since_s, self.cpu_s = time_s, cpu_s
        return computed


def _least_s(window_s: float) -> float:
    """The CPU seconds that a waiting process stays below in a window of this length."""
    return CPU_PROGRESS_S + CPU_PROGRESS_SHARE * min(window_s, CPU_WINDOW_S)


def _least_by_ticks_s(window_s: float) -> float:
    """The CPU seconds that a waiting process is charged at most in a window of this length, where ticks are counted."""
    return TICKS_SHARE * max(window_s, TICKS_WINDOW_S)

"""Owns noticing that a box on this machine was stopped and stays so; must not know what ends it.

The kernel says it of a process ("T": SIGSTOP, a job manager), so a box that is only silent (it imports, unpacks,
copies) is never taken for one that is stopped. A process under a debugger ("t") is somebody's who is there.
"""

from dataclasses import dataclass

from pytest_megacpp.box.host import process

LOOK_S = 1.0
STOPPED_S = 60.0  # long enough to look at a stopped process, and for a job manager's short suspensions
_STOPPED = "T"


@dataclass
class Standstill:
    """Looks at the guard and at the box, its child. Time in which the desk itself did not run (the machine slept, a
    container was frozen as a whole) is no time in which it saw a stopped box.
    """

    guard: int
    _box: int | None = None
    _looked_s: float | None = None
    _stopped_s: float = 0.0

    def look(self, now_s: float) -> int | None:
        """The process that has been stopped for too long; costs nothing more than once a second."""
        since_s = LOOK_S if self._looked_s is None else now_s - self._looked_s
        if since_s < LOOK_S:
            return None
        self._looked_s = now_s
        stopped = self._stopped()
        self._stopped_s = 0.0 if stopped is None else self._stopped_s + min(since_s, 2 * LOOK_S)
        return stopped if self._stopped_s > STOPPED_S else None

    def _stopped(self) -> int | None:
        """A stopped guard does harm only to the end of a box: it doesn't notice it."""
        box, guard = self._living_box(), process.stat(self.guard)
        if box is not None:
            return box.pid if box.state == _STOPPED else None
        return self.guard if guard is not None and guard.state == _STOPPED else None

    def _living_box(self) -> process.Stat | None:
        """The guard leads a session, which no rank is in, and its child in it is the box. While it starts, there may be
        another one for a moment.
        """
        box = process.stat(self._box) if self._box is not None else None
        if box is None or not self._is_box(box):
            box = next((p for p in process.descendants(self.guard) if self._is_box(p)), None)
            self._box = box.pid if box is not None else None
        return box

    def _is_box(self, seen: process.Stat) -> bool:
        return (seen.parent, seen.session) == (self.guard, self.guard) and seen.state not in "ZX"

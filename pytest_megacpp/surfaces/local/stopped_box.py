"""Owns noticing that a box on this machine was stopped and stays stopped; must not know what ends it.

The kernel reports the state of a process ("T": SIGSTOP, a job manager), so a box that is only silent (it imports,
unpacks, copies) is never taken for a stopped one. A process under a debugger ("t") is left alone, because somebody is
working with it.
"""

from dataclasses import dataclass

from pytest_megacpp.box.host import process

LOOK_S = 1.0
STOPPED_S = 60.0  # long enough to look at a stopped process, and for a job manager's short suspensions
_STOPPED = "T"


@dataclass
class StoppedBoxWatch:
    """Watches the guard and the box, its child.

    Time in which the desk itself did not run (the machine slept, a container was frozen as a whole) doesn't count.
    """

    guard: int
    _box: int | None = None
    _looked_s: float | None = None
    _stopped_s: float = 0.0

    def look(self, now_s: float) -> int | None:
        """Returns the process that has been stopped for too long, if there is one. Looks once a second at most."""
        since_s = LOOK_S if self._looked_s is None else now_s - self._looked_s
        if since_s < LOOK_S:
            return None
        self._looked_s = now_s
        stopped = self._stopped()
        self._stopped_s = 0.0 if stopped is None else self._stopped_s + min(since_s, 2 * LOOK_S)
        return stopped if self._stopped_s > STOPPED_S else None

    def _stopped(self) -> int | None:
        """Returns the stopped process. A stopped guard matters only once the box has ended, because it doesn't notice
        that.
        """
        box, guard = self._living_box(), process.stat(self.guard)
        if box is not None:
            return box.pid if box.state == _STOPPED else None
        return self.guard if guard is not None and guard.state == _STOPPED else None

    def _living_box(self) -> process.Stat | None:
        """Returns the box: the child of the guard in the guard's own session, in which no rank is.

        While the box starts there may be another child for a moment.
        """
        box = process.stat(self._box) if self._box is not None else None
        if box is None or not self._is_box(box):
            box = next((p for p in process.descendants(self.guard) if self._is_box(p)), None)
            self._box = box.pid if box is not None else None
        return box

    def _is_box(self, seen: process.Stat) -> bool:
        return (seen.parent, seen.session) == (self.guard, self.guard) and seen.state not in "ZX"

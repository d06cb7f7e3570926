"""Owns which lines of a recording a second source has beyond the first; must not know where they come from."""

import json
from dataclasses import dataclass, field


@dataclass
class Unseen:
    """Lines of a second source (the sandbox's own output) that the first one did not have: only the end of a run."""

    _next: dict[tuple[str, str], int] = field(default_factory=dict)

    def mark_seen(self, data: bytes) -> None:
        for line in data.splitlines():
            self.is_new(line)

    def is_new(self, line: bytes) -> bool:
        """Returns whether a line is later than all seen events of its source, and marks it seen."""
        try:
            event = json.loads(line)
            key, number = (str(event["world"]), str(event["src"])), int(event["seq"])
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return False
        if number < self._next.get(key, 0):
            return False
        self._next[key] = number + 1
        return True

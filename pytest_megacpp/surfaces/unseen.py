"""Owns telling which lines of a recording a second source has beyond the first; must not know where they come from."""

import json
from dataclasses import dataclass, field


@dataclass
class Unseen:
    """Lines of a second source (the sandbox's own output) that the first one didn't bring; only the end of a run."""

    _next: dict[tuple[str, str], int] = field(default_factory=dict)

    def saw(self, data: bytes) -> None:
        for line in data.splitlines():
            self.is_new(line)

    def is_new(self, line: bytes) -> bool:
        """Whether a recorded line comes after all of its source that were seen; what can't be read is not."""
        try:
            told = json.loads(line)
            key, number = (str(told["world"]), str(told["src"])), int(told["seq"])
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return False
        if number < self._next.get(key, 0):
            return False
        self._next[key] = number + 1
        return True

"""Owns what a command surface is asked to be, as data, and the words of its commands; must not run them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RUN = "{run}"
"""In a word of a command: the run's id."""


@dataclass(frozen=True, slots=True)
class CommandConfig:
    """`[tool.pytest_megacpp.surfaces.NAME]`. `command` starts a box, `attach` reaches one that runs (empty: a box ends
    with its connection); the words of the far program are appended to both, quoted where the far side joins them for a
    `shell`. `stop` is a whole command of the desk, for what doesn't end otherwise.

    `environment` is for the box. `python` and `directory` (empty: the user's cache) are the far side's. `capacity_s` is
    how long a box may take to answer first, `lease_s` how long it outlives its desk.
    """

    name: str
    command: tuple[str, ...]
    shell: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    attach: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    python: str = "python3"
    directory: str = ""
    capacity_s: float = 900.0
    lease_s: float = 60.0

    def start_words(self, run_id: str, far: Sequence[str]) -> list[str]:
        """Returns the command that starts the far program `far`."""
        return self._appended(self.command, run_id, far)

    def attach_words(self, run_id: str, far: Sequence[str]) -> list[str]:
        """Returns the command that starts `far` beside the box of a run."""
        return self._appended(self.attach, run_id, far)

    def stop_words(self, run_id: str) -> list[str]:
        return [word.replace(RUN, run_id) for word in self.stop]

    def _appended(self, words: Sequence[str], run_id: str, far: Sequence[str]) -> list[str]:
        appended = [shlex.quote(word) for word in far] if self.shell else far
        return [*(word.replace(RUN, run_id) for word in words), *appended]

    @property
    def shown(self) -> str:
        """Returns the command as a user would type it."""
        return shlex.join(self.command)

"""Owns under what conditions a program runs that are nobody's fault: how long each rank waits, in what words it gives
up, and what looks show. Must not know programs or how ranks run.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """`patience_s`: of each rank, if not that of the program. `own_words`: who gives up says so in words of the test's
    own, and its connections stay. `counts_runs`: the kernel counts how often it lets threads run. `looks`: how likely a
    stack of a rank is taken at any step of time, beside those that the box asks for; `seed`: which of them are.
    """

    patience_s: tuple[float, ...] = ()
    own_words: bool = False
    counts_runs: bool = True
    looks: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        said = (
            f"patience {', '.join(f'{s:g}' for s in self.patience_s)} s" if self.patience_s else "",
            "time-outs in its own words" if self.own_words else "",
            "" if self.counts_runs else "runs are not counted",
            f"looks {self.looks:g} (seed {self.seed})" if self.looks else "",
        )
        return "; ".join(filter(None, said))


ORDINARY = Conditions()

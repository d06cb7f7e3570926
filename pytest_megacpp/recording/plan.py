"""Owns what the desk asks of a box and a box of its ranks; must not know who carries it out."""

from dataclasses import dataclass, field

from pytest_megacpp.recording.events import Limits


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """One selected lane test. `drill`: its failure is expected and doesn't count for `maxfail`. `must_run`: a gate
    wants it run, so a skip is no answer.
    """

    nodeid: str
    ranks: int
    preset: str
    limits: Limits
    fresh: bool = False
    drill: bool = False
    must_run: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a box needs to run without the desk. Times in seconds; paths are the box's. `revision` is the commit
    of the source, with a `+` where the tree differs.

    `run_s` and `budget_s` end the run, 0 is no end: the one is a limit, the other what money buys.
    `args` are the user's own pytest arguments, `cwd` where they were typed. `environment` is set before the
    contract (the user's own values win there). `preload` are modules the forkserver imports once for all.
    `root` and `ini` (empty: none) are pytest's root directory and configuration file as the desk found them, seen from
    `cwd`. `path` are entries of the desk's `sys.path` that the box has too; they come first there.
    """

    run_id: str
    lane: str
    surface: str
    gpu: str
    devices: int
    ranks: int
    dry_run: bool
    fsdp: bool
    tests: tuple[PlannedTest, ...]
    args: tuple[str, ...]
    cwd: str
    cache_dir: str
    run_s: float = 0.0
    maxfail: int = 0
    preload: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    root: str = "."
    ini: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    budget_s: float = 0.0
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Go:
    """Box to rank: run test `test`; `next_test` (same world) is what its teardown prepares for, None at the end.

    `store_port` is where this test's TCPStore listens; `keep_group`: the process group of the test before stays.
    """

    test: int
    next_test: int | None
    store_port: int
    keep_group: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """Box to rank: tear down what is left and exit."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Desk to box: end now, in order."""

    reason: str

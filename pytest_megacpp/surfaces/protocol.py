"""Owns what a surface is: something that runs a box somewhere and hands its recording over; must not know any.

`RunningBox` and `Surface` are the run itself. `SurfaceProvider` is what the package of a surface provides to the desk
(`surfaces.registry`): all that differs between surfaces before, beside and after a run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import DataSet, Plan
from pytest_megacpp.recording.seed import Manifest
from pytest_megacpp.recording.seed_layout import Kept
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.report.money import Rate
from pytest_megacpp.surfaces.data_config import DataConfig
from pytest_megacpp.surfaces.prices import Prices
from pytest_megacpp.surfaces.source import SourceConfig


@dataclass(frozen=True, slots=True)
class Ended:
    """The box has ended. `problem` is what the surface knows of its end, for a recording that has no end itself."""

    problem: ProblemFound | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """What the surface calls the box; None what it has no name for."""

    app: str | None = None
    sandbox: str | None = None


class RunningBox(Protocol):
    """A running box. No method blocks for long except `end`, which has its own deadline."""

    def read(self) -> bytes:
        """Returns the bytes of the recording that arrived since the last call; may be empty."""

    def ended(self) -> Ended | None:
        """Returns None while the box runs. Call `read` once more afterwards."""

    def address(self) -> Address:
        """Returns as much of the address as is known by now."""

    def say(self, word: Word) -> None:
        """Sends a word at least once, in order; without effect on a box that has ended or belongs to another desk."""

    def stop(self, reason: RunEnd, why: str = "") -> None:
        """Asks the box to end gracefully. `why`: what the desk was interrupted by."""

    def end(self) -> None:
        """Makes sure that nothing of the box is left; what it recorded can still be read."""


class Surface(Protocol):
    """Where boxes run."""

    def start(self, plan: Plan, run: Path) -> RunningBox:
        """Starts the plan; `run` is the run's directory at the desk. Raises SurfaceFailed."""


class SurfaceFailed(Exception):
    """The surface could not start a box; the text says why and how to fix it."""


# -- what a package of a surface provides ------------------------------------------------------------------------------

AMBIENT = "the environment of pytest (your shell, CI, or a plugin such as pytest-env)"
NO_SUCH_RUN = "no-such-run"
"""The cause of a problem that says that the surface knows nothing of a run."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where lanes run. `notice` says it in one line for the header, `details` are further lines about the machine."""

    surface: str
    dry_run: bool
    notice: str
    details: tuple[str, ...] = ()


class SeedDirectory(Protocol):
    """Where this machine keeps its seeds."""

    @property
    def dir(self) -> Path: ...


class SurfaceOptions(Protocol):
    """What the user asked for, as far as surfaces need it. Properties that are read from a table raise UsageError."""

    @property
    def surface(self) -> str: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def untrusted(self) -> bool: ...
    @property
    def boxes(self) -> int:
        """How many boxes a lane may have at the same time."""

    @property
    def detach(self) -> bool: ...
    @property
    def lane_dir(self) -> Path: ...
    @property
    def project(self) -> Path:
        """The directory of the configuration."""

    @property
    def environment(self) -> Mapping[str, str]: ...
    @property
    def tables(self) -> Mapping[str, object]:
        """The tables of `[tool.pytest_megacpp]` by name, a surface's own among them, unchecked."""

    @property
    def data(self) -> tuple[DataConfig, ...]: ...
    @property
    def source(self) -> SourceConfig: ...
    @property
    def prices(self) -> Prices: ...
    @property
    def seed(self) -> SeedDirectory: ...


class Lane(Protocol):
    """A launch shape: `gpu` as Modal spells it (`H200:8`)."""

    @property
    def name(self) -> str: ...
    @property
    def gpu(self) -> str: ...
    @property
    def ranks(self) -> int: ...
    @property
    def environment(self) -> Mapping[str, str]: ...


class Shelf(Protocol):
    """Where seeds are kept. Every method raises SeedError."""

    @property
    def place(self) -> str: ...

    def seeds(self) -> list[Kept]:
        """The newest first."""
        ...

    def promote(self, name: str) -> Kept: ...

    def drop(self, name: str) -> tuple[Kept, Kept | None]: ...

    def copy(self, manifest: Manifest, file: IO[bytes]) -> None:
        """Writes an archive to a file, unchecked."""
        ...


class Examination(Protocol):
    """What `megacpp doctor` looks at. `ready`, once all lines were taken: a launch would find all that it needs."""

    ready: bool

    def lines(self) -> Iterator[str]:
        """As they become known."""


class Attaching(Protocol):
    """Of a surface whose boxes can outlive their desk: `--detach` and `--attach`."""

    def attach(self, options: SurfaceOptions, run_id: str, run: Path) -> RunningBox:
        """Follows a run from its beginning; `run` is its directory at the desk. What fails is the box's end."""

    def visit(
        self,
        options: SurfaceOptions,
        run_id: str,
        into: Path,
        words: Sequence[Word],
        is_over: Callable[[bool], bool],
    ) -> bool:
        """Follows a run that goes on, from its beginning, until `is_over`, which is asked many times a second, and gets
        whether all has arrived that had been recorded when the box was reached; says `words` as soon as it is. The
        recording comes into the directory `into`. Returns whether there is a box. Raises SurfaceFailed.
        """

    def stop(self, options: SurfaceOptions, run_id: str) -> str | None:
        """Ends the box of a run that no desk follows; returns what was done, None where there is no such box. Raises
        SurfaceFailed.
        """

    def is_an_end(self, problem: ProblemFound) -> bool:
        """Returns whether a problem is how a run ended, and not why the surface cannot be asked."""

    def nothing_left(self) -> ProblemFound:
        """Returns the problem of a run that existed but of which the surface has nothing left."""


class SurfaceProvider(Protocol):
    """All that the desk knows of a surface. `name` is what users write, `title` what texts call it. `is_remote`: its
    boxes run on another machine, so their progress before the first test is shown. `attaching` None: a box ends with
    its desk. `environ` is the desk's environment everywhere.
    """

    name: str
    title: str
    is_remote: bool
    attaching: Attaching | None

    def is_ready(self, environ: Mapping[str, str]) -> bool:
        """Whether `auto` may choose it. Asked in every session of lanes, so it must be quick."""

    def place(self, options: SurfaceOptions, environ: Mapping[str, str], devices: Callable[[], int]) -> Place:
        """Where lanes run, and whether that is a dry run; never one silently where a gate might rely on it. `devices`
        counts the GPUs of this machine, which takes a while. Raises UsageError.
        """

    def surface(self, options: SurfaceOptions, tags: Mapping[str, str]) -> Surface:
        """What runs boxes; `tags` name the run's revision and suite where that is kept."""

    def rate(self, options: SurfaceOptions, gpu: str, ranks: int, *, dry_run: bool) -> Rate:
        """What a box costs."""

    def longest_s(self, options: SurfaceOptions, run_s: float | None) -> float | None:
        """How long a box may take at most where a run may take `run_s`; None: nothing bounds it."""

    def seeds(self, options: SurfaceOptions) -> str:
        """Where compile caches are kept, for the header: `in /home/me/.cache`."""

    def shelf(self, options: SurfaceOptions) -> Shelf:
        """The same for `megacpp seed`."""

    def variables(self, options: SurfaceOptions, environ: Mapping[str, str]) -> Iterator[tuple[Mapping[str, str], str]]:
        """What a box's environment gets from the desk beside the configured one, each with where to change it. The
        first that names a variable decides it.
        """

    def data_sets(self, options: SurfaceOptions, environ: Mapping[str, str]) -> tuple[DataSet, ...]:
        """The data sets as the desk's plan names them; empty where the surface itself puts them into the box's plan.
        `environ` includes the configured variables.
        """

    def examination(self, options: SurfaceOptions, lanes: Sequence[Lane]) -> Examination: ...

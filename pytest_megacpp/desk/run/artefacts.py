"""Owns asking reporters and writing what they yield; must not know any of them.

Whatever goes wrong with a report, the session goes on: what couldn't be written, and which reporter raised what, is
kept as lines for the summary.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.desk.run.directory import changed_json, dump_json
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.reporter import Artefact, Board, ChangedFields, Content, Line, Moment, Reporter, RunResults

Write = Callable[[str, Content], object]
"""Writes one file, by its path, whole or not at all. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """The reporters of a session, and what shows what they have at one moment while it runs. `waiting` is entered while
    the desk waits; what it gives is called at each turn.
    """

    reporters: Sequence[Reporter] = ()
    show: Callable[[Sequence[Line | Board]], object] = lambda shown: None
    waiting: Callable[[], AbstractContextManager[Callable[[], object]]] = lambda: nullcontext(lambda: None)


class Artefacts:
    """What reporters wrote below one directory. `written` has the paths of artefacts of which every file is there."""

    def __init__(self, reporters: Sequence[Reporter], write: Write, redact: Callable[[str], str]) -> None:
        self._reporters = reporters
        self._write = write
        self._redact = redact
        self._unwritten: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self._raised: Counter[str] = Counter()
        self.written: set[str] = set()

    @property
    def unwritten(self) -> list[str]:
        """A line for each artefact that couldn't be written, and for each reporter that raised: its first error."""
        failed = (f"report {name!r} failed{self._times(name)}: {error}" for name, error in self._errors.items())
        return [*self._unwritten.values(), *failed]

    def note(self, problem: str) -> None:
        """One more line for `unwritten`."""
        self._unwritten[problem] = problem

    def ask(self, moment: Moment) -> list[Line | Board]:
        """Asks all reporters in their order, writes their artefacts, and returns what they have to show. An interrupt
        ends the reporter that it meets; the others are still asked before it goes on.
        """
        shown: list[Line | Board] = []
        with ExitStack() as stack:
            for reporter in reversed(self._reporters):
                stack.callback(self._ask, reporter, moment, shown)
        return shown

    def properties(self, run: RunResults, index: int) -> dict[str, object]:
        """Those of all reporters."""
        found: dict[str, object] = {}
        for reporter in self._reporters:
            with self._guarded(reporter):
                found |= reporter.properties(run, index)
        return found

    def _ask(self, reporter: Reporter, moment: Moment, shown: list[Line | Board]) -> None:
        with self._guarded(reporter):
            for output in moment(reporter):
                if isinstance(output, Artefact):
                    self._keep(output)
                else:
                    shown.append(output)

    def _keep(self, artefact: Artefact) -> None:
        """An artefact that can't be written costs no result, and the summary says so, once."""
        for path, content in artefact.files:
            try:
                self._write(path, content)
            except OSError as e:
                self._unwritten[artefact.path] = f"{artefact.path} could not be written: {e.strerror or e}"
                return
        self.written.add(artefact.path)

    @contextmanager
    def _guarded(self, reporter: Reporter) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            self._unwritten[reporter.name] = f"the {reporter.name} could not be written: {e.strerror or e}"
        except Exception as e:  # a report is no reason for a run to end
            self._raised[reporter.name] += 1
            self._errors.setdefault(reporter.name, one_line(self._redact(_described(e))))

    def _times(self, name: str) -> str:
        return f" {self._raised[name]} times, first" if self._raised[name] > 1 else ""


def encoded(content: Content, target: Path) -> bytes:
    """What `target` shall hold. Raises OSError where its present content is needed and
    can't be read, or isn't what was written."""
    match content:
        case bytes():
            return content
        case ChangedFields():
            try:
                return changed_json(target.read_bytes(), content.values)
            except ValueError:
                raise OSError("somebody else has changed it") from None
        case _:
            return dump_json(content)


def _described(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error whose text can't be had
        return type(error).__name__

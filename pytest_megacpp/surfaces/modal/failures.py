"""Owns what each failure of Modal's client means: a verdict code, a cause and a remedy; must not call anything.

Exceptions are distinguished by the names of their classes, so that this module needs no client. Before the launch
nothing is retried; calls to a running box are retried where `is_transient` says so, and the run reports that.
"""

from dataclasses import dataclass

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode
from pytest_megacpp.surfaces.protocol import NO_SUCH_RUN

KILLED, TIMED_OUT = 137, 124
GONE = "gone"
TOKEN = "modal token new, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
DETAIL_CHARS = 390
IMAGE = "image"
LOG_LINES = 4


class SurfaceError(Exception):
    """A call to the surface failed; `problem` is what the run records of it."""

    def __init__(self, problem: ProblemFound) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class CallTimeout(Exception):
    """A call to Modal did not answer in time."""

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(f"{what} took longer than {limit_s:g} s")
        self.what = what


class Cancelled(Exception):
    """The desk has cancelled the call."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What one class of exception means; `summary` precedes the client's own message."""

    code: ProblemCode
    cause: str
    summary: str
    remedy: str = ""


_UNREACHABLE = _Meaning(
    ProblemCode.BLOCKED, "unreachable", "Modal cannot be reached", "check the network and status.modal.com"
)
_BY_CLASS = {
    "AuthError": _Meaning(ProblemCode.BLOCKED, "credentials", "Modal rejected the credentials", TOKEN),
    "PermissionDeniedError": _Meaning(ProblemCode.BLOCKED, "credentials", "no permission for this", TOKEN),
    "ConnectionError": _UNREACHABLE,
    "ServiceError": _UNREACHABLE,
    "InternalError": _Meaning(ProblemCode.BLOCKED, "internal-error", "internal error at Modal", "rerun"),
    "ImageBuildError": _Meaning(
        ProblemCode.ENVIRONMENT,
        "image-build",
        "the image could not be built",
        "fix the image (megacpp doctor --surface modal)",
    ),
    "ResourceExhaustedError": _Meaning(
        ProblemCode.BLOCKED,
        "capacity",
        "Modal has no capacity",
        "rerun later, or raise capacity_s in [tool.pytest_megacpp.modal]",
    ),
    "ConflictError": _Meaning(
        ProblemCode.BLOCKED, "refused", "Modal refused the request", "see the message: billing, limits, a stopped app"
    ),
    "AlreadyExistsError": _Meaning(
        ProblemCode.BLOCKED,
        "duplicate-name",
        "a sandbox of this run already exists",
        "follow it: pytest --attach RUN",
    ),
    "NotFoundError": _Meaning(
        ProblemCode.BLOCKED, "not-found", "Modal could not find an object", "create it, or correct its name"
    ),
    "InvalidError": _Meaning(
        ProblemCode.BLOCKED, "refused", "the modal client rejected the request", "correct [tool.pytest_megacpp.modal]"
    ),
    "ExecutionError": _Meaning(ProblemCode.ENVIRONMENT, "execution", "the modal client failed", "rerun"),
    "VersionError": _Meaning(ProblemCode.BLOCKED, "client-version", "modal client too old", "pip install -U modal"),
    "UnimplementedError": _Meaning(
        ProblemCode.BLOCKED, "client-version", "Modal does not support a call of this client", "pip install -U modal"
    ),
}
_TRANSIENT = frozenset({"ServiceError", "InternalError", "ConnectionError", "StreamTerminatedError", "TimeoutError"})


def surface_error(error: BaseException, log: str = "") -> SurfaceError:
    """Returns what an exception of a call before the launch means. The end of `log`, the log of an image's build,
    replaces the client's message: it says more.
    """
    if isinstance(error, SurfaceError):
        return error
    if isinstance(error, CallTimeout):
        return _timed_out(error)
    names = [cls.__name__ for cls in type(error).__mro__]
    meaning = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)
    if meaning is None:
        unknown = ProblemFound(ProblemCode.ENVIRONMENT, "surface", f"{names[0]}: {error}"[:DETAIL_CHARS], "rerun")
        return SurfaceError(unknown)
    if meaning.cause == "capacity" and "capacity" not in str(error).lower():
        meaning = _Meaning(
            ProblemCode.BLOCKED, "quota", "the workspace's limits are exhausted", "raise the limits, or request less"
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()][-LOG_LINES:]
    message = " / ".join(lines) or " ".join(str(error).split())
    detail = f"{meaning.summary}: {message}" if message else meaning.summary
    return SurfaceError(ProblemFound(meaning.code, meaning.cause, detail[:DETAIL_CHARS], meaning.remedy))


def _timed_out(error: CallTimeout) -> SurfaceError:
    if error.what == "the machine":
        remedy = "rerun later, or raise capacity_s in [tool.pytest_megacpp.modal]"
        return SurfaceError(ProblemFound(ProblemCode.BLOCKED, "capacity", f"Modal has no capacity: {error}", remedy))
    if error.what == "the image":
        remedy = "make the image smaller (megacpp doctor --surface modal builds it beforehand)"
        return SurfaceError(
            ProblemFound(ProblemCode.ENVIRONMENT, "image-build", f"the image was not built: {error}", remedy)
        )
    return SurfaceError(
        ProblemFound(ProblemCode.BLOCKED, "unreachable", f"{_UNREACHABLE.summary}: {error}", _UNREACHABLE.remedy)
    )


def in_words(error: BaseException) -> str:
    """Returns what an exception means and what to do, in a line for a command."""
    problem = surface_error(error).problem
    return f"{problem.detail}; {problem.remedy}" if problem.remedy else problem.detail


def is_transient(error: BaseException) -> bool:
    """Returns whether a call to a running box may be retried."""
    if isinstance(error, CallTimeout | OSError):
        return True
    return any(cls.__name__ in _TRANSIENT for cls in type(error).__mro__)


def no_client() -> SurfaceError:
    """Returns the error for a desk without the modal package."""
    remedy = "pip install 'pytest-megacpp[modal]', or run on this machine: --surface local"
    return SurfaceError(ProblemFound(ProblemCode.BLOCKED, "client", "the modal client is not installed", remedy))


def gone(ending: str, code: int | None, stderr_end: str, *, recorded: bool) -> ProblemFound:
    """Returns why a sandbox ended before its recording did. `ending` is timeout, terminated or exit, as the client
    reports it; `recorded` is whether the box recorded anything.
    """
    stderr = f": {stderr_end.strip()[-300:]}" if stderr_end.strip() else ""
    if ending == "timeout" or code == TIMED_OUT:
        remedy = "raise timeout_s in [tool.pytest_megacpp.modal], or run fewer tests at once"
        return ProblemFound(ProblemCode.BOX_LOST, "sandbox-timeout", "the sandbox reached its own time limit", remedy)
    if ending == "terminated":
        return ProblemFound(ProblemCode.BOX_LOST, "terminated", "the sandbox was terminated from outside", "rerun")
    if code == KILLED:
        detail = "the sandbox was killed: evicted, preempted or out of memory (Modal's dashboard shows which)"
        remedy = "rerun; if it was out of memory, raise memory_mib"
        return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.KILLED, detail, remedy)
    if not recorded:
        detail = f"the box did not start in this image (exit {code}){stderr}"
        remedy = "the image needs Python >= 3.11, torch and pytest: megacpp doctor --surface modal"
        return ProblemFound(ProblemCode.ENVIRONMENT, IMAGE, detail, remedy)
    return ProblemFound(
        ProblemCode.BOX_LOST, ProblemCause.CUT_OFF, f"the sandbox ended with exit {code}{stderr}", "rerun"
    )


def is_an_end(problem: ProblemFound) -> bool:
    """Returns whether a problem is how a run ended, and not why Modal cannot be asked."""
    return problem.code is ProblemCode.BOX_LOST or problem.cause == IMAGE


def nothing_left(code: int | None, why: ProblemFound | None = None) -> ProblemFound:
    """Returns the problem of a run that existed but has left neither a sandbox nor a recording. `why` is what Modal and
    the sandbox's output still say about its end.
    """
    how = f" with exit {code}" if code is not None else ""
    detail = f"the sandbox is gone (it ended{how}) and left no records"
    if why is None:
        return ProblemFound(
            ProblemCode.BOX_LOST, GONE, detail, "rerun; Modal's dashboard may still have the sandbox's output"
        )
    return ProblemFound(ProblemCode.BOX_LOST, GONE, f"{detail}: {why.detail}"[:DETAIL_CHARS], why.remedy)


def no_such_run(run_id: str) -> ProblemFound:
    """Returns the problem of a run id for which Modal has no trace of a run."""
    detail = f"Modal has no sandbox and no stored records of run {run_id}"
    remedy = "check the run id, the app and the account: megacpp runs"
    return ProblemFound(ProblemCode.BLOCKED, NO_SUCH_RUN, detail, remedy)


def given_up(error: BaseException) -> ProblemFound:
    """Returns what an exception means while a box is running: too late for Modal to have refused the launch."""
    detail = f"following the box failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.CUT_OFF, detail[:DETAIL_CHARS], "rerun")


def unreachable_box(run_id: str, seconds: float, lease_s: float) -> ProblemFound:
    """Returns the problem of a box that was connected and has not been for `seconds`; without a desk it ends after
    `lease_s`, or never if that is 0.
    """
    then = f"without a desk it ends within {lease_s:g} s" if lease_s else "it continues without a desk"
    detail = f"no connection to the box for {seconds:.0f} s; {then}"
    remedy = f"see what it recorded (pytest --attach {run_id}), or rerun"
    return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.CONNECTION, detail, remedy)

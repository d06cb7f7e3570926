"""Owns what each failure of Modal's client means: a verdict code, a cause and a remedy; must not call anything.

Exceptions are told apart by the names of their classes, so that this module needs no client. Before the launch nothing
is tried twice; calls to a running box are, where `is_transient` says so, and the run tells that they were.
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


class SurfaceTrouble(Exception):
    """Something of the surface failed; `problem` is what the tests get to know of it."""

    def __init__(self, problem: ProblemFound) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Late(Exception):
    """A call to Modal did not answer in time."""

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(f"{what} took longer than {limit_s:g} s")
        self.what = what


class Cancelled(Exception):
    """The desk doesn't want it any more."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """`told` precedes the client's own words."""

    code: ProblemCode
    cause: str
    told: str
    remedy: str = ""


_UNREACHABLE = _Meaning(
    ProblemCode.BLOCKED, "unreachable", "Modal can't be reached", "check the network and status.modal.com"
)
_BY_CLASS = {
    "AuthError": _Meaning(ProblemCode.BLOCKED, "credentials", "Modal refuses the credentials", TOKEN),
    "PermissionDeniedError": _Meaning(ProblemCode.BLOCKED, "credentials", "these credentials may not do that", TOKEN),
    "ConnectionError": _UNREACHABLE,
    "ServiceError": _UNREACHABLE,
    "InternalError": _Meaning(ProblemCode.BLOCKED, "internal-error", "Modal failed", "rerun"),
    "ImageBuildError": _Meaning(
        ProblemCode.ENVIRONMENT,
        "image-build",
        "the image could not be built",
        "fix the image (megacpp doctor --surface modal)",
    ),
    "ResourceExhaustedError": _Meaning(
        ProblemCode.BLOCKED,
        "capacity",
        "Modal has no room",
        "rerun later, or raise capacity_s in [tool.pytest_megacpp.modal]",
    ),
    "ConflictError": _Meaning(
        ProblemCode.BLOCKED, "refused", "Modal refuses", "see what it says: billing, limits, a stopped app"
    ),
    "AlreadyExistsError": _Meaning(
        ProblemCode.BLOCKED,
        "duplicate-name",
        "a sandbox of this run exists already",
        "listen to it: pytest --attach RUN",
    ),
    "NotFoundError": _Meaning(
        ProblemCode.BLOCKED, "not-found", "Modal doesn't know something", "create it, or correct its name"
    ),
    "InvalidError": _Meaning(
        ProblemCode.BLOCKED, "refused", "the client refuses", "correct [tool.pytest_megacpp.modal]"
    ),
    "ExecutionError": _Meaning(ProblemCode.ENVIRONMENT, "execution", "the client gave up", "rerun"),
    "VersionError": _Meaning(ProblemCode.BLOCKED, "client-version", "this client is too old", "pip install -U modal"),
    "UnimplementedError": _Meaning(
        ProblemCode.BLOCKED, "client-version", "the server lacks a call", "pip install -U modal"
    ),
}
_TRANSIENT = frozenset({"ServiceError", "InternalError", "ConnectionError", "StreamTerminatedError", "TimeoutError"})


def trouble(error: BaseException, log: str = "") -> SurfaceTrouble:
    """What an exception of a call before the launch means. `log`, of an image's build, says more than the client."""
    if isinstance(error, SurfaceTrouble):
        return error
    if isinstance(error, Late):
        return _late(error)
    names = [cls.__name__ for cls in type(error).__mro__]
    meaning = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)
    if meaning is None:
        unknown = ProblemFound(ProblemCode.ENVIRONMENT, "surface", f"{names[0]}: {error}"[:DETAIL_CHARS], "rerun")
        return SurfaceTrouble(unknown)
    if meaning.cause == "capacity" and "capacity" not in str(error).lower():
        meaning = _Meaning(
            ProblemCode.BLOCKED, "quota", "Modal refuses", "raise the workspace's limits, or ask for less"
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()][-LOG_LINES:]
    said = " / ".join(lines) or " ".join(str(error).split())
    detail = f"{meaning.told}: {said}" if said else meaning.told
    return SurfaceTrouble(ProblemFound(meaning.code, meaning.cause, detail[:DETAIL_CHARS], meaning.remedy))


def _late(error: Late) -> SurfaceTrouble:
    if error.what == "the machine":
        remedy = "rerun later, or raise capacity_s in [tool.pytest_megacpp.modal]"
        return SurfaceTrouble(ProblemFound(ProblemCode.BLOCKED, "capacity", f"no machine: {error}", remedy))
    if error.what == "the image":
        remedy = "make the image smaller (megacpp doctor --surface modal builds it beforehand)"
        return SurfaceTrouble(
            ProblemFound(ProblemCode.ENVIRONMENT, "image-build", f"the image was not built: {error}", remedy)
        )
    return SurfaceTrouble(
        ProblemFound(ProblemCode.BLOCKED, "unreachable", f"{_UNREACHABLE.told}: {error}", _UNREACHABLE.remedy)
    )


def is_transient(error: BaseException) -> bool:
    """Whether a call to a running box may simply be made again."""
    if isinstance(error, Late | OSError):
        return True
    return any(cls.__name__ in _TRANSIENT for cls in type(error).__mro__)


def no_client() -> SurfaceTrouble:
    remedy = "pip install 'pytest-megacpp[modal]', or run here: --surface local"
    return SurfaceTrouble(ProblemFound(ProblemCode.BLOCKED, "client", "the modal client isn't installed", remedy))


def gone(ending: str, code: int | None, said: str, *, recorded: bool) -> ProblemFound:
    """A sandbox that ended without an end of its recording. `ending`: timeout, terminated or exit, as the client tells
    it; `said` is the end of its stderr, `recorded` whether the box ever spoke.
    """
    words = f": {said.strip()[-300:]}" if said.strip() else ""
    if ending == "timeout" or code == TIMED_OUT:
        remedy = "raise timeout_s in [tool.pytest_megacpp.modal], or run fewer tests at once"
        return ProblemFound(ProblemCode.BOX_LOST, "sandbox-timeout", "the sandbox reached its own time limit", remedy)
    if ending == "terminated":
        return ProblemFound(ProblemCode.BOX_LOST, "terminated", "somebody terminated the sandbox", "rerun")
    if code == KILLED:
        told = "the sandbox was killed: evicted, preempted, or its memory was full (Modal's dashboard tells which)"
        return ProblemFound(
            ProblemCode.BOX_LOST, ProblemCause.KILLED, told, "rerun; if it was memory, raise memory_mib"
        )
    if not recorded:
        told = f"the box did not start in this image (exit {code}){words}"
        remedy = "the image needs Python >= 3.11, torch and pytest: megacpp doctor --surface modal"
        return ProblemFound(ProblemCode.ENVIRONMENT, IMAGE, told, remedy)
    return ProblemFound(
        ProblemCode.BOX_LOST, ProblemCause.CUT_OFF, f"the sandbox ended with exit {code}{words}", "rerun"
    )


def is_an_end(problem: ProblemFound) -> bool:
    """Whether it says how a run ended, not why Modal can't be asked."""
    return problem.code is ProblemCode.BOX_LOST or problem.cause == IMAGE


def nothing_left(code: int | None, why: ProblemFound | None = None) -> ProblemFound:
    """A run that was there, and of which neither a sandbox nor a recording is left. `why` is what Modal and the output
    still say of its end.
    """
    how = f" with exit {code}" if code is not None else ""
    told = f"the sandbox is gone (it ended{how}) and left no records"
    if why is None:
        return ProblemFound(
            ProblemCode.BOX_LOST, GONE, told, "rerun; Modal's dashboard may still have what the sandbox wrote"
        )
    return ProblemFound(ProblemCode.BOX_LOST, GONE, f"{told}: {why.detail}"[:DETAIL_CHARS], why.remedy)


def no_such_run(run_id: str) -> ProblemFound:
    """Nothing at Modal speaks for this run's ever having been there."""
    told = f"Modal knows neither a sandbox nor records of run {run_id}"
    return ProblemFound(
        ProblemCode.BLOCKED, NO_SUCH_RUN, told, "check the run id, the app and the account: megacpp runs"
    )


def given_up(error: BaseException) -> ProblemFound:
    """What an exception means while a box is at work: nothing was refused any more."""
    told = f"following the box failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return ProblemFound(ProblemCode.BOX_LOST, ProblemCause.CUT_OFF, told[:DETAIL_CHARS], "rerun")


def unreachable_box(run_id: str, seconds: float, lease_s: float) -> ProblemFound:
    """Connected before, and now not for long."""
    then = f"without a desk it ends within {lease_s:g} s" if lease_s else "it works on without a desk"
    told = f"no connection to the box for {seconds:.0f} s; {then}"
    return ProblemFound(
        ProblemCode.BOX_LOST,
        ProblemCause.CONNECTION,
        told,
        f"see what it recorded (pytest --attach {run_id}), or rerun",
    )

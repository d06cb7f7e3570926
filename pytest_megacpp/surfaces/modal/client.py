"""Owns the calls to Modal's client, each with its deadline; must not know runs, recordings or when to call.

The client is imported here and nowhere at import time: a desk without Modal pays nothing. Its own patience is minutes
(56 s for an unreachable server, 21 minutes for a machine, 10 s of retries for a lost stream), so it isn't relied on.
"""

import contextlib
import importlib
import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pytest_megacpp.surfaces.modal.calls import call
from pytest_megacpp.surfaces.modal.config import GVISOR, RUNTIME_VARIABLE
from pytest_megacpp.surfaces.modal.failures import CallTimeout, Cancelled, SurfaceError, no_client, surface_error

HELLO_S = 15.0
CALL_S = 30.0
POLL_S = 10.0
ENDED_S = 30.0  # from a termination to its confirmation, the last commit of a Volume included
OUTPUT_S = 15.0
FETCH_S = 1800.0
BUILD_LOG_LINES = 20
_ENDED = {"SandboxTimeoutError": "timeout", "SandboxTerminatedError": "terminated"}  # what waiting for an end raises

Asked = Callable[[], bool]
"""Returns whether the desk has cancelled the call."""


def never() -> bool:
    return False


def client() -> Any:
    """The package. Raises SurfaceError when it isn't installed."""
    try:
        return importlib.import_module("modal")
    except ImportError:
        raise no_client() from None


def has_credentials() -> bool:
    """Returns whether the client would find a token, without asking a server."""
    try:
        settings = importlib.import_module("modal.config").config
        return bool(settings.get("token_id") and settings.get("token_secret"))
    except Exception:
        return False


def connect(cancelled: Asked = never) -> None:
    """Connects; the connection stays for all later calls of this process. Raises SurfaceError or Cancelled."""
    modal = client()
    if not has_credentials():
        raise surface_error(modal.exception.AuthError("no token is configured"))
    _checked(lambda: call("Modal", HELLO_S, lambda: modal.Client.from_env().hello(), cancelled=cancelled))


def _checked(work: Callable[[], Any], log: Callable[[], str] = str) -> Any:
    """Returns what `work` returns. Raises its failures as SurfaceError."""
    try:
        return work()
    except Cancelled:
        raise
    except Exception as e:
        raise surface_error(e, log()) from e


def app(name: str, environment: str | None, tags: Mapping[str, str], cancelled: Asked = never) -> Any:
    """The App that the runs of a project share, with its tags."""
    modal = client()

    def look_up() -> Any:
        found = modal.App.lookup(name, create_if_missing=True, environment_name=environment)
        if tags:
            found.set_tags(dict(tags))
        return found

    return _checked(lambda: call("the app", CALL_S, look_up, cancelled=cancelled))


def build(image: Any, app: Any, what: str, limit_s: float, cancelled: Asked = never) -> Any:
    """Builds an image, or uploads its files. Raises SurfaceError with the end of the build's log."""
    work = lambda: call(what, limit_s, lambda: image.build(app), cancelled=cancelled)  # noqa: E731
    return _checked(work, lambda: _build_log(image))


def _build_log(image: Any) -> str:
    """The last lines of a build that failed, as far as they can be had."""
    try:
        entries = call("the log", POLL_S, lambda: list(image.logs.tail(BUILD_LOG_LINES)))
        return "".join(str(entry.message) for entry in entries)[-2_000:]
    except Exception:
        return ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What `Sandbox.create` is passed; `notice` names a setting of this desk that is ignored, empty for none."""

    name: str | None
    notice: str = ""


def runtime(asked: str | None) -> Runtime:
    """Returns the runtime of a sandbox: the configured one, never that of this desk's client settings.

    The client completes a missing runtime with its own setting, which may be meant for something else. So where there
    is one, Modal's documented default is passed; the setting itself is left alone, for other users of the client.
    """
    theirs = _function_runtime()
    if theirs is None or theirs == asked:
        return Runtime(asked)
    chosen = asked or GVISOR
    return Runtime(chosen, f"{chosen}; this desk's {RUNTIME_VARIABLE}={theirs} is ignored for the sandbox")


def _function_runtime() -> str | None:
    """The client's own setting, from the environment or its configuration file."""
    try:
        value = importlib.import_module("modal.config").config.get("function_runtime")
    except Exception:  # a client without this setting passes on nothing
        return None
    return str(value) if value else None


@dataclass(frozen=True)
class Order:
    """What a sandbox is asked to be; `options` as `Sandbox.create` takes them, `environment` is Modal's."""

    name: str
    app: Any
    app_name: str
    command: Sequence[str]
    options: Mapping[str, Any]
    environment: str | None = None


def create(order: Order, capacity_s: float, cancelled: Asked = never) -> Any:
    """A sandbox that has its machine. One that comes too late, or that was left in the queue, is terminated."""
    modal = client()
    make = lambda: modal.Sandbox.create(*order.command, app=order.app, name=order.name, **order.options)  # noqa: E731
    try:
        return call("the machine", capacity_s, make, cancelled=cancelled, too_late=terminate)
    except Exception as e:
        if isinstance(e, Cancelled | CallTimeout):
            _terminate_by_name(order)
        if isinstance(e, Cancelled):
            raise
        raise surface_error(e) from e


def _terminate_by_name(order: Order) -> None:
    """An order that nobody waits for any more must not be filled."""
    with contextlib.suppress(SurfaceError):
        found = find(order.app_name, order.name, order.environment)
        if found is not None:
            terminate(found)


def find(app_name: str, name: str, environment: str | None = None, *, ended_too: bool = False) -> Any | None:
    """The running sandbox of this name, or with `ended_too` one that has ended and that Modal still knows; None when
    there is none. Raises SurfaceError.
    """
    modal = client()
    more = {"include_terminated": True} if ended_too else {}
    look_up = lambda: modal.Sandbox.from_name(app_name, name, environment_name=environment, **more)  # noqa: E731
    try:
        return call("the sandbox", POLL_S, look_up)
    except Exception as e:
        if type(e).__name__ == "NotFoundError":
            return None
        raise surface_error(e) from e


def terminate(sandbox: Any) -> bool:
    """Whether the sandbox has ended and Modal said so: a Volume is complete only then, and a run that mounts it before
    sees an older one. Ending what has ended is no mistake.
    """
    try:
        call("the end", POLL_S, sandbox.terminate)
        call("the end", ENDED_S, lambda: sandbox.wait(raise_on_termination=False))
    except Exception as e:
        return type(e).__name__ in (*_ENDED, "NotFoundError")
    return True


def exit_code(sandbox: Any) -> int | None:
    """None while it runs. Raises what the client raises, and CallTimeout."""
    code = call("the sandbox", POLL_S, sandbox.poll)
    return None if code is None else int(code)


def how_it_ended(sandbox: Any) -> str:
    """`timeout`, `terminated` or `exit`, of a sandbox that has ended."""
    try:
        call("the sandbox", POLL_S, sandbox.wait)
    except Exception as e:
        return _ENDED.get(type(e).__name__, "exit")
    return "exit"


def output(sandbox: Any, stream: str, limit_bytes: int) -> bytes:
    """A sandbox's own stdout or stderr, as much from its beginning; empty when it can't be had."""
    try:
        return call("its output", OUTPUT_S, lambda: _up_to(limit_bytes, getattr(sandbox, stream)))
    except Exception:
        return b""


def _up_to(limit_bytes: int, pieces: Iterable[bytes | str]) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece.encode() if isinstance(piece, str) else piece
        if len(data) >= limit_bytes:
            break
    return bytes(data[:limit_bytes])


def stored(
    volume: str, directory: str, limit_of: Callable[[str], int], environment: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """The files below a directory of a volume: path relative to it, content. Nothing where there is no such thing.

    Whatever ran in the box may have put files there: `limit_of` says how many bytes of a path are read, 0 is none.
    Raises SurfaceError.
    """
    for relative in files(volume, directory, environment):
        if limit_bytes := limit_of(relative):
            yield relative, read(volume, f"{directory}/{relative}", limit_bytes, environment)


def files(volume: str, directory: str, environment: str | None = None) -> dict[str, int]:
    """The files below a directory of a volume: path relative to it, bytes. None where there is no such thing. Raises
    SurfaceError.
    """
    held = _volume(volume, environment)
    try:
        entries = call("the volume", CALL_S, lambda: held.listdir(directory, recursive=True))
    except Exception as e:
        if type(e).__name__ in ("NotFoundError", "FileNotFoundError"):
            return {}
        raise surface_error(e) from e
    top = directory.strip("/")
    found = (e for e in entries if str(getattr(e.type, "name", e.type)).upper() == "FILE")
    return {str(entry.path).strip("/").removeprefix(top).strip("/"): int(entry.size) for entry in found}


def exists(volume: str, directory: str, environment: str | None = None) -> bool:
    """Whether a volume has this directory. Raises SurfaceError."""
    held = _volume(volume, environment)
    try:
        call("the volume", CALL_S, lambda: held.listdir(directory))
    except Exception as e:
        if type(e).__name__ in ("NotFoundError", "FileNotFoundError"):
            return False
        raise surface_error(e) from e
    return True


def read(volume: str, path: str, limit_bytes: int, environment: str | None = None) -> bytes:
    """As much from the beginning of a volume's file. Raises SurfaceError."""
    held = _volume(volume, environment)
    return bytes(_checked(lambda: call("a file", CALL_S * 4, lambda: _up_to(limit_bytes, held.read_file(path)))))


def fetch(volume: str, path: str, file: IO[bytes], limit_bytes: int, environment: str | None = None) -> None:
    """Writes a volume's file to `file`, not much more of it than `limit_bytes`. Raises SurfaceError."""
    held = _volume(volume, environment)

    def write() -> None:
        written_bytes = 0
        for piece in held.read_file(path):
            written_bytes += file.write(piece)
            if written_bytes > limit_bytes:
                return

    _checked(lambda: call("a file", FETCH_S, write))


def write(volume: str, path: str, data: bytes, environment: str | None = None) -> None:
    """Puts a file into a volume, in place of one that is there. Raises SurfaceError."""
    held = _volume(volume, environment)

    def put() -> None:
        with held.batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(data), path)

    _checked(lambda: call("the upload", CALL_S * 4, put))


def remove(volume: str, path: str, environment: str | None = None) -> None:
    """Removes a file of a volume, or a directory with all in it. Raises SurfaceError."""
    held = _volume(volume, environment)
    _checked(lambda: call("the volume", CALL_S, lambda: held.remove_file(path, recursive=True)))


def _volume(name: str, environment: str | None) -> Any:
    return client().Volume.from_name(name, environment_name=environment)


def follower(sandbox: Any, command: Sequence[str], what: str, limit_s: float, cancelled: Asked = never) -> "Following":
    """Starts a process beside the box that reports what happens. Raises the client's errors, CallTimeout, Cancelled."""
    return Following(call(what, limit_s, lambda: sandbox.exec(*command, text=False), cancelled=cancelled))


class Following:
    """A process of the sandbox: its output comes from `next`, `say` writes to its input.

    Reading and writing have threads of their own, since either may block for as long as the client tries again.
    """

    def __init__(self, process: Any) -> None:
        self._process = process
        self._received: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="megacpp-modal-read").start()
        threading.Thread(target=self._write, daemon=True, name="megacpp-modal-write").start()

    def _read(self) -> None:
        try:
            for data in self._process.stdout:
                self._received.put(data.encode() if isinstance(data, str) else data)
        except BaseException as e:
            self._received.put(e)
        else:
            self._received.put(None)

    def _write(self) -> None:
        try:
            while (data := self._to_send.get()) is not None:
                self._process.stdin.write(data)
                self._process.stdin.drain()
        except BaseException:
            return  # the reader gets the error as well

    def next(self, wait_s: float) -> bytes | None:
        """Returns some bytes, empty when none arrived in time, None at the end. Raises what broke the stream."""
        try:
            received = self._received.get(timeout=wait_s)
        except queue.Empty:
            return b""
        if isinstance(received, BaseException):
            raise received
        return received

    def say(self, line: bytes) -> None:
        self._to_send.put(line + b"\n")

    def leave(self) -> None:
        self._to_send.put(None)

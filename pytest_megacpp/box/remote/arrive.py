"""Owns the first lines of the far side of a command surface: takes in the package, the source and the plan; must parse
and run under any Python since 3.6, from its source alone.

The desk starts `python3 -c …`, which greets and runs what the desk then sends, this module. A line of the desk says
what is wanted (`request`), the answers are lines that begin with `#`: `#here {…}` with what the desk has to know before
it can send a plan, `#refused {"cause":…,"detail":…,"remedy":…}`, `#unpacked` when all has arrived. From then on
`tether` speaks.
"""

import gzip
import json
import os
import platform
import shutil
import signal
import sys
import tarfile
import time
from typing import IO, Any, cast

OLDEST_PYTHON = (3, 11)
SILENT_S = 60  # for the desk to send the next piece
KEPT_S = 7 * 86400.0  # records that nobody fetched
MIB = 1 << 20


def main(desk: "IO[bytes]") -> int:
    """`desk` is standard input, of which the desk's lines and pieces are read. Returns the exit status."""
    if hasattr(signal, "alarm"):
        signal.alarm(SILENT_S)
    request = json.loads(desk.readline().decode("utf-8"))
    home = _home(request)
    say("here", _facts(request, home))
    refusal = _refusal(request, home)
    if refusal is not None:
        say("refused", refusal)
        return 1
    if request["wish"] == "look":
        return 0
    if request["wish"] == "start":
        try:
            _take_in(desk, home)
        except EOFError:
            return 1  # the desk is gone
        except OSError as error:
            say("refused", _no_room(home, error))
            shutil.rmtree(home, ignore_errors=True)
            return 1
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    sys.path.insert(0, os.path.join(home, "package"))
    from pytest_megacpp.box.remote import tether

    return tether.main(request, home, place())


def say(word: str, facts: "dict[str, Any]") -> None:
    """One line to the desk."""
    sys.stdout.write("#" + word + " " + json.dumps(facts) + "\n")
    sys.stdout.flush()


def place() -> str:
    """Where process ids mean the same: the host, and its namespace of processes where there are such."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _cache() -> str:
    """What runs and projects of a user share, as `settings.paths` has it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "pytest-megacpp")


def _home(request: "dict[str, Any]") -> str:
    """The directory of this run, real: what is started in it sees it under that name."""
    base = os.path.expanduser(request["directory"]) if request["directory"] else _cache()
    return os.path.join(os.path.realpath(base), "boxes", os.path.basename(request["run"]))


def _facts(request: "dict[str, Any]", home: str) -> "dict[str, Any]":
    facts = {}  # type: dict[str, Any]
    facts.update(
        {
            "python": sys.version.split()[0],
            "executable": sys.executable,
            "host": platform.node(),
            "home": home,
            "cache": os.path.realpath(_cache()),
        }
    )
    if request["wish"] == "look":
        facts["packages"] = {name: _version(name) for name in ("torch", "pytest")}
        facts["gpus"] = _gpus()
        facts["free_bytes"] = _free_bytes(home)
    return facts


def _version(package: str) -> "str | None":
    """Of an installed package; None where there is none."""
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:
        return None


def _gpus() -> "list[str]":
    """The names that the driver gives the GPUs; no GPU library is loaded."""
    found = []
    for place in sorted(_listed("/proc/driver/nvidia/gpus")):
        try:
            with open("/proc/driver/nvidia/gpus/" + place + "/information") as file:
                models = [line.split(":", 1)[1].strip() for line in file if line.startswith("Model:")]
        except OSError:
            continue
        found.extend(models)
    return found


def _listed(directory: str) -> "list[str]":
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _free_bytes(home: str) -> "int | None":
    """Where the run's directory is or would be; None where that can't be told."""
    while not os.path.isdir(home):
        above = os.path.dirname(home)
        if above == home:
            return None
        home = above
    try:
        return shutil.disk_usage(home).free
    except OSError:
        return None


def _refusal(request: "dict[str, Any]", home: str) -> "dict[str, str] | None":
    if sys.version_info[:2] < OLDEST_PYTHON:
        oldest, found = ".".join(map(str, OLDEST_PYTHON)), sys.version.split()[0]
        return {
            "cause": "python",
            "detail": f"{sys.executable} on {platform.node()} is Python {found}, ranks need {oldest} or newer",
            "remedy": "name a newer one with python",
        }
    if request["wish"] == "follow" and not os.path.isdir(home):
        detail = f"there is no run {request['run']} in {os.path.dirname(home)} on {platform.node()}"
        return {"cause": "no-such-run", "detail": detail, "remedy": ""}
    if request["wish"] == "start":
        return _not_writable(home)
    return None


def _not_writable(home: str) -> "dict[str, str] | None":
    """Makes the directory, readable for nobody else: the plan in it has the configured secrets."""
    try:
        _sweep(os.path.dirname(home))
        os.makedirs(os.path.dirname(home), exist_ok=True)
        os.mkdir(home, 0o700)
    except OSError as error:
        return _no_room(home, error)
    return None


def _no_room(home: str, error: OSError) -> "dict[str, str]":
    free = _free_bytes(home)
    left = "" if free is None else f", {free // MIB} MiB free there"
    return {
        "cause": "disk",
        "detail": f"{home} on {platform.node()} can't be written: {error.strerror or error}{left}",
        "remedy": "free some space, or name another place with directory",
    }


def _sweep(boxes: str) -> None:
    """Removes what earlier runs left: records that nobody fetched, and all of one that was killed and that nobody can
    ask for.
    """
    for name in _listed(boxes):
        old = os.path.join(boxes, name)
        newest = max([_changed(os.path.join(old, part)) for part in ("", "run/recording.jsonl", "run/control/lease")])
        if time.time() - newest > KEPT_S or _is_dead(old):
            shutil.rmtree(old, ignore_errors=True)


def _is_dead(home: str) -> bool:
    """Whether a run that ends with its connection was killed here."""
    try:
        with open(os.path.join(home, "holder.json")) as file:
            holder = json.load(file)
        if not holder["tied"] or holder["place"] != place():
            return False
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except Exception:
        return False
    return False


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _take_in(desk: "IO[bytes]", home: str) -> None:
    """Unpacks what the desk sends. Raises OSError, and EOFError where the desk is gone."""
    pieces = Pieces(desk)
    with (
        gzip.GzipFile(mode="rb", fileobj=cast("IO[bytes]", pieces)) as unpacked,
        tarfile.open(fileobj=unpacked, mode="r|") as archive,
    ):
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(home)
    while pieces.read(MIB):
        pass
    os.chmod(os.path.join(home, "plan.json"), 0o600)
    say("unpacked", {})


class Pieces:
    """A file that comes in pieces: a line with the number of bytes, and the bytes; zero is the end."""

    def __init__(self, desk: "IO[bytes]") -> None:
        self._desk = desk
        self._left = 0
        self._is_over = False

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end. Raises EOFError."""
        if self._left == 0 and not self._is_over:
            if hasattr(signal, "alarm"):
                signal.alarm(SILENT_S)
            line = self._desk.readline()
            if not line:
                raise EOFError
            self._left = int(line)
            self._is_over = self._left == 0
        if self._is_over:
            return b""
        data = self._desk.read(self._left if size < 0 else min(size, self._left))
        if not data:
            raise EOFError
        self._left -= len(data)
        return data

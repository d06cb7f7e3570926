"""Owns reading the dumps of faulthandler and py-spy: threads, frames, the line that matters; must not know why a stack
was taken.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]{1,16})", re.IGNORECASE)
_IDENTITY = re.compile(r"0x[0-9a-f]{1,16}", re.IGNORECASE)
_FRAME = re.compile(r'^\s+File "([^"\n]+)", line (\d{1,9}) in (.+)$')
_PYSPY_THREAD = re.compile(r'^Thread (?:0x[0-9A-Fa-f]{1,16}|\d{1,20}) \([a-z+]{1,20}\)(?:: "([^"\n]*)")?$')
_PYSPY_FRAME = re.compile(r"^ {4}(.+) \(([/<][^()\n]+):(\d{1,9})\)$")  # shortened names don't tell whose they are

# This package, and not a checkout of it: that may have the same name, and holds the user's tests.
_OWN = r"[/\\]pytest_megacpp[/\\](?:(?:recording|settings|box|rank|desk|surfaces|report|judge)[/\\]|plugin\.py$)"
_GENERATED = r"[/\\]\w{2}[/\\]c[a-z2-7]{51}\.py$"  # by Inductor, in its cache
_LIBRARY = re.compile(rf"[/\\](?:site-packages|dist-packages|lib[/\\]python3\.\d+)[/\\]|^<|{_OWN}|{_GENERATED}")
_TORCH = re.compile(r"[/\\](?:site|dist)-packages[/\\]torch[/\\]")
_FRAMED = re.compile(r"[/\\]pytest_megacpp[/\\]rank[/\\]native_calls\.py$")
_WRAPPER = re.compile(r"[/\\]pytest_megacpp[/\\]rank[/\\](?:native_calls|observers)\.py$")
_FORMATTING = re.compile(r"[/\\]_pytest[/\\]_code[/\\]")

# A thread whose innermost frames are a library's, and one of them is in these modules, waits for a peer.
_COMMUNICATION = re.compile(
    r"[/\\]torch[/\\](?:distributed[/\\](?:distributed_c10d|_functional_collectives|rendezvous|device_mesh|c10d_logger"
    r"|rpc[/\\]\w+|elastic[/\\]rendezvous[/\\]\w+)|futures[/\\]\w+)\b"
)
# These call user code and do work of their own as well: only their innermost frame, in a native call, is a wait.
_COMMUNICATION_AT_THE_TIP = re.compile(r"[/\\]torch[/\\](?:distributed[/\\]utils|nn[/\\]parallel[/\\]distributed)\b")
_WAITING = re.compile(r"\.(wait|synchronize|barrier)\(|\bTCPStore\(")
_POLLING = re.compile(r"\.is_completed\(")
_RENDEZVOUS = re.compile(r"[/\\]torch[/\\]distributed[/\\]rendezvous\b")
_NATIVE_NAMES = {name: f"Store.{name}" for name in ("get", "multi_get", "queue_pop")} | {"__init__": "TCPStore"}
_DECORATORS = frozenset({"wrapper", "func_wrapper"})  # of torch's c10d_logger and rpc
_RPC = re.compile(r"[/\\]distributed[/\\]rpc[/\\]")
_JOINING = frozenset({"init_process_group", "new_group", "init_device_mesh"})
_SLEEPING = re.compile(r"\bsleep\(")
_COMPILER = re.compile(r"[/\\](torch[/\\]_(dynamo|inductor|functorch|higher_order_ops)|triton|sympy)[/\\]")


@dataclass(frozen=True, slots=True)
class Frame:
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True)
class Thread:
    """Frames innermost first. `line` is the source of the innermost one, where it is known; py-spy gives `name`.
    `framed`: torch's blocking native calls have frames (`rank.native_calls`); otherwise only `line` can show them.
    """

    identity: str
    frames: tuple[Frame, ...]
    line: str = ""
    name: str = ""
    framed: bool = False


@lru_cache(maxsize=256)
def threads(dump: str) -> tuple[Thread, ...]:
    """The threads of a dump, in its order."""
    found: list[tuple[str, str, list[Frame]]] = []
    for line in dump.splitlines():
        if head := _THREAD.match(line):
            found.append((head[1].lower(), "", []))
        elif head := _PYSPY_THREAD.match(line):
            found.append(("", head[1] or "", []))
        elif found and (frame := _frame(line)):
            found[-1][2].append(frame)
    return tuple(Thread(identity, tuple(frames), name=name) for identity, name, frames in found)


def _frame(line: str) -> Frame | None:
    if frame := _FRAME.match(line):
        return Frame(frame[1], int(frame[2]), frame[3])
    if frame := _PYSPY_FRAME.match(line):
        return Frame(frame[2], int(frame[3]), frame[1])
    return None


def short_path(file: str, cwd: str) -> str:
    """The path as a reader knows the file: below `cwd`, or from the package on in an installation."""
    installed = re.split(r"[/\\](?:site|dist)-packages[/\\]", file)
    if len(installed) > 1:
        return installed[-1]
    root = cwd.rstrip("/") + "/"
    return file[len(root) :] if cwd and file.startswith(root) else file


def main_thread(dump: str, identity: str = "") -> Thread | None:
    """The thread named `identity` (hex), or that py-spy calls so; else the last one, where faulthandler puts it."""
    found = threads(dump)
    wanted = _number(identity)
    named = [t for t in found if t.name == "MainThread" or _number(t.identity) == wanted is not None]
    return named[0] if named else found[-1] if found else None


def main_first(dump: str, identity: str = "") -> str:
    """The same dump with the main thread (as `main_thread` finds it) before the others, and threads without a frame
    behind all others.
    """
    lines, found, main = dump.splitlines(), threads(dump), main_thread(dump, identity)
    heads = [at for at, line in enumerate(lines) if _THREAD.match(line) or _PYSPY_THREAD.match(line)]
    parts = ["\n".join(lines[start:end]).rstrip() for start, end in pairwise([0, *heads, len(lines)])]
    order = sorted(range(len(found)), key=lambda at: (not found[at].frames, found[at] is not main))
    return "\n\n".join([parts[0], *(parts[1 + at] for at in order)]).strip() if heads else dump


def _number(identity: str) -> int | None:
    return int(identity, 16) if _IDENTITY.fullmatch(identity) else None


def is_users(frame: Frame) -> bool:
    """Whether the file is outside of Python's, torch's and this plugin's own code."""
    return not _LIBRARY.search(frame.file)


def is_wrapper(frame: Frame) -> bool:
    """Whether the file only passes a call of torch's on, so that the plugin sees it."""
    return bool(_WRAPPER.search(frame.file))


def user_frame(thread: Thread) -> Frame | None:
    """The innermost frame outside Python's and torch's own code."""
    return next(filter(is_users, thread.frames), None)


def formats_exception(thread: Thread) -> bool:
    """Whether pytest makes a text of an exception, which takes a while: it was raised, and isn't reported yet."""
    inner = next((f for f in thread.frames if is_users(f) or _FORMATTING.search(f.file)), None)
    return inner is not None and not is_users(inner)


def is_communication(file: str) -> bool:
    """Whether what is raised or blocks in this file has to do with peers."""
    return bool(_COMMUNICATION.search(file) or _FRAMED.search(file))


def _in_native_wait(thread: Thread) -> bool:
    """Whether the thread waits in a native call without a frame: the caller's line is the innermost one."""
    if thread.framed or not thread.frames or _LIBRARY.search(thread.frames[0].file):
        return False
    return bool(_WAITING.search(thread.line) or _POLLING.search(thread.line))


def waits_for_peer(thread: Thread) -> bool:
    """Whether the thread sits in a distributed call: its innermost library frames are torch.distributed's, or it
    called a native object's wait.
    """
    if _in_native_wait(thread) or (thread.frames and _COMMUNICATION_AT_THE_TIP.search(thread.frames[0].file)):
        return True
    return any(is_communication(frame.file) for frame in thread.frames[: _user_depth(thread)])


def is_elsewhere(dump: str, main: Thread) -> bool:
    """Whether the process is seen in ordinary code: the main thread called nothing of torch's that could wait for a
    peer, and no other thread waits for one. A line that asks a collective whether it is over is no ordinary code.
    """
    if not main.frames or _may_wait_natively(main) or any(waits_for_peer(thread) for thread in threads(dump)):
        return False
    called = [f for f in main.frames[: _user_depth(main)] if _TORCH.search(f.file) or _FRAMED.search(f.file)]
    return user_frame(main) is not None and not called


def _user_depth(thread: Thread) -> int:
    return next((i for i, f in enumerate(thread.frames) if not _LIBRARY.search(f.file)), len(thread.frames))


def _may_wait_natively(thread: Thread) -> bool:
    """Whether the source line could be a wait in native code; where native calls have no frame, an unknown line could
    be a wait.
    """
    if _in_native_wait(thread) or _POLLING.search(thread.line):
        return True
    return not thread.framed and _user_depth(thread) == 0 and not thread.line


def joins_group(thread: Thread) -> bool:
    """Whether the thread makes a process group, where torch may look for its peers again and again."""
    return any(f.function in _JOINING and _COMMUNICATION.search(f.file) for f in thread.frames)


def seeks_store(thread: Thread) -> bool:
    """Whether the thread still connects to the store through which the ranks of a group find each other."""
    return any(_RENDEZVOUS.search(f.file) for f in thread.frames)


@lru_cache(maxsize=256)
def imports_compiler(dump: str) -> bool:
    """Whether a thread loads torch's compiler, which takes seconds before any compile is counted."""
    modules = [f for thread in threads(dump) for f in thread.frames if f.function == "<module>"]
    return any(_COMPILER.search(f.file) for f in modules)


def sleeps(thread: Thread) -> bool:
    """Whether the thread does nothing for a time that it chose itself."""
    return bool(_SLEEPING.search(thread.line))


def communication_call(thread: Thread) -> str | None:
    """The distributed function a waiting thread is in, by the name that users call (`recv`, `init_process_group` …)."""
    inside = thread.frames[: _user_depth(thread)]
    calls = [_public(f) for f in inside if _COMMUNICATION.search(f.file) and f.function not in _DECORATORS]
    public = [name for name in calls if not name.startswith("_")]
    framed = [_NATIVE_NAMES.get(f.function, f.function) for f in inside if _FRAMED.search(f.file)]
    return next(iter((*public, *calls, *framed)), "wait" if _in_native_wait(thread) else None)


def _public(frame: Frame) -> str:
    """`rpc.shutdown`: its functions have names that say little without it."""
    is_rpc = _RPC.search(frame.file) and not frame.function.startswith("_")
    return f"rpc.{frame.function}" if is_rpc else frame.function

"""Owns what the text of an error says apart from its kind: a short form, and the ranks that it names; must not know
times, nor what follows from it.
"""

import re
from dataclasses import dataclass

# For example `/default_pg/0//1//cpu//0/2`: the address of member 2 of group 1 in world 0.
_KEY_OF_ADDRESS = re.compile(r"keys: (?:\S*/)?([^/\s]*)//cpu//\d+/(\d{1,6})\b")
_KEY_OF_ID = re.compile(r"keys: (?:\S*/)?([^/\s]*)//cuda//0\b")
_SEEKS_ID = re.compile(r"retr(?:ei|ie)ving ncclUniqueId from \[0\]")
_SEEKER = re.compile(r"\[(\d{1,6})\] is setting up NCCL communicator")


@dataclass(frozen=True, slots=True)
class Awaited:
    """A member of a group whose entry in the store was waited for: gloo's address or NCCL's unique id.

    `number` is that member's number in the group, `seeker` the number of the rank that reports the error. `group` is
    the name of the group, empty if the text doesn't contain it.
    """

    number: int
    group: str = ""
    seeker: int | None = None


def awaited(message: str) -> Awaited | None:
    """Returns the member that did not come to its group; None if the error doesn't say."""
    if address := _KEY_OF_ADDRESS.search(message):
        return Awaited(int(address[2]), address[1])
    key, seeker = _KEY_OF_ID.search(message), _SEEKER.search(message)
    if key is None and _SEEKS_ID.search(message) is None:
        return None
    return Awaited(0, key[1] if key else "", int(seeker[1]) if seeker else None)


_ELSEWHERE = re.compile(r"Caught \w+ in (.+?)\.?$")  # torch passes on what a worker or a replica raised
_CHILD = re.compile(r"-- (Process \d+) terminated with the following error:$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*: (.+)")
_COMPILER_ERROR = re.compile(r"^.*(?::\d+:\d+: (?:fatal )?error: |\berror: ).*$", re.MULTILINE)
_LAST_ERROR = re.compile(r"^Last error:[^\S\n]*\n\s*(\S.*)$", re.MULTILINE)
_DIFFERENCES = ("Mismatched elements: ", "Greatest absolute difference: ", "Expected ", "Absolute difference: ")
_WORKER = re.compile(  # the root cause in torch elastic's ChildFailedError
    r"rank {1,40}: (?P<rank>\d{1,6}) [^\n]{0,400}\n\s{0,40}exitcode {1,40}: (?P<code>-?\d{1,6}) [^\n]{0,400}\n"
    r"(?:[^\n]{0,400}\n)?\s{0,40}traceback {1,40}: (?P<said>[^\n]*(?:\n(?![-=]{3}|\n)[^\n]*)*)"
)
_RANKS_TRACEBACK = re.compile(r"^Traceback \(most recent call last\): \(RANK (\d{1,6})\)$", re.MULTILINE)
_NOT_PASSED = re.compile(r"\[Rank (\d{1,6})\]: Ranks? (\d[\d, ]{0,2000}) failed to pass monitoredBarrier")
_HAS_PARAMS = re.compile(r"Rank \d{1,6} has (\d+ params), while rank \d{1,6} has inconsistent \d+ params")
_UNLIKE_FIRST = re.compile(
    r"params\[\d{1,9}\] in this process with sizes \[[\d, ]{0,200}\] appears not to match (?:sizes|strides) of the same"
    r" param in process 0"
)
_TENSOR_DIFFERS = re.compile(r"\btensor differs on ranks \[(\d{1,6}(?:, \d{1,6}){0,4096})\]:\n")
KEPT_HEADS = 3


def short_message(message: str) -> str:
    """Returns one line for a message of many: its first line, unless torch, NCCL or a compiler state the reason further
    down.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    if failed := failures(message):
        more = f" (and {len(failed) - 1} more ranks)" if len(failed) > 1 else ""
        return next(iter(failed.values())) + more
    if lines[0].endswith(" are not close!"):
        return f"{lines[0]} {'; '.join(line for line in lines[1:] if line.startswith(_DIFFERENCES))}"
    if (worker := _WORKER.search(message)) and lines[0].startswith("="):
        return f"{lines[1]}: {_how_it_ended(worker)}"
    raised = next((m for line in reversed(lines[1:]) if (m := _EXCEPTION.match(line))), None)
    if raised and (handed_on := _ELSEWHERE.match(lines[0])):
        return f"{raised[1]}, in {handed_on[1]}"
    if raised and (child := _CHILD.match(lines[0])):
        return f"{child[1]}: {raised[0]}"
    if lines[0].startswith("NCCL error in: ") and (last := _LAST_ERROR.search(message)):
        what = lines[0].partition(", ")[2].partition(" (run with")[0].partition(", NCCL version")[0]
        return f"NCCL: {what}: {last[1]}"
    heads = [lines.pop(0)]
    while heads[-1].endswith(":") and lines and len(heads) < KEPT_HEADS:
        heads.append(lines.pop(0))
    diagnostic = _COMPILER_ERROR.search("\n".join(lines)) if "ompile" in heads[-1] else None
    return " ".join(heads) + (f": {diagnostic[0]}" if diagnostic else "")


_FINGERPRINT = re.compile(
    r"[Rr]ank (\d{1,6}) is running collective: CollectiveFingerPrint\((.{0,400}?)\)(?=, but|\.|$)"
)


def fingerprints(message: str) -> dict[int, str]:
    """Returns, by rank, the collectives that torch's own comparison (TORCH_DISTRIBUTED_DEBUG=DETAIL) names."""
    return {int(rank): text for rank, text in _FINGERPRINT.findall(message)}


def _how_it_ended(worker: re.Match[str]) -> str:
    """Returns for example `worker 1 exited with code 3: ValueError: no shards`."""
    raised = [line.strip() for line in worker["said"].splitlines() if _EXCEPTION.match(line.strip())]
    error = f": {raised[-1]}" if raised and not raised[-1].startswith("To enable traceback") else ""
    return f"worker {worker['rank']} exited with code {worker['code']}{error}"


def failures(message: str) -> dict[int, str]:
    """Returns, by rank, the errors that torch's distributed checkpointing passes on in the exception of every rank."""
    _, *parts = _RANKS_TRACEBACK.split(message)  # rank, traceback, rank, traceback …
    return {int(rank): _raised_last(text) for rank, text in zip(parts[::2], parts[1::2], strict=True)}


def _raised_last(traceback: str) -> str:
    """Returns what follows the last frame of a traceback: `OSError: [Errno 28] No space left on device`."""
    lines = traceback.splitlines()
    return next((line.strip() for line in lines if line and not line[0].isspace()), "an exception")


def place_of(message: str, rank: int) -> tuple[str, int]:
    """Returns file and line of the innermost frame of a rank's part of such a message; empty if it has none."""
    part = message.partition(f"(RANK {rank})")[2].partition("(RANK ")[0]
    frames = re.findall(r'^  File "([^"\n]+)", line (\d{1,9})', part, re.MULTILINE)
    return (frames[-1][0], int(frames[-1][1])) if frames else ("", 0)


def absent(message: str) -> tuple[int, frozenset[int]] | None:
    """Returns the rank that reports a time-out of torch's monitored barrier and the ranks that have not come.

    All numbers are those of the group. None if the message is no such time-out.
    """
    found = _NOT_PASSED.search(message)
    if found is None:
        return None
    return int(found[1]), frozenset(int(part) for part in found[2].split(",") if part.strip().isdecimal())


def unlike_first(message: str) -> str:
    """Returns what DDP says of a parameter whose shape or layout isn't that of the group's first rank; else empty. The
    first rank compares itself with nobody.
    """
    found = _UNLIKE_FIRST.search(message)
    return found[0] if found else ""


def of_another_tensor(message: str) -> tuple[int, ...]:
    """Returns the ranks whose tensor isn't that of most ranks, as `Lane.assert_same` names them; else none."""
    found = _TENSOR_DIFFERS.search(message)
    return tuple(map(int, found[1].split(", "))) if found else ()


def parameters(message: str) -> str:
    """Returns the number of parameters of the model of the rank that reports, as DDP states it when ranks differ; else
    empty.
    """
    found = _HAS_PARAMS.search(message)
    return found[1] if found else ""

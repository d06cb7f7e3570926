"""Owns what goes wrong in an emulator: plain fields that a test sets, read at the moment they matter."""

from dataclasses import dataclass, field

from grpclib import Status


@dataclass
class Faults:
    """Set any time; nothing goes wrong by default.

    `statuses`: the next calls of an RPC answer this, one per entry. `build_log`: an image build says this and, with
    `build_fails`, ends in failure. `capacity`: whether sandboxes get a machine; `capacity_after_s`: how late.
    `end_s`: how long a termination takes beyond its answer.
    """

    reject_credentials: bool = False
    statuses: dict[str, list[tuple[Status, str]]] = field(default_factory=dict)
    build_log: tuple[str, ...] = ()
    build_fails: bool = False
    build_s: float = 0.0
    capacity: bool = True
    capacity_after_s: float = 0.0
    no_exec: bool = False
    end_s: float = 0.0

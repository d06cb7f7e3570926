"""Owns the digests that a rank would send of entries of its flight recorder; must not know recorders."""

from collections.abc import Iterable

from pytest_megacpp.recording.events import Collective
from pytest_megacpp.recording.issued import Digests, hashed
from pytest_megacpp.recording.operations import signature


def digests(entries: Iterable[Collective]) -> dict[str, str]:
    """By group. Of several groups that had one name after each other only the newest counts."""
    found = Digests()
    found.add(
        (e.group, e.pg, e.seq, hashed(signature(e.op, e.dtype, e.numel_in)))
        for e in sorted(entries, key=lambda e: (e.pg, e.seq))
        if not e.p2p
    )
    return found.end()

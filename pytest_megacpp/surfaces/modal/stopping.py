"""Owns ending a sandbox that no desk follows; must not know what its run came to.

The box is asked to end in order, which keeps its records; one that does not answer is terminated.
"""

import contextlib
import tempfile
import time
from pathlib import Path

from pytest_megacpp.recording.plan import Stop
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal.config import ModalConfig
from pytest_megacpp.surfaces.modal.conversation import Conversation
from pytest_megacpp.surfaces.modal.inbox import Inbox
from pytest_megacpp.surfaces.protocol import SurfaceFailed

STOP_S = 60.0  # for a box to end in order and to keep its records


def stop(run_id: str, config: ModalConfig) -> str | None:
    """Ends the sandbox of a run; returns what was done, None where none is running. Raises SurfaceFailed."""
    try:
        client.connect()
        sandbox = client.find(config.app, run_id, config.environment)
        if sandbox is None:
            return None
        name = f"sandbox {sandbox.object_id}"
        if _ended_in_order(run_id, sandbox, config):
            return f"{name} ended in order"
        if client.terminate(sandbox):
            return f"{name} did not end in order within {STOP_S:.0f} s and was terminated"
    except failures.SurfaceError as e:
        raise SurfaceFailed(failures.in_words(e)) from e
    raise SurfaceFailed(f"{name} was asked to end, but Modal has not confirmed it: look at modal container list")


def _ended_in_order(run_id: str, sandbox: object, config: ModalConfig) -> bool:
    deadline = time.monotonic() + STOP_S
    with tempfile.TemporaryDirectory(prefix="megacpp-stop-") as directory:
        inbox = Inbox(run_id, Path(directory))
        words = (Stop(RunEnd.INTERRUPTED, by_command=True),)
        conversation = Conversation(run_id, sandbox, config, inbox, words, lambda: time.monotonic() > deadline)
        with contextlib.suppress(Exception):  # whatever it is, the sandbox is terminated
            if conversation.follow() is not None:
                return True  # it ended while it was followed
        return conversation.is_complete and conversation.ends_by_itself()

"""Owns ending a sandbox that no desk follows; must not know what its run came to.

The box is asked to end in order, which keeps its records; one that does not answer is terminated.
"""

import tempfile
import time
from pathlib import Path

from pytest_megacpp.recording.plan import Stop
from pytest_megacpp.recording.vocabulary import RunEnd
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal.config import ModalConfig
from pytest_megacpp.surfaces.modal.conversation import GIVEN_BACK_S, Conversation
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
        has_ended, how = _ask_to_end(run_id, sandbox, config)
        if has_ended:
            return f"{name} {how}"
        if client.terminate(sandbox):
            return f"{name} {how}, and was terminated"
    except failures.SurfaceError as e:
        raise SurfaceFailed(failures.in_words(e)) from e
    raise SurfaceFailed(f"{name} was asked to end, but Modal has not confirmed it: look at modal container list")


def _ask_to_end(run_id: str, sandbox: object, config: ModalConfig) -> tuple[bool, str]:
    """Returns whether the sandbox has ended, and how it took the request. Whatever goes wrong, it can be terminated."""
    deadline, code = time.monotonic() + STOP_S, None
    with tempfile.TemporaryDirectory(prefix="megacpp-stop-") as directory:
        inbox = Inbox(run_id, Path(directory))
        words = (Stop(RunEnd.INTERRUPTED, by_command=True),)
        conversation = Conversation(run_id, sandbox, config, inbox, words, lambda: time.monotonic() > deadline)
        try:
            code = conversation.follow()
        except failures.Cancelled:
            pass  # it is late
        except Exception as e:
            if not conversation.is_complete:
                return False, f"could not be asked to end ({failures.surface_error(e).problem.detail})"
    if code is not None:
        return True, f"ended with exit {code}" if code else "ended in order"
    if not conversation.is_reached:
        return False, f"could not be reached within {STOP_S:.0f} s"
    if not conversation.is_complete:
        return False, f"did not end in order within {STOP_S:.0f} s"
    if not conversation.ends_by_itself():
        return False, f"was still there {GIVEN_BACK_S:.0f} s after its box had ended in order"
    return True, "ended in order"

"""Owns asking the box of a run that no desk follows; must not know what it is asked or what its answer means.

The recording is read from its beginning into a directory of the asker, which leaves the run's own as it is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_megacpp.recording.commands import Word
from pytest_megacpp.surfaces.inbox import Inbox
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal.config import ModalConfig
from pytest_megacpp.surfaces.modal.conversation import Conversation
from pytest_megacpp.surfaces.protocol import SurfaceFailed


def visit(run_id: str, config: ModalConfig, into: Path, words: Sequence[Word], is_over: Callable[[bool], bool]) -> bool:
    """See `Attaching.visit`."""
    try:
        client.connect()
        sandbox = client.find(config.app, run_id, config.environment)
        if sandbox is None:
            return False
        inbox = Inbox(run_id, into)
        conversation = Conversation(
            run_id, sandbox, config, inbox, words, is_cancelled=lambda: is_over(conversation.is_up_to_date)
        )
        conversation.follow()
    except (failures.SurfaceError, failures.CallTimeout) as e:
        raise SurfaceFailed(failures.in_words(e)) from e
    except failures.Cancelled:
        pass
    return True

"""What commands say of a sandbox that no desk follows, whatever becomes of the connection to it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_megacpp.surfaces.modal import client, conversation, looking, stopping
from pytest_megacpp.surfaces.modal.config import ModalConfig
from pytest_megacpp.surfaces.modal.failures import CallTimeout, Cancelled
from pytest_megacpp.surfaces.protocol import SurfaceFailed

RUN = "20261129-233000-0a0b"


@pytest.fixture
def terminated(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The sandboxes that are; there is one."""
    ended: list[object] = []
    monkeypatch.setattr(client, "connect", lambda: None)
    monkeypatch.setattr(client, "find", lambda *_: SimpleNamespace(object_id="sb-1"))

    def terminate(sandbox: object) -> bool:
        ended.append(sandbox)
        return True

    monkeypatch.setattr(client, "terminate", terminate)
    return ended


@pytest.fixture
def follows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`follows(result, reached, complete, goes)`: what comes of the conversation, and whether the sandbox goes after
    its end.
    """

    def set_up(
        result: int | BaseException | None = None, *, reached: bool = True, complete: bool = False, goes: bool = True
    ) -> None:
        def follow(self: conversation.Conversation) -> int | None:
            self._reached_s = 1.0 if reached else None
            self.is_complete = complete
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(conversation.Conversation, "follow", follow)
        monkeypatch.setattr(conversation.Conversation, "ends_by_itself", lambda self: goes)

    return set_up


def test_one_that_ends_in_order_is_not_terminated(terminated: list[object], follows: Callable[..., None]) -> None:
    for result, complete, how in (
        (None, True, "ended in order"),
        (0, False, "ended in order"),
        (137, False, "ended with exit 137"),
        (TimeoutError(), True, "ended in order"),
    ):
        follows(result, complete=complete)
        assert stopping.stop(RUN, ModalConfig()) == f"sandbox sb-1 {how}"
    assert not terminated


def test_why_one_is_terminated(terminated: list[object], follows: Callable[..., None]) -> None:
    """A box that did not answer is not one that could not be asked, nor one that had ended before its sandbox."""
    said = []
    for result, reached, complete in (
        (None, True, False),
        (None, True, True),
        (ValueError("no such thing"), True, False),
        (CallTimeout("a follower", 30), False, False),
        (Cancelled(), False, False),
    ):
        follows(result, reached=reached, complete=complete, goes=False)
        said.append(stopping.stop(RUN, ModalConfig()))
    assert said == [
        "sandbox sb-1 did not end in order within 60 s, and was terminated",
        "sandbox sb-1 was still there 20 s after its box had ended in order, and was terminated",
        "sandbox sb-1 could not be asked to end (ValueError: no such thing), and was terminated",
        "sandbox sb-1 could not be asked to end (Modal cannot be reached: a follower took longer than 30 s), "
        "and was terminated",
        "sandbox sb-1 could not be reached within 60 s, and was terminated",
    ]
    assert len(terminated) == len(said)


def test_a_machine_that_never_comes_is_said(
    tmp_path: Path, terminated: list[object], follows: Callable[..., None]
) -> None:
    follows(CallTimeout("the machine", 600))
    with pytest.raises(SurfaceFailed, match="Modal has no capacity: the machine took longer than 600 s; rerun later"):
        looking.visit(RUN, ModalConfig(), tmp_path, (), lambda is_up_to_date: False)

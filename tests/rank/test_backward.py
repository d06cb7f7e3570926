"""Being there when a backward pass runs, without torch's compiler noticing."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch.autograd import graph

from pytest_megacpp.rank import backward
from pytest_megacpp.rank.compiler import Unwatchable


@pytest.fixture
def heard() -> Iterator[list[str]]:
    said: list[str] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        said.append("begins")
        yield
        said.append("is over")

    own = graph._engine_run_backward.__code__
    backward.watch(around)
    yield said
    graph._engine_run_backward.__code__ = own


def test_each_pass_is_heard(heard: list[str]) -> None:
    weight = torch.ones(3, requires_grad=True)
    (weight * 2).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2, 2]
    assert torch.autograd.grad((weight * 3).sum(), weight)[0].tolist() == [3, 3, 3]
    assert heard == ["begins", "is over"] * 2


def test_one_that_fails_fails_as_it_did(heard: list[str]) -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.ones(1).backward()  # type: ignore[no-untyped-call]
    assert heard == ["begins"]


def test_the_function_keeps_its_identity_and_file(heard: list[str]) -> None:
    assert vars(torch.autograd)["_engine_run_backward"] is graph._engine_run_backward
    assert graph._engine_run_backward.__code__.co_filename == graph.__file__


def test_another_torch_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_engine_run_backward", print)
    with pytest.raises(Unwatchable):
        backward.watch(contextlib.nullcontext)


def test_a_torch_that_hides_its_compiler_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be asked for would raise in every pass of a test."""
    own = graph._engine_run_backward.__code__
    monkeypatch.delattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback")
    with pytest.raises(Unwatchable):
        backward.watch(contextlib.nullcontext)
    assert graph._engine_run_backward.__code__ is own

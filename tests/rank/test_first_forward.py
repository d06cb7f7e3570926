"""What is reported of first forwards, and that nothing compiled while they are watched differs from the rest."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from pytest_megacpp.rank import first_forward
from pytest_megacpp.rank.compiler import Unwatchable
from pytest_megacpp.rank.first_forward import KEPT_MODULES, WATCHED_CALLS, watching

TORCHS_CODE = torch.nn.Module.__call__.__code__


class Inner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.shape:
            raise LookupError("no rows")
        return x @ x


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x) + 1
        return result


class Telling(list[str]):
    def __call__(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.append(name)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    yield
    assert torch.nn.Module.__call__.__code__ is TORCHS_CODE


ONES = torch.ones(2, 2)


def test_outermost_calls_of_different_modules_are_said_once() -> None:
    heard, net = Telling(), Net()
    with watching(heard):
        for module in (net, Inner(), net):
            module(ONES)
    net(ONES)
    assert heard == ["Net", "Inner"]


def test_it_stays_away_after_some_modules_or_many_calls() -> None:
    heard, net = Telling(), Net()
    with watching(heard):
        for _ in range(KEPT_MODULES + 2):
            Inner()(ONES)
        assert torch.nn.Module.__call__.__code__ is TORCHS_CODE
    with watching(heard):
        for _ in range(WATCHED_CALLS):
            net(ONES)
        assert torch.nn.Module.__call__.__code__ is TORCHS_CODE
    assert heard == ["Inner"] * KEPT_MODULES + ["Net"]


def test_an_exception_is_the_module_s_own_and_no_first_forward() -> None:
    heard, net = Telling(), Net()
    with watching(heard):
        with pytest.raises(LookupError, match="no rows"):
            net(torch.tensor(1.0))
        net(ONES)
    assert heard == ["Net"]


def test_a_block_that_fails_leaves_torch_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), watching(Telling()):
        raise ZeroDivisionError


def test_other_threads_are_let_through() -> None:
    heard, results = Telling(), []
    with watching(heard):
        thread = threading.Thread(target=lambda: results.append(Net()(ONES)))
        thread.start()
        thread.join()
    assert torch.equal(results[0], ONES * 2 + 1)
    assert heard == []


def test_a_torch_that_calls_modules_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda self, *args: self.forward(*args))
    with pytest.raises(Unwatchable), watching(Telling()):
        pass


def test_names_are_those_of_the_user_s_classes() -> None:
    heard = Telling()
    sharded = Net()
    sharded.__class__ = type("FSDPNet", (type("FSDPModule", (), {}), Net), {})
    with watching(heard):
        sharded(ONES)
        torch.compile(Inner(), backend="eager")(ONES)
    assert heard == ["Net", "Inner"]


def as_module(net: Net) -> Callable[[torch.Tensor], Any]:
    return torch.compile(net, backend=_seen, fullgraph=True)


def in_place(net: Net) -> Callable[[torch.Tensor], Any]:
    net.compile(backend=_seen, fullgraph=True)
    return net


def in_a_function(net: Net) -> Callable[[torch.Tensor], Any]:
    return torch.compile(lambda x: net(x) @ x, backend=_seen, fullgraph=True)


def after_a_break(net: Net) -> Callable[[torch.Tensor], Any]:
    def step(x: torch.Tensor) -> Any:
        x = x @ x
        torch._dynamo.graph_break()
        return net(x)

    return torch.compile(step, backend=_seen)


_graphs: list[str] = []


def _seen(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
    _graphs.append(graph.print_readable(print_output=False))
    return graph.forward


Way = Callable[[Net], Callable[[torch.Tensor], Any]]


def compiled(way: Way, *, hooks: bool, watched: bool, compiled_before: bool = False) -> list[str]:
    """The graphs of two steps, watched or not, and of two more the other way round, which must need no new ones."""
    torch._dynamo.reset()
    counters.clear()
    _graphs.clear()
    net = Net()
    if hooks:
        net.inner.register_forward_hook(lambda module, args, out: out @ out)
        net.register_forward_pre_hook(lambda module, args: (args[0] @ args[0],))
    step = way(net) if compiled_before else None
    with watching(Telling()) if watched else contextlib.nullcontext():
        step = way(net) if step is None else step
        step(ONES)
        step(ONES)
    graphs = list(_graphs)
    with watching(Telling()) if not watched else contextlib.nullcontext():
        step(ONES)
    step(ONES)
    assert _graphs == graphs
    assert sum(counters["graph_break"].values()) == (way is after_a_break)
    return graphs


@pytest.mark.parametrize("hooks", [False, True], ids=["plain", "hooks"])
@pytest.mark.parametrize("way", [as_module, in_place, in_a_function, after_a_break])
def test_what_is_compiled_is_the_same_as_without(way: Way, hooks: bool) -> None:
    """Compile caches take their keys from these graphs."""
    graphs = compiled(way, hooks=hooks, watched=False)
    assert graphs
    assert compiled(way, hooks=hooks, watched=True) == graphs
    assert compiled(way, hooks=hooks, watched=True, compiled_before=True) == graphs


def test_the_exchanged_code_ends_like_torch_s() -> None:
    """It stands for torch's own where something is compiled around it."""
    assert set(TORCHS_CODE.co_names) <= set(first_forward._watched.__code__.co_names)

"""What makes a rank's keys of torch's compile caches its own."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.compiler.config as config

from pytest_megacpp.rank.cache_keys import TAG, separate_keys


@pytest.fixture(autouse=True)
def _torch_s_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(TAG, "megacpp")
    module: Any = config  # torch adds `patch` when it is imported
    with module.patch(cache_key_tag=""):
        yield


def test_the_rank_is_in_the_tag_for_children_too() -> None:
    separate_keys(3, 8)
    assert config.cache_key_tag == os.environ[TAG] == "megacpp-rank3of8"


def test_a_tag_of_the_operator_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TAG, "nightly")
    separate_keys(0, 2)
    assert config.cache_key_tag == "nightly-rank0of2"


def test_an_empty_tag_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TAG, "")
    separate_keys(0, 2)
    assert (config.cache_key_tag, os.environ[TAG]) == ("", "")


@pytest.mark.parametrize("kind", ["FxGraphHashDetails", "AOTAutogradCacheDetails"])
def test_torch_s_keys_hold_the_tag(kind: str) -> None:
    """Of both caches: the second one's details are the first one's and more."""
    from torch._functorch._aot_autograd.autograd_cache import AOTAutogradCacheDetails
    from torch._inductor.codecache import FxGraphHashDetails

    known = {"FxGraphHashDetails": FxGraphHashDetails, "AOTAutogradCacheDetails": AOTAutogradCacheDetails}[kind]
    separate_keys(1, 2)
    graph = torch.fx.GraphModule({}, torch.fx.Graph())
    details = FxGraphHashDetails(graph, [], {}, [])
    assert issubclass(known, FxGraphHashDetails)
    assert details.cache_key_tag == "megacpp-rank1of2"

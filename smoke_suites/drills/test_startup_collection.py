"""A rank that collects other tests than its peers: the tests that all have in common still run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane

pytestmark = pytest.mark.h200x8(ranks=2, test=60)

if os.environ.get("RANK") != "1":

    @pytest.mark.expect_verdict("startup-failure", ranks=[1], cause="collection")
    def test_unknown_to_rank_1(modal_h200x8: Lane) -> None:
        pytest.fail("no rank may run what not every rank has collected")


def test_known_to_every_rank(modal_h200x8: Lane) -> None:
    assert modal_h200x8.ranks == 2

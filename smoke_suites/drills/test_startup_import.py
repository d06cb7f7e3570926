"""A test file that doesn't import on one rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_megacpp.rank.lane import Lane

if os.environ.get("RANK") == "1":
    raise ImportError("a library is missing on rank 1, on purpose")


@pytest.mark.h200x8(ranks=2, test=60)
@pytest.mark.expect_verdict("startup-failure", ranks=[1], cause="import")
def test_not_importable_on_rank_1(modal_h200x8: Lane) -> None:
    pytest.fail("no rank may run what not every rank has imported")

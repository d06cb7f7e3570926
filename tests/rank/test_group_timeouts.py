"""The heartbeat that groups of NCCL are made with: torch reads it from the environment, once for each group."""

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest

from pytest_megacpp.rank.group_timeouts import BOX_FIRST_S, HEARTBEAT, Patience
from pytest_megacpp.recording.events import Limits
from pytest_megacpp.recording.plan import RELAXED_HEARTBEAT_S

LIMITS = Limits(skew=20, stall=30, test=100)
STRICT = str(int(100 + BOX_FIRST_S))
RELAXED = str(RELAXED_HEARTBEAT_S)


@pytest.fixture(autouse=True)
def groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has none."""
    monkeypatch.setattr("pytest_megacpp.rank.group_timeouts._backends", list)


def heartbeat() -> str:
    return os.environ[HEARTBEAT]


def test_it_is_relaxed_until_the_warm_up_of_each_test_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEARTBEAT, RELAXED)
    patience = Patience()
    patience.begin(LIMITS)
    assert heartbeat() == RELAXED, "a first forward may compile without being called a warm-up"
    with patience.warming():
        assert heartbeat() == RELAXED
    assert heartbeat() == STRICT
    with patience.warming():
        assert heartbeat() == RELAXED
    patience.begin(Limits(skew=20, stall=30, test=50))
    assert heartbeat() == RELAXED, "the next test may compile as long before it warms up"
    with patience.warming():
        pass
    assert heartbeat() == str(int(50 + BOX_FIRST_S))


def test_a_warm_up_that_fails_is_over_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEARTBEAT, RELAXED)
    patience = Patience()
    patience.begin(LIMITS)
    with pytest.raises(ValueError, match="no shards"), patience.warming():
        raise ValueError("no shards")
    assert heartbeat() == STRICT


def test_limits_longer_than_the_relaxed_one_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEARTBEAT, RELAXED)
    patience = Patience()
    patience.begin(Limits(test=9000))
    with patience.warming():
        pass
    assert heartbeat() == RELAXED


@pytest.mark.parametrize("theirs", ["600", None])
def test_the_user_s_own_stays(monkeypatch: pytest.MonkeyPatch, theirs: str | None) -> None:
    monkeypatch.delenv(HEARTBEAT, raising=False)
    if theirs is not None:
        monkeypatch.setenv(HEARTBEAT, theirs)
    patience = Patience()
    patience.begin(LIMITS)
    with patience.warming():
        pass
    assert os.environ.get(HEARTBEAT) == theirs


def test_a_time_out_that_torch_returns_a_millisecond_short_is_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backend:
        given = timedelta(seconds=LIMITS.test + BOX_FIRST_S)
        options = SimpleNamespace(_timeout=given - timedelta(milliseconds=1))

        def _set_default_timeout(self, timeout: timedelta) -> None:
            self.options._timeout = timeout

    backend = Backend()
    monkeypatch.setattr("pytest_megacpp.rank.group_timeouts._backends", lambda: [backend])
    patience = Patience()
    patience.begin(LIMITS)
    patience.begin(Limits(skew=20, stall=30, test=200))
    assert backend.options._timeout == timedelta(seconds=200 + BOX_FIRST_S), "it follows the limits of the next test"

"""What a rank makes of pytest's options; whole sessions run in tests/plugin."""

import pytest

from pytest_megacpp.rank.session import RankSession

pytest_plugins = "pytester"


@pytest.mark.parametrize("terminal", [True, False])
def test_evidence_keeps_its_tracebacks_whatever_the_terminal_shows(
    terminal: bool, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGACPP_TMP", str(pytester.path))
    args = ["--tb=no"] if terminal else ["-p", "no:terminal"]
    config = pytester.parseconfig("-p", "no:megacpp", *args)
    RankSession.pytest_cmdline_main(object.__new__(RankSession), config)
    assert config.getoption("tbstyle", "auto") == ("short" if terminal else "auto")
    assert config.option.basetemp == str(pytester.path)

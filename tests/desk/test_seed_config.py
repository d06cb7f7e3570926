import tomllib
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.seed import SeedConfig, project_of, read_seed

GIB = 1 << 30


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert read_seed({}, Path("/p")) == SeedConfig(Path("/c/pytest-megacpp/seeds"), 0, 5, 20 * GIB)


def test_all_of_it() -> None:
    toml = "dir = 'build/seeds'\nmin_bytes = 1_000\nkeep = 2\nmax_bytes = 4_000\nproject = 'mine'"
    config = read_seed(tomllib.loads(toml), Path("/p"))
    assert config == SeedConfig(Path("/p/build/seeds"), 1000, 2, 4000, "mine")


def test_a_directory_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read_seed({"dir": "~/s"}, Path("/p")).dir == Path("/home/me/s")
    assert read_seed({"dir": "/s"}, Path("/p")).dir == Path("/s")


def test_projects_without_a_name_share_only_a_store_that_they_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert [project_of(read_seed({}, root), root) for root in (one, two)] == [str(one), str(two)]
    assert [project_of(read_seed({"dir": "/shared"}, root), root) for root in (one, two)] == ["", ""]
    assert project_of(read_seed({"dir": "/shared", "project": "mine"}, one), one) == "mine"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("kep = 1", "[tool.pytest_megacpp.seed]: unknown key 'kep'; did you mean 'keep'?"),
        ("keep = 0", "keep must be a whole number of at least 1, not 0"),
        ("max_bytes = 1.5", "max_bytes must be a whole number"),
        ("min_bytes = true", "min_bytes must be a whole number"),
        ("dir = 1", "dir must be a non-empty string, not 1"),
        ("dir = ''", "dir must be a non-empty string"),
        ("project = 1", "project must be a non-empty string, not 1"),
    ],
)
def test_nonsense_is_said(toml: str, said: str) -> None:
    with pytest.raises(pytest.UsageError) as error:
        read_seed(tomllib.loads(toml), Path("/p"))
    assert said in str(error.value)

"""What a project is called: the same wherever it lies, and nothing that another one is called."""

import subprocess
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.project import identity


def cloned(root: Path, url: str) -> Path:
    """As if it had been cloned from there."""
    root.mkdir(parents=True, exist_ok=True)
    for words in (["init", "-q"], ["config", "remote.origin.url", url]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/Org/repo.git",
        "https://x-access-token:ghs_secret@github.com/Org/repo",
        "https://user:p@ss@github.com/Org/repo.git",
        "git@github.com:Org/repo.git",
        "ssh://git@github.com:22/Org/repo.git",
        "git://GitHub.com/Org/repo/",
    ],
)
def test_a_clone_is_the_same_project_however_it_was_fetched(tmp_path: Path, url: str) -> None:
    root = cloned(tmp_path / "somewhere", url)
    assert identity(root) == "github.com/Org/repo"
    (root / "libs" / "a").mkdir(parents=True)
    assert identity(root / "libs" / "a") == "github.com/Org/repo/libs/a"


@pytest.mark.parametrize(
    "url",
    [
        "https://host/org/repo@v1.git",
        "https://Host/org/repo@v1/",
        "https://user@host/org/repo@v1",
        "ssh://git@host/org/repo@v1",
        "git@host:org/repo@v1.git",
    ],
)
def test_an_at_in_the_path_is_part_of_the_name(tmp_path: Path, url: str) -> None:
    assert identity(cloned(tmp_path, url)) == "host/org/repo@v1"


@pytest.mark.parametrize(
    "url",
    [
        "https://user:p/a@ss@host/x",
        "https://user:12/a@host/x",
        "https://me@corp.com:p/a@host/x",
        "https://user:pa@/x",
        "user:a@ss@host:x",
        "user:a@ss@host/x",
        "me@corp.com:pa@host:x",
    ],
)
def test_no_part_of_a_password_is_a_name(tmp_path: Path, url: str) -> None:
    assert identity(cloned(tmp_path, url)) == ""


def test_a_name_is_the_same_without_git(tmp_path: Path) -> None:
    root = cloned(tmp_path / "somewhere", "https://github.com/org/repo")
    for place in (root, tmp_path):
        (place / "pyproject.toml").write_text('[project]\nname = "My_Project.x"\n')
        assert identity(place) == "my-project-x"
        assert identity(place, "chosen") == "chosen"


@pytest.mark.parametrize("text", ["", "[project", "[project]\nversion = '1'", "project = 3", "[project]\nname = 3"])
def test_a_project_without_a_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert identity(tmp_path) == ""


def test_a_directory_is_no_name_elsewhere(tmp_path: Path) -> None:
    assert identity(cloned(tmp_path / "clone", "/srv/git/repo.git")) == ""

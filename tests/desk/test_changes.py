"""What a change comes to, asked of real git."""

import shutil
from pathlib import Path

import pytest

from pytest_megacpp.desk.gate.changes import changes_since, python_files
from tests.desk.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two commits on main, and a branch `work` with HEAD on it."""
    repository = Repository.new(tmp_path / "repo")
    for name in ("kernels/old.py", "kernels/kept.py", "docs/a.md", "gone.py"):
        repository.write(name, f"# {name}\n" * 20)
    repository.commit()
    repository.git("checkout", "-q", "-b", "work")
    return repository


def test_nothing_changed(repository: Repository) -> None:
    changes = changes_since("main", repository.root)
    assert (changes.paths, changes.unknown) == ((), "")
    assert changes.base == repository.git("rev-parse", "main")


def test_everything_that_can_change_is_counted(repository: Repository) -> None:
    repository.git("mv", "kernels/old.py", "kernels/new.py")
    repository.commit()
    repository.write("staged.py", "x = 1")
    repository.git("add", "staged.py")
    repository.write("kernels/kept.py", "x = 1")
    repository.write("deep/er/untracked file\n.py", "x = 1")
    repository.write("ignored.py", "x = 1")
    repository.write(".gitignore", "ignored.py\n")
    (repository.root / "gone.py").unlink()
    changes = changes_since("main", repository.root)
    assert set(changes.paths) == {
        *("kernels/old.py", "kernels/new.py", "staged.py", "kernels/kept.py", "gone.py", ".gitignore"),
        "deep/er/untracked file\n.py",
    }
    assert changes.deleted == {"kernels/old.py", "gone.py"}


def test_what_others_merged_meanwhile_is_not_this_change(repository: Repository) -> None:
    repository.write("mine.py")
    repository.commit()
    repository.git("checkout", "-q", "main")
    repository.write("theirs.py")
    repository.commit()
    repository.git("checkout", "-q", "work")
    assert changes_since("main", repository.root).paths == ("mine.py",)


def test_a_change_that_was_taken_back_is_none(repository: Repository) -> None:
    before = (repository.root / "gone.py").read_text()
    repository.write("gone.py", "other")
    repository.commit()
    repository.write("gone.py", before)
    assert changes_since("main", repository.root).paths == ()


def test_a_criss_cross_history_is_compared_with_all_its_bases(repository: Repository) -> None:
    repository.write("a.py")
    first = repository.commit()
    repository.git("checkout", "-q", "main")
    repository.write("b.py")
    second = repository.commit()
    repository.git("merge", "-q", "--no-edit", first)
    repository.git("checkout", "-q", "work")
    repository.git("merge", "-q", "--no-edit", second)
    assert set(changes_since("main", repository.root).paths) == {"a.py", "b.py"}


def test_a_detached_head_and_a_subdirectory_are_no_obstacle(repository: Repository) -> None:
    repository.write("mine.py")
    repository.commit()
    repository.git("checkout", "-q", "--detach")
    repository.git("config", "diff.relative", "true")
    changes = changes_since("main", repository.root / "kernels")
    assert (changes.paths, changes.root) == (("mine.py",), repository.root)


def test_compiled_files_are_no_change(repository: Repository) -> None:
    repository.write("kernels/__pycache__/old.cpython-311.pyc")
    assert changes_since("main", repository.root).paths == ()


def test_other_repositories_inside_are_opaque(repository: Repository) -> None:
    inner = Repository.new(repository.root / "third_party" / "inner")
    inner.write("x.py")
    inner.commit()
    assert changes_since("main", repository.root).opaque == {"third_party/inner"}
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner.root), "sub")
    assert "sub" in changes_since("main", repository.root).opaque


@pytest.mark.parametrize("revision", ["origin/main", "nonsense", "-n", "main:kernels/old.py", "v1..v2"])
def test_an_unknown_revision_is_a_usage_error(repository: Repository, revision: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"git finds no such revision here\. Fetch it first"):
        changes_since(revision, repository.root)


def test_the_mend_names_the_branch_to_fetch(repository: Repository) -> None:
    repository.git("remote", "add", "origin", str(repository.root))
    with pytest.raises(pytest.UsageError, match="git fetch origin release/2"):
        changes_since("origin/release/2", repository.root)


def test_a_clone_that_is_too_shallow_cannot_know(repository: Repository, tmp_path: Path) -> None:
    repository.write("mine.py")
    repository.commit()
    repository.git("checkout", "-q", "main")
    repository.write("theirs.py")
    repository.commit()
    clone = Repository.new(tmp_path / "clone")
    for branch in ("main", "work"):
        clone.git("fetch", "-q", "--depth=1", f"file://{repository.root}", f"{branch}:refs/heads/theirs-{branch}")
    clone.git("checkout", "-q", "theirs-work")
    unknown = changes_since("theirs-main", clone.root).unknown
    assert "this clone is shallow" in unknown
    assert "git fetch --unshallow" in unknown


def test_histories_without_a_common_commit_cannot_be_compared(repository: Repository) -> None:
    repository.git("checkout", "-q", "--orphan", "island")
    repository.write("palm.py")
    repository.commit()
    assert "no commit in common" in changes_since("main", repository.root).unknown


def test_the_null_revision_says_nothing(repository: Repository) -> None:
    assert "there is nothing to compare with" in changes_since("0" * 40, repository.root).unknown


def test_without_a_commit_nothing_is_known(tmp_path: Path) -> None:
    assert "no commit yet" in changes_since("main", Repository.new(tmp_path / "new").root).unknown


def test_without_a_repository_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "not a git repository" in changes_since("main", tmp_path).unknown


def test_without_git_nothing_is_known(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shutil.which("git")
    monkeypatch.setenv("PATH", str(repository.root))
    assert changes_since("main", repository.root).unknown == "git is not installed here"


def test_python_files_are_the_tracked_and_the_new_ones(repository: Repository) -> None:
    repository.write("new.py")
    repository.write(".gitignore", "build/\n")
    repository.write("build/x.py")
    assert python_files(repository.root) == {"kernels/old.py", "kernels/kept.py", "gone.py", "new.py"}

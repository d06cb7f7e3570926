"""What of the working tree goes to a box elsewhere, and where it lies there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_megacpp.surfaces.source import (
    MIB,
    Source,
    SourceConfig,
    SourceError,
    gather,
    is_secret,
    own_package,
    stage,
    top_of,
)

HOME = "/megacpp/source"
Files = dict[str, str]


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def write(directory: Path, files: Files) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository `p` with a commit."""
    top = tmp_path / "p"
    write(top, {"a.py": "a", "pkg/b.py": "b", ".gitignore": "*.so\nout/\n"})
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "one")
    return top


def sent(top: Path, **config: object) -> set[str]:
    return {file.remote for file in gather(top, SourceConfig(**config), HOME).files}  # type: ignore[arg-type]


COMMITTED = {"p/a.py", "p/pkg/b.py", "p/.gitignore"}


def test_the_tree_is_sent_as_it_is(project: Path) -> None:
    (project / "a.py").unlink()
    write(project, {"new.py": "n", "out/junk.bin": "x", "ext.so": "x", "pkg/__pycache__/b.pyc": "x"})
    assert sent(project) == (COMMITTED - {"p/a.py"}) | {"p/new.py"}


def test_what_git_tracks_is_sent_though_ignored(project: Path) -> None:
    write(project, {"out/wanted.txt": "x", "out/junk.txt": "x"})
    git(project, "add", "-f", "out/wanted.txt")
    assert sent(project) == COMMITTED | {"p/out/wanted.txt"}


def test_a_submodule_and_a_nested_repository_are_listed_by_their_own_git(project: Path, tmp_path: Path) -> None:
    inner = tmp_path / "lib"
    write(inner, {"lib.py": "l", ".gitignore": "junk"})
    git(inner, "init", "-q")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "one")
    git(project, "submodule", "add", "-q", str(inner), "third/lib")
    git(project, "clone", "-q", str(inner), "nested")
    write(project, {"third/lib/junk": "x", "nested/junk": "x", "nested/new.py": "n"})
    assert sent(project) == COMMITTED | {
        *("p/.gitmodules", "p/third/lib/lib.py", "p/third/lib/.gitignore"),
        *("p/nested/lib.py", "p/nested/.gitignore", "p/nested/new.py"),
    }


def test_a_hook_that_names_another_repository_changes_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "elsewhere" / "index"))
    assert sent(project) == COMMITTED
    assert top_of(project / "pkg") == project


def test_outside_git_caches_and_build_results_stay(tmp_path: Path) -> None:
    top = tmp_path / "plain"
    write(top, {"a.py": "a", "sub/b.txt": "b", ".hidden/c": "c"})
    write(top, {"node_modules/x.js": "", "build/x": "", "sub/__pycache__/b.pyc": "", "x.egg-info/PKG-INFO": ""})
    write(top, {"my-venv/pyvenv.cfg": "", "my-venv/lib/x.py": "", ".mypy_cache/x": ""})
    source = gather(top, SourceConfig(), HOME)
    assert {file.remote for file in source.files} == {"plain/a.py", "plain/sub/b.txt", "plain/.hidden/c"}
    assert top_of(top) == top
    assert "no git here" in source.notice


def test_links_are_sent_as_what_they_lead_to(project: Path, tmp_path: Path) -> None:
    write(tmp_path, {"outside.txt": "o"})
    for name, target in {
        "to_file": "a.py",
        "to_dir": "pkg",
        "to_link": "to_dir",
        "out": "../outside.txt",
        "absolute": "/etc/passwd",
        "broken": "nothing",
        "pkg/up": "..",
        "pkg/self": "self",
    }.items():
        (project / name).symlink_to(target)
    git(project, "add", "-A")
    source = gather(project, SourceConfig(), HOME)
    assert {f.remote for f in source.files} == COMMITTED | {"p/to_file", "p/to_dir/b.py", "p/to_link/b.py"}
    assert {(left.path, left.why) for left in source.left_out} == {
        ("out", "links that lead out of the source"),
        ("absolute", "links that lead out of the source"),
    }
    by_name = {file.remote: file.path for file in source.files}
    assert by_name["p/to_file"] == project / "a.py"


SECRETS = [
    *(".env", ".env.local", "deploy/prod.env", ".envrc", "server.pem", "id_rsa", "id_ed25519.old", "credentials"),
    *("credentials.json", "gcp-credentials.json", "my-service-account-1.json", ".netrc", ".npmrc", ".pypirc"),
    *(".aws/config", ".ssh/known_hosts", ".modal.toml", "secrets.toml", "tls.key", ".git-credentials"),
]
HARMLESS = [
    *(".env.example", "credentials.py", "secrets.py", "id_rsa.pub", "docs/secrets.md", "environment.yml"),
    *("tokens.txt", "keys.py", "settings.env.template"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_stay_at_home_and_are_said(name: str, project: Path) -> None:
    write(project, {name: "hush"})
    source = gather(project, SourceConfig(), HOME)
    assert {f.remote for f in source.files} == COMMITTED
    assert [(left.path, left.why) for left in source.left_out] == [(name, "named like secrets")]
    assert f"not sent (named like secrets): {name}" in source.notice


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_sounds_like_a_secret_is_sent(name: str) -> None:
    assert not is_secret(Path(name))


def test_a_secret_behind_a_harmless_name_stays_too(project: Path) -> None:
    write(project, {".env": "hush"})
    (project / "settings").symlink_to(".env")
    assert sent(project) == COMMITTED


def test_a_file_that_is_named_goes_whatever_it_is(project: Path) -> None:
    write(project, {"tests/server.pem": "p", "tests/other.pem": "p"})
    assert sent(project, include=("tests/server.pem",)) == COMMITTED | {"p/tests/server.pem"}
    assert sent(project, include=("tests/*.pem",)) == COMMITTED


def test_include_brings_in_what_git_ignores(project: Path) -> None:
    write(project, {"ext.so": "x", "pkg/deep/ext.so": "x", "out/a": "x", "out/__pycache__/b": "x"})
    assert sent(project, include=("**/*.so",)) == COMMITTED | {"p/ext.so", "p/pkg/deep/ext.so"}
    assert sent(project, include=("out",)) == COMMITTED | {"p/out/a"}


def test_exclude_takes_out(project: Path) -> None:
    write(project, {"assets/big.bin": "x", "pkg/big.bin": "x"})
    assert sent(project, exclude=("assets/", "b.py")) == {"p/a.py", "p/.gitignore", "p/pkg/big.bin"}
    assert sent(project, exclude=("*", "!a.py")) == {"p/a.py"}


def test_extra_directories_keep_their_way_to_the_project(project: Path, tmp_path: Path) -> None:
    write(tmp_path, {"lib/l.py": "l", "far/away/f.py": "f"})
    source = gather(project, SourceConfig(extra=("../lib", "../far/away")), HOME)
    assert {f.remote for f in source.files} == COMMITTED | {"lib/l.py", "far/away/f.py"}
    assert source.layout.to_box(tmp_path / "lib" / "l.py") == f"{HOME}/lib/l.py"
    assert source.layout.to_box(tmp_path / "far") is None
    with pytest.raises(SourceError, match=r"'\.\./absent' does not exist .*fix extra"):
        gather(project, SourceConfig(extra=("../absent",)), HOME)


def test_the_runs_themselves_stay(project: Path) -> None:
    write(project, {"lanes/runs/1/recording.jsonl": "x"})
    source = gather(project, SourceConfig(), HOME, never=[project / "lanes"])
    assert {f.remote for f in source.files} == COMMITTED


def test_too_much_is_refused_with_the_largest_named(project: Path) -> None:
    for name, size in (("a.bin", 2 * MIB), ("pkg/b.bin", MIB)):
        (project / name).write_bytes(bytes(size))
    with pytest.raises(SourceError) as refused:
        gather(project, SourceConfig(max_bytes=2 * MIB), HOME)
    assert "the source is 3.0 MiB in 5 files, more than the 2 MiB of max_mib" in str(refused.value)
    assert "The largest: p/a.bin (2.0 MiB), p/pkg/b.bin (1.0 MiB)" in str(refused.value)
    assert "exclude in [tool.pytest_megacpp.source]" in str(refused.value)


def test_names_that_no_wire_carries_are_said(project: Path) -> None:
    odd = os.fsencode(project) + b"/bad-\xff.txt"
    with open(odd, "w"):
        pass
    source = gather(project, SourceConfig(), HOME)
    assert {f.remote for f in source.files} == COMMITTED
    assert [left.why for left in source.left_out] == ["names that are not UTF-8"]
    source.notice.encode()


# -- the digest ----------------------------------------------------------------------------------------------------


def edit(path: Path) -> None:
    path.write_text("other")


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed.py"))


@pytest.mark.parametrize("change", [edit, rename, lambda path: path.chmod(0o755), Path.unlink])
def test_every_change_shows_in_the_digest(change: Callable[[Path], object], project: Path) -> None:
    def digest() -> str:
        return gather(project, SourceConfig(), HOME).digest

    before = digest()
    os.utime(project / "a.py", (1, 1))
    assert digest() == before
    change(project / "a.py")
    assert digest() != before


# -- where things lie in the box -----------------------------------------------------------------------------------


@pytest.fixture
def source(project: Path, tmp_path: Path) -> Source:
    write(tmp_path, {"p-other/x.py": "x"})
    return gather(project, SourceConfig(extra=("../p-other",)), HOME)


@pytest.mark.parametrize(
    ("desk", "box"),
    [
        ("{p}", "/megacpp/source/p"),
        ("{p}/tests/test_a.py::test_b[x-/y]", "/megacpp/source/p/tests/test_a.py::test_b[x-/y]"),
        ("--rootdir={p}", "--rootdir=/megacpp/source/p"),
        ("--ignore={p}/a", "--ignore=/megacpp/source/p/a"),
        ("-o=pythonpath={p}/src {p}-other", "-o=pythonpath=/megacpp/source/p/src /megacpp/source/p-other"),
        ("{p}-others/x.py", "{p}-others/x.py"),
        ("tests/test_a.py", "tests/test_a.py"),
        ("x{p}", "x{p}"),
        ("/etc/{p}", "/etc/{p}"),
    ],
)
def test_paths_in_arguments_are_the_boxs(desk: str, box: str, source: Source, project: Path) -> None:
    assert source.layout.argument(desk.format(p=project)) == box.format(p=project)


# -- the plugin ----------------------------------------------------------------------------------------------------


def test_the_plugin_itself_is_sent_ready_to_be_found(tmp_path: Path) -> None:
    stage(own_package(), tmp_path)
    code = (
        "import importlib.metadata as m, pytest_megacpp.box.remote.start as s;"
        "print(s.__file__); print([e.value for e in m.entry_points(group='pytest11') if e.name == 'megacpp'])"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(tmp_path / "pytest_megacpp/box/remote/start.py"),
        "['pytest_megacpp.plugin']",
    ]


def test_a_stage_holds_every_file_with_its_content(project: Path, tmp_path: Path) -> None:
    (project / "a.py").chmod(0o755)
    (project / "link").symlink_to("pkg/b.py")
    source = gather(project, SourceConfig(), HOME)
    stage(source.files, tmp_path / "stage")
    there = {p.relative_to(tmp_path / "stage").as_posix() for p in (tmp_path / "stage").rglob("*") if p.is_file()}
    assert there == {file.remote for file in source.files}
    assert (tmp_path / "stage/p/link").read_text() == "b"
    assert os.access(tmp_path / "stage/p/a.py", os.X_OK)

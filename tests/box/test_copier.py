"""A directory is copied once, whole and checked, whatever happens meanwhile; small blocks, several a file."""

import errno
import hashlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_megacpp.box.data import copier
from pytest_megacpp.box.data.copier import Copier
from pytest_megacpp.box.data.failures import Cancelled, CopyFailed
from pytest_megacpp.box.data.manifest import Manifest, read_manifest, state_of
from pytest_megacpp.box.data.source import listing

FILES = {"a.bin": b"0123456789", "sub/b.bin": b"abcdefghijklm", "sub/deep/c": b"", "d": b"x"}
TOTAL = sum(map(len, FILES.values()))


class Cut(BaseException):
    """As if the process ended here."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copier, "BLOCK_BYTES", 4)
    monkeypatch.setattr(copier, "WORKERS", 1)
    monkeypatch.setattr(copier, "ASK_AGAIN_S", 0.002)


_stamps = iter(range(1, 1_000_000))


def fill(root: Path, files: Mapping[str, bytes]) -> Path:
    """Every change has a stamp of its own, however coarse the file system's clock is."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(0, next(_stamps)))
    return root


def held(root: Path) -> dict[str, bytes]:
    paths = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in paths}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", FILES)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "shards"


def copy(source: Path, target: Path, **more: Any) -> Copier:
    made = Copier(source, target, "s3://corpus", "run r1", **more)
    made.copy()
    return made


def refused(source: Path, target: Path, **more: Any) -> CopyFailed:
    with pytest.raises(CopyFailed) as caught:
        copy(source, target, **more)
    assert caught.value.remedy
    return caught.value


def cut_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """What touches the disk raises the `number`th time."""
    counted = iter(range(number))

    def bomb(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(counted, None) is None and not fired:
                fired.append(True)
                raise Cut
            return real(*args)

        return call

    fired: list[bool] = []
    patch.setattr(copier, "_write", bomb(copier._write))
    patch.setattr(os, "replace", bomb(os.replace))
    patch.setattr(os, "fsync", bomb(os.fsync))


def cuts() -> Iterator[int]:
    return iter(range(200))


# -- once ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_whole_and_says_what_it_holds(source: Path, target: Path) -> None:
    made = copy(source, target)
    assert held(target) == FILES
    assert (made.tally.files, made.tally.of_files) == (4, 4)
    assert (made.tally.done_bytes, made.tally.of_bytes, made.tally.moved_bytes) == (TOTAL, TOTAL, TOTAL)
    state = read_manifest(target)
    assert state is not None
    assert state["complete"]
    assert state["files"]["a.bin"][2] == hashlib.sha256(FILES["a.bin"]).hexdigest()
    assert sorted(p.name for p in (state_of(target)).iterdir()) == ["lock", "manifest.json"]


def test_a_second_copy_reads_nothing(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(source, target)
    manifest = state_of(target) / "manifest.json"
    before = manifest.stat().st_mtime_ns
    monkeypatch.setattr(Copier, "_fill", None)
    assert copy(source, target).tally.moved_bytes == 0
    assert manifest.stat().st_mtime_ns == before


def test_only_what_changed_is_copied_and_what_vanished_goes(source: Path, target: Path) -> None:
    copy(source, target)
    fill(target, {"mine": b"not the copier's"})
    (source / "sub" / "b.bin").unlink()
    (source / "sub" / "deep" / "c").unlink()
    (source / "sub" / "deep").rmdir()
    (source / "sub").rmdir()
    fill(source, {"a.bin": b"9876543210", "sub": b"now a file"})
    made = copy(source, target)
    assert held(target) == {"a.bin": b"9876543210", "sub": b"now a file", "d": b"x", "mine": b"not the copier's"}
    assert made.tally.moved_bytes == 20


def test_a_file_that_was_lost_or_cut_in_the_target_comes_again(source: Path, target: Path) -> None:
    copy(source, target)
    (target / "d").unlink()
    (target / "a.bin").write_bytes(b"012")
    assert copy(source, target).tally.moved_bytes == 11
    assert held(target) == FILES


def test_patterns_choose(source: Path, target: Path) -> None:
    copy(source, target, include=[r"^(?:.+/)?[^/]*\.bin(?:/|$)"], exclude=["^sub/deep/"])
    assert held(target).keys() == {"a.bin", "sub/b.bin"}


# -- cut off -------------------------------------------------------------------------------------------------------


def test_a_copy_goes_on_wherever_it_was_cut(source: Path, tmp_path: Path) -> None:
    for number in cuts():
        target = tmp_path / "at" / str(number)
        with pytest.MonkeyPatch.context() as patch:
            cut_at(number, patch)
            try:
                copy(source, target)
            except Cut:
                state = read_manifest(target)
                assert state is None or not state["complete"] or held(target) == FILES
            else:
                break
        assert all(FILES[name] == data for name, data in held(target).items()), "a half is nobody's file"
        copy(source, target)
        assert held(target) == FILES
    assert number > 15


def test_a_half_is_continued_but_its_torn_end_is_not_trusted(source: Path, target: Path) -> None:
    (file,) = listing(source, ["^a.bin"])
    part = state_of(target) / "parts" / file.part
    fill(part.parent, {part.name: b"01234567!!"})
    assert copy(source, target, include=["^a.bin"]).tally.moved_bytes == 2
    assert held(target) == {"a.bin": FILES["a.bin"]}


def test_a_half_of_something_else_is_begun_anew(source: Path, target: Path) -> None:
    (file,) = listing(source, ["^a.bin"])
    part = state_of(target) / "parts" / file.part
    fill(part.parent, {part.name: b"01234xxx!"})
    assert copy(source, target, include=["^a.bin"]).tally.moved_bytes == 10
    assert held(target) == {"a.bin": FILES["a.bin"]}


names = st.sampled_from(["a", "b", "dir/a", "dir/b", "dir/in/c"])
trees = st.dictionaries(names, st.binary(max_size=13), min_size=1)


@given(st.lists(st.tuples(trees, st.integers(0, 30)), min_size=1, max_size=4))
@settings(max_examples=15)
def test_whatever_came_before_the_target_is_the_source_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[dict[str, bytes], int]]
) -> None:
    root = tmp_path_factory.mktemp("history")
    for number, (tree, cut) in enumerate(history):
        source = fill(root / str(number), tree)
        with pytest.MonkeyPatch.context() as patch:
            cut_at(cut, patch)
            try:
                copy(source, root / "target")
            except Cut:
                continue
    copy(source, root / "target")
    assert held(root / "target") == tree


def test_a_cancelled_copy_keeps_what_is_done(source: Path, target: Path) -> None:
    made = Copier(source, target, "s3://corpus", "run r1")
    made.cancelled.set()
    with pytest.raises(Cancelled):
        made.copy()
    assert copy(source, target).tally.moved_bytes == TOTAL


# -- several at once -----------------------------------------------------------------------------------------------


def test_two_at_once_copy_once(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copier, "WORKERS", 3)
    both = [Copier(source, target, "s3://corpus", f"run r{n}") for n in range(4)]
    threads = [threading.Thread(target=one.copy) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(target) == FILES
    assert sorted(one.tally.moved_bytes for one in both) == [0, 0, 0, TOTAL]
    assert all(one.tally.files == 4 for one in both)


def test_who_waits_says_for_whom_and_goes_on_when_that_one_dies(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:

        def bring(*_: object) -> None:
            os.write(write, b".")
            signal.pause()

        monkeypatch.setattr(Copier, "_bring", bring)
        copy(source, target)
    os.read(read, 1)
    made = Copier(source, target, "s3://corpus", "run r2")
    thread = threading.Thread(target=made.copy)
    thread.start()
    while not made.tally.waits_for:
        thread.join(0.002)
    seen = made.tally.waits_for
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    thread.join()
    assert seen.startswith("run r1 on ")
    assert seen.endswith(f"process {child}")
    assert held(target) == FILES
    assert made.tally.waits_for == ""


# -- what can't be copied ------------------------------------------------------------------------------------------


def test_a_full_target_says_what_is_missing(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first_only = iter([True])

    def full_soon(manifest: Manifest) -> None:
        if not next(first_only, False):
            full(manifest, b"")

    copy(source, target, include=["^d"])
    with monkeypatch.context() as patch:
        patch.setattr(copier, "_write", full)
        said = str(refused(source, target, include=["^sub/b", "^d"]))
        assert said == f"'sub/b.bin' can't be copied: no space is left for {target}, and 1.2e-08 GiB are to come"
        assert list((state_of(target) / "parts").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(copier, "_write", full)
        patch.setattr(Manifest, "_save", full_soon)
        (target / "d").unlink()
        said = str(refused(source, target, include=["^sub/b", "^d"]))  # of either: they are copied side by side
        assert re.match("'(sub/b.bin|d)' can't be copied: no space", said)
    copy(source, target)
    assert held(target) == FILES


def test_a_store_that_forgets_is_found(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(copier, "_write", lambda file, data: file.write(b"?" * len(data)))
        assert "reads differently than it was written" in str(refused(source, target))
    assert held(target) == {}
    copy(source, target)
    assert held(target) == FILES


def test_a_source_that_changes_meanwhile_is_found(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = copier._write

    def meanwhile(file: Any, data: bytes) -> None:
        fill(source, {"a.bin": b"shorter"})
        real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(copier, "_write", meanwhile)
        assert "'a.bin' changed while it was copied" in str(refused(source, target, include=["^a.bin"]))
    assert held(target) == {}


def link(at: Path, to: str) -> None:
    at.symlink_to(to)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link out of it": (
        lambda s: link(s / "sub" / "l", "../../secret"),
        "the link 'sub/l' leads out of the source, to",
    ),
    "a linked directory out of it": (lambda s: link(s / "l", "/etc"), "the link 'l' leads out of the source, to /etc"),
    "a link to nothing": (lambda s: link(s / "l", "gone"), "which isn't there"),
    "a link around itself": (lambda s: link(s / "sub" / "l", "../sub"), "the link 'sub/l' leads back to a directory"),
    "a pipe": (lambda s: os.mkfifo(s / "l"), "'l' is no file"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_file_of_the_source_is_refused_unless_it_is_left_out(name: str, source: Path, target: Path) -> None:
    make, said = ODD[name]
    make(source)
    assert said in str(refused(source, target))
    assert list(target.parent.glob("*")) == []
    copy(source, target, exclude=["^(?:.+/)?l(?:/|$)"])
    assert held(target) == FILES


def test_links_inside_the_source_become_files(source: Path, target: Path) -> None:
    link(source / "again.bin", "a.bin")
    link(source / "also", "sub/deep")
    copy(source, target)
    assert held(target) == {**FILES, "again.bin": FILES["a.bin"], "also/c": b""}
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_a_link_in_the_target_leads_nothing_out_of_it(source: Path, target: Path, tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", {"b.bin": b"precious"})
    target.mkdir(parents=True)
    link(target / "sub", str(outside))
    assert f"would be copied to {outside}, outside of" in str(refused(source, target))
    assert held(outside) == {"b.bin": b"precious"}


def test_a_manifest_that_names_foreign_files_removes_none(source: Path, target: Path, tmp_path: Path) -> None:
    precious = fill(tmp_path / "copies", {"precious": b"!"}) / "precious"
    copy(source, target)
    manifest = state_of(target) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"d"', '"../precious"'))
    assert "outside of" in str(refused(source, target))
    assert precious.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema":"megacpp.data/1","origin":"s3://corpus","files":{"a":[1]}}']
)
def test_a_manifest_that_makes_no_sense_is_none(text: str, source: Path, target: Path) -> None:
    fill(state_of(target), {"manifest.json": text.encode()})
    assert copy(source, target).tally.moved_bytes == TOTAL


def test_the_copy_of_another_source_stays(source: Path, target: Path) -> None:
    copy(source, target)
    other = Copier(source, target, "s3://other", "run r1")
    with pytest.raises(CopyFailed, match="is a copy of s3://corpus, not of s3://other"):
        other.copy()
    assert held(target) == FILES


def test_a_source_that_shows_nothing_empties_no_copy(source: Path, target: Path, tmp_path: Path) -> None:
    copy(source, target)
    assert "there is no file to copy" in str(refused(fill(tmp_path / "unmounted", {}), target))
    assert f"{tmp_path}/gone can't be read: No such file" in str(refused(tmp_path / "gone", target))
    assert held(target) == FILES


def test_what_can_not_be_read_is_named(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so the kernel's answer is given in its place."""
    real = Path.open

    def closed(self: Path, *args: Any, **more: Any) -> Any:
        if self == source / "sub/b.bin":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *args, **more)

    monkeypatch.setattr(Path, "open", closed)
    assert str(refused(source, target)) == "'sub/b.bin' can't be copied: Permission denied"


def test_a_name_that_the_target_does_not_take_is_named(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def picky(old: Any, new: Any) -> None:
        if Path(new).name == "d":
            raise OSError(errno.EILSEQ, "Invalid or incomplete multibyte or wide character")
        real(old, new)

    monkeypatch.setattr(os, "replace", picky)
    assert f"'d' can't be copied: {target} takes no such name" in str(refused(source, target))


def test_a_source_that_holds_its_own_copy_is_refused(source: Path) -> None:
    """Or every run would copy all that the last one did, too."""
    inside = source / "cache" / "corpus"
    assert "would copy those before it" in str(refused(source, inside))
    assert not inside.parent.exists()

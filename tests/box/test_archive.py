"""A cache packed and unpacked: what comes out is what went in, and whatever else is in an archive is refused whole."""

import hashlib
import io
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from pytest_megacpp.box.seed import archive
from pytest_megacpp.box.seed.archive import Packed, pack, unpack
from pytest_megacpp.recording.seed_layout import SeedError, SeedRefused
from tests.box.seeding import contents, fill
from tests.fuzzing import fuzzer

MIB = 1 << 20


def made(*members: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar file as anybody may write one."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def promised(data: bytes, files: int = 1, cache_bytes: int = 0) -> Packed:
    """What the manifest of whoever made it would say."""
    return Packed(cache_bytes, files, len(data), hashlib.sha256(data).hexdigest())


def special(name: str, kind: bytes, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def refused(tmp_path: Path, data: bytes, expected: Packed) -> str:
    """The reason, after a look that nothing was left."""
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(SeedRefused) as error:
        unpack(tmp_path / "a.tar", expected, tmp_path / "out" / "cache")
    assert list((tmp_path / "out").glob("*")) == []
    return str(error.value)


def test_there_and_back(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache")
    before = contents(cache)
    packed = pack(cache, tmp_path / "a.tar", MIB)
    unpack(tmp_path / "a.tar", packed, tmp_path / "new" / "place")
    stays = {
        name: file for name, file in before.items() if not name.endswith((".lock", ".tmp")) and "/tmp." not in name
    }
    assert len(stays) == 5 == packed.files
    assert contents(tmp_path / "new" / "place") == stays
    assert packed == promised((tmp_path / "a.tar").read_bytes(), 5, sum(len(data) for _, _, data in stays.values()))


def test_the_same_cache_makes_the_same_archive(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache")
    assert pack(cache, tmp_path / "a", MIB) == pack(cache, tmp_path / "b", MIB)


def test_an_empty_directory_may_be_there_already(tmp_path: Path) -> None:
    packed = pack(fill(tmp_path / "cache"), tmp_path / "a.tar", MIB)
    (tmp_path / "target").mkdir()
    unpack(tmp_path / "a.tar", packed, tmp_path / "target")
    with pytest.raises(OSError, match="not empty"):
        unpack(tmp_path / "a.tar", packed, tmp_path / "target")
    assert len(list(tmp_path.iterdir())) == 3


def test_only_regular_files_are_packed(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache")
    secret = tmp_path / "secret"
    secret.write_text("s")
    (cache / "link").symlink_to(secret)
    (cache / "directory").symlink_to("/etc")
    os.mkfifo(cache / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(cache / "socket"))
        assert pack(cache, tmp_path / "a.tar", MIB).files == 5


def test_special_bits_are_left_behind(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tool").write_text("x")
    (tmp_path / "cache" / "tool").chmod(0o6777)
    unpack(tmp_path / "a.tar", pack(tmp_path / "cache", tmp_path / "a.tar", MIB), tmp_path / "out")
    assert contents(tmp_path / "out")["tool"][0] == 0o755


def test_a_launch_that_compiles_nothing_has_an_empty_archive(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inductor").mkdir(parents=True)
    packed = pack(tmp_path / "empty", tmp_path / "a.tar", MIB)
    assert (packed.cache_bytes, packed.files) == (0, 0)
    unpack(tmp_path / "a.tar", packed, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_too_much_compiled_makes_no_archive(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"more than a seed may have .*raise max_bytes"):
        pack(fill(tmp_path / "cache", 300_000), tmp_path / "a.tar", MIB)
    assert not (tmp_path / "a.tar").exists()


def test_a_file_that_shrinks_meanwhile_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fill(tmp_path / "cache")
    monkeypatch.setattr(os, "fstat", _larger(os.fstat))
    with pytest.raises(SeedError, match="changed while it was packed"):
        pack(cache, tmp_path / "a.tar", MIB)


def _larger(fstat: Callable[[int], os.stat_result]) -> Callable[[int], os.stat_result]:
    def promised(handle: int) -> os.stat_result:
        values = list(fstat(handle))
        values[6] += 1000
        return os.stat_result(values)

    return promised


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../x", b""), "'../x' in its archive is no plain name"),
        (("a/../../x", b""), "no plain name"),
        (("/etc/x", b""), "no plain name"),
        (("a//x", b""), "no plain name"),
        (("./x", b""), "no plain name"),
        (("a\nb", b""), "no plain name"),
        (("a\x1b[2Jb", b""), "no plain name"),
        (("\udcff", b""), "no plain name"),
        (("d/" * 40 + "x", b""), "no plain name"),
        (("x" * 256, b""), "no plain name"),
        (("x" * 5000, b""), "a name in its archive has 5001 bytes"),
        (special("x", tarfile.SYMTYPE, "/etc/passwd"), "'x' in its archive is no regular file"),
        (special("x", tarfile.LNKTYPE, "/etc/passwd"), "no regular file"),
        (special("x", tarfile.FIFOTYPE), "no regular file"),
        (special("x", tarfile.CHRTYPE), "no regular file"),
        (special("x", tarfile.BLKTYPE), "no regular file"),
        (special("x", tarfile.DIRTYPE), "no regular file"),
        (special("x", tarfile.GNUTYPE_SPARSE), "no regular file"),
        (special("x", b"Z"), "no regular file"),
    ],
)
def test_only_plain_files_come_out(tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes], reason: str) -> None:
    data = made(member)
    assert reason in refused(tmp_path, data, promised(data))


def test_attributes_and_special_bits_are_refused(tmp_path: Path) -> None:
    data = made(("x" * 200 + "é", b""), form=tarfile.PAX_FORMAT)
    assert "is no regular file" in refused(tmp_path, data, promised(data))
    info = tarfile.TarInfo("x")
    info.mode = 0o4755
    data = made(info)
    assert "'x' in its archive has special bits" in refused(tmp_path, data, promised(data))


@pytest.mark.parametrize(
    ("members", "files", "cache_bytes", "reason"),
    [
        ([("x", b"1"), ("x", b"2")], 2, 2, "'x' is in its archive twice"),
        ([("x", b"1"), ("x/y", b"2")], 2, 2, "'x' in its archive is a file and a directory"),
        ([("x/y", b"1"), ("x", b"2")], 2, 2, "'x' in its archive is a file and a directory"),
        ([("x/y", b"1"), ("x/y/z/a", b"2")], 2, 2, "'x/y/z' in its archive is a file and a directory"),
        ([("x", b"12")], 1, 1, "more than its manifest says"),
        ([("x", b"1"), ("y", b"2")], 1, 2, "more than its manifest says"),
        ([("x", b"1")], 2, 1, "less than its manifest says"),
        ([("x", b"1")], 1, 2, "less than its manifest says"),
        ([], archive.MAX_FILES + 1, 0, "more than any seed"),
    ],
)
def test_it_has_what_its_manifest_says(
    tmp_path: Path, members: list[tuple[str, bytes]], files: int, cache_bytes: int, reason: str
) -> None:
    (tmp_path / "out").mkdir()
    data = made(*members)
    assert reason in refused(tmp_path, data, promised(data, files, cache_bytes))


def test_another_size_or_checksum_is_refused(tmp_path: Path) -> None:
    data = made(("x", b"1"))
    other = Packed(1, 1, len(data), "0" * 64)
    assert "doesn't have the checksum" in refused(tmp_path, data, other)
    assert "should have" in refused(tmp_path, data + b"\0", promised(data, 1, 1))
    assert "more than any seed" in refused(tmp_path, data, Packed(1, 1, archive.MAX_BYTES + 1, "0" * 64))


def test_an_archive_is_a_file_and_nothing_that_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("fifo", "link"):
        with pytest.raises(OSError):
            unpack(tmp_path / name, promised(b""), tmp_path / "out")
    assert not (tmp_path / "out").exists()


BYTES = made(("inductor/a", b"1" * 700), ("inductor/" + "b" * 120, b"2"), ("triton/c", b""))


@fuzzer(150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Whoever damages an archive may also tell its new checksum: then what comes out is inside, plain and bounded."""
    damaged = bytearray(BYTES)
    headers = st.integers(0, 511) | st.integers(1536, 3071) | st.integers(0, len(BYTES) - 1)
    for at in data.draw(st.lists(headers, min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        _mend_checksums(damaged)
    cut = bytes(damaged[: data.draw(st.sampled_from([len(BYTES), 3000, 511]))])
    place = tmp_path / os.urandom(4).hex()
    place.mkdir()
    (place / "a.tar").write_bytes(cut)
    try:
        unpack(place / "a.tar", promised(cut, 3, 701), place / "in" / "out")
    except SeedRefused:
        assert list((place / "in").iterdir()) == []
    else:
        assert sum(len(content) for _, _, content in contents(place / "in" / "out").values()) == 701
    assert {path.name for path in place.iterdir()} == {"a.tar", "in"}
    shutil.rmtree(place)


def _mend_checksums(data: bytearray) -> None:
    for at in range(0, len(data), 512):
        if b"ustar" in data[at : at + 512]:
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])

from pathlib import Path

import pytest

from pytest_megacpp.surfaces.local import variable_readers
from pytest_megacpp.surfaces.local.variable_readers import find_readers


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package named `fakelib`; importing it fails."""
    root = tmp_path / "fakelib"
    (root / "lib").mkdir(parents=True)
    (root / "testing").mkdir()
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (root / "config.py").write_text('x = env("LIB_A")\ny = "LIB_B_BACKENDS"  # LIB_C\n"""see LIB_D here"""\n')
    (root / "testing" / "case.py").write_text('env("LIB_E")\n')
    (root / "lib" / "libfake.so.2").write_bytes(b"\0X_LIB_F\0LIB_F_MORE\0LIB_G")
    monkeypatch.syspath_prepend(tmp_path)
    return root


def test_a_name_is_read_where_it_stands_whole(package: Path) -> None:
    found = find_readers([f"LIB_{letter}" for letter in "ABCDEFG"], ["fakelib", "not_installed"])
    assert found.found == {"LIB_A": "fakelib/config.py", "LIB_G": "fakelib/lib/libfake.so.2"}
    assert found.packages == ("fakelib",)
    assert found.complete


def test_names_across_a_chunk_s_edge_are_found(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in range(8, 24):
        monkeypatch.setattr(variable_readers, "CHUNK_BYTES", size)
        assert set(find_readers(["LIB_A", "LIB_B", "LIB_F", "LIB_G"], ["fakelib"]).found) == {"LIB_A", "LIB_G"}


def test_a_search_that_runs_out_of_time_says_so(package: Path) -> None:
    assert not find_readers(["LIB_A"], ["fakelib"], deadline_s=-1.0).complete

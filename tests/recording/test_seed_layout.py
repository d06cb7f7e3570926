"""What a store's files may say: everything else is damage, nothing raises."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_megacpp.recording import seed_layout as layout
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.seed import Manifest, Shape
from pytest_megacpp.recording.seed_layout import SeedRefused, good_id, is_id, is_key, looked_at, read_manifest
from tests.fuzzing import fuzzer
from tests.recording.strategies import JSON, instances

SHAPE = Shape("h200x8", "H200:8", ("NVIDIA H200",), 1, "full", "")
MADE = Manifest("20261126-070739-3f9a01", SHAPE, "r1", "2026-11-26T07:07:39Z", 10, 1, 20, "0" * 64)
BYTES = layout.write_manifest(MADE)


SIZES = dict.fromkeys(("cache_bytes", "files", "archive_bytes"), st.integers(0))


@settings(max_examples=30)
@given(instances(Manifest, schema=st.just(MADE.schema), sha256=st.just(MADE.sha256), **SIZES))
def test_there_and_back(manifest: Manifest) -> None:
    """Also with texts that are no Unicode."""
    assert read_manifest(layout.write_manifest(manifest), manifest.shape.key, manifest.id) == manifest


def test_it_is_of_its_directory() -> None:
    assert read_manifest(BYTES, SHAPE.key, MADE.id) == MADE
    for key, name in (("0" * 16, MADE.id), (SHAPE.key, "20261126-070739-3f9a02")):
        with pytest.raises(SeedRefused, match="of another seed"):
            read_manifest(BYTES, key, name)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"schema": "megacpp.seed/9"}, "not of this version"),
        ({"files": -1}, "sizes or checksum"),
        ({"sha256": "../x"}, "sizes or checksum"),
        ({"archive_bytes": 1.5}, "archive_bytes: expected int"),
        ({"id": "../../x"}, "of another seed"),
        ({"tests": [{"ranks": 1}]}, "makes no sense: tests:"),
    ],
)
def test_nonsense_is_refused(changed: dict[str, Any], reason: str) -> None:
    data = json.dumps(to_json(MADE) | changed).encode()
    with pytest.raises(SeedRefused, match=reason):
        read_manifest(data, SHAPE.key, MADE.id)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"1" * 10_000, b"\xff\xfe", b"", b"null", b"[]", b"{}"])
def test_what_is_no_manifest_at_all(data: bytes) -> None:
    with pytest.raises(SeedRefused):
        read_manifest(data, SHAPE.key, MADE.id)


def test_one_that_is_too_large_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_MANIFEST_BYTES", len(BYTES) - 1)
    with pytest.raises(SeedRefused, match="has more than"):
        read_manifest(BYTES, SHAPE.key, MADE.id)


@fuzzer(100)
@given(st.data())
def test_any_damage_is_a_reason(data: st.DataObject) -> None:
    damaged = bytearray(BYTES)
    for at in data.draw(st.lists(st.integers(0, len(BYTES) - 1), max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.sampled_from([len(BYTES), 100]))])
    seed = looked_at(SHAPE.key, MADE.id, cut, 20, None)
    assert (seed.manifest is None) == bool(seed.damage)
    assert seed.manifest is None or (seed.manifest.id, seed.manifest.shape) == (MADE.id, SHAPE)


@settings(max_examples=50)
@given(JSON)
def test_any_json_is_a_reason(document: object) -> None:
    said = document if not isinstance(document, dict) else {**document, "schema": MADE.schema}
    assert looked_at(SHAPE.key, MADE.id, json.dumps(said).encode(), 20, None).damage


@pytest.mark.parametrize(
    "name", ["../../x", "", "20261126-070739-3f9a01\n", "20261126-070739-3F9A01", "٢0261126-070739-3f9a01"]
)
def test_names_that_mean_nothing(name: str) -> None:
    assert not is_id(name)
    assert not is_key(name)


def test_ids_sort_by_time() -> None:
    assert layout.new_id("2026-11-26T08:07:39.250+01:00", b"\x01\x02\x03\x04") == "20261126-070739-010203"
    assert good_id(b"20261126-070739-010203\n") == "20261126-070739-010203"
    assert good_id(b"20261126-070739-010203\nmore") is None

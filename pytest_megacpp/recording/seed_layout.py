"""Owns how a store of seeds is laid out, and which of its seeds count; must not know where a store is or how it is
read.

`<shape key>/<seed id>/` has `manifest.json` and `cache.tar`; `<shape key>/good` names the last known good seed. What a
store holds may have been written by anybody who could write there.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pytest_megacpp.recording.codec import CodecError, from_json, to_json
from pytest_megacpp.recording.seed import SCHEMA, Manifest

MANIFEST = "manifest.json"
ARCHIVE = "cache.tar"
GOOD = "good"
BAKED_DIR = "/opt/pytest-megacpp/seeds"  # in an image, outside of what is uploaded
MAX_MANIFEST_BYTES = 64 << 20
NONCE_BYTES = 3
_KEY = re.compile(r"[0-9a-f]{16}")
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SeedError(Exception):
    """A seed can't be had, kept or made; the text says why and how to fix it."""


class SeedRefused(SeedError):
    """A seed is damaged or hostile; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A seed as a store has it. One without a `manifest` is of no use, and `damage` says why. `held_bytes` is all that
    it takes; `good` marks the last known good one of its shape.
    """

    key: str
    id: str
    held_bytes: int = 0
    good: bool = False
    manifest: Manifest | None = None
    damage: str = ""


def is_key(name: str) -> bool:
    return _KEY.fullmatch(name) is not None


def is_id(name: str) -> bool:
    return _ID.fullmatch(name) is not None


def new_id(created_at: str, nonce: bytes) -> str:
    """`20261122-214501-3f9a01`: sorts by time. `created_at` is a manifest's."""
    moment = datetime.fromisoformat(created_at).astimezone(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{nonce[:NONCE_BYTES].hex()}"


def good_id(data: bytes) -> str | None:
    """The id that a `good` file names; None where it names none."""
    name = data[:64].decode("ascii", "replace").strip()
    return name if is_id(name) else None


def write_manifest(manifest: Manifest) -> bytes:
    return json.dumps(to_json(manifest), indent=1).encode() + b"\n"


def read_manifest(data: bytes, key: str, seed_id: str) -> Manifest:
    """The manifest in `<key>/<seed_id>/`; raises SeedRefused for one that isn't of there, or makes no sense."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise SeedRefused(f"its manifest has more than {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        document = json.loads(data)
        if isinstance(document, dict) and document.get("schema") != SCHEMA:
            raise SeedRefused(f"its manifest is not of this version ({SCHEMA})")
        manifest = from_json(Manifest, document)
    except CodecError as error:
        raise SeedRefused(f"its manifest makes no sense: {str(error)[:200]}") from None
    except (ValueError, RecursionError):
        raise SeedRefused("its manifest is no JSON") from None
    sizes = (manifest.cache_bytes, manifest.files, manifest.archive_bytes)
    if manifest.id != seed_id or manifest.shape.key != key:
        raise SeedRefused("its manifest is of another seed")
    if min(sizes) < 0 or not _SHA256.fullmatch(manifest.sha256):
        raise SeedRefused("its manifest makes no sense: sizes or checksum")
    return manifest


def looked_at(key: str, seed_id: str, manifest: bytes | None, archive_bytes: int | None, good: str | None) -> Kept:
    """A seed by what its directory has: the manifest's bytes and the archive's size, None where there is none."""
    held_bytes = len(manifest or b"") + (archive_bytes or 0)
    try:
        if manifest is None:
            raise SeedRefused(f"it has no readable {MANIFEST}")
        read = read_manifest(manifest, key, seed_id)
        if archive_bytes != read.archive_bytes:
            has = f"has no {ARCHIVE}" if archive_bytes is None else f"has a {ARCHIVE} of {archive_bytes} bytes"
            raise SeedRefused(f"it {has}, and should have one of {read.archive_bytes}")
    except SeedRefused as refused:
        return Kept(key, seed_id, held_bytes, seed_id == good, damage=str(refused))
    return Kept(key, seed_id, held_bytes, seed_id == good, read)


def newest_first(seeds: Iterable[Kept]) -> list[Kept]:
    return sorted(seeds, key=lambda seed: (seed.id, seed.key), reverse=True)


def named(seeds: Sequence[Kept], name: str) -> Kept:
    """The seed of this id, or of the only id that begins so. Raises SeedError."""
    found = [seed for seed in seeds if name and seed.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(seed.id for seed in found[:8])
        raise SeedError(f"{name!r} is the beginning of {len(found)} seeds: {ids}")
    raise SeedError(f"there is no seed {name!r}: megacpp seed list says which there are")


def next_good(seeds: Iterable[Kept]) -> Kept | None:
    """Which of one shape's seeds, newest first, is to be the last known good: the one that is, or the newest whole."""
    whole = [seed for seed in seeds if seed.manifest is not None]
    return next((seed for seed in whole if seed.good), whole[0] if whole else None)


def foreign(names: Iterable[str]) -> list[str]:
    """Which names at the top of a directory say that it is no store of seeds."""
    return sorted(name for name in names if not (is_key(name) or name.startswith(".")))


def smaller(manifest: Manifest, good: Manifest | None) -> str:
    """Why a new seed must not replace the last known good one by itself: it has less of something. Else empty."""
    if good is None:
        return ""
    (pairs, keys), (good_pairs, good_keys) = manifest.size, good.size
    if pairs >= good_pairs and keys >= good_keys:
        return ""
    return (
        f"smaller than {good.id}: {pairs} (test, rank) pairs, {keys} graph keys, not {good_pairs} and {good_keys}; "
        f"to use it: megacpp seed promote {manifest.id}"
    )


def surplus(seeds: Sequence[Kept], keep: int, max_bytes: int) -> list[Kept]:
    """What goes, of seeds newest first: more than `keep` of a shape, then the oldest until the rest has `max_bytes`.
    A last known good seed never goes, and counts.
    """
    left = dict.fromkeys((seed.key for seed in seeds), keep)
    for seed in seeds:
        left[seed.key] -= seed.good
    stays: list[Kept] = []
    goes: list[Kept] = []
    for seed in seeds:
        fits = seed.good or left[seed.key] > 0
        left[seed.key] -= not seed.good
        (stays if fits else goes).append(seed)
    total_bytes = sum(seed.held_bytes for seed in stays)
    for seed in reversed(stays):
        if total_bytes > max_bytes and not seed.good:
            total_bytes -= seed.held_bytes
            goes.append(seed)
    return goes

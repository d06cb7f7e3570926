"""Owns small compile caches and what is said of them, for tests; must not know a store."""

from pathlib import Path

from pytest_megacpp.recording.seed import Manifest, RankGraphs, SeededTest, Shape

SHAPE = Shape("h200x8", "H200:8", ("NVIDIA H200",) * 2, 2, "full", "image", {"torch": "2.13.0"})
GRAPH = "fc2mn53z47o3jcrg2dj24qh7o7ibg4zunj37ixlzvp63ym5lb2jl"
JOINT = "a2h6hrw6tar5evnndvqbmyka2dgpulefab5z7piwjgfalpqepfnf"
PLACES = {"inductor": f"inductor/fxgraph/c2/{GRAPH}", "aot_autograd": f"inductor/aotautograd/{JOINT}"}
KEYS: dict[str, tuple[str, ...]] = {"inductor": (GRAPH,), "aot_autograd": (JOINT,)}


def seeded(nodeid: str = "test_a.py::test_a", ranks: int = 2) -> SeededTest:
    graphs = tuple(RankGraphs(rank, f"cuda:{rank}", KEYS, 25.8, 1.66) for rank in range(ranks))
    return SeededTest(nodeid, "full", ranks, graphs, "20261126-070739-3f9a", "abc123")


def manifest(*tests: SeededTest, at: str = "2026-11-26T07:07:39.000Z", shape: Shape = SHAPE) -> Manifest:
    """As a run tells it to a store, which adds id and sizes."""
    return Manifest("", shape, "20261126-070739-3f9a", at, 0, 0, 0, "", tests or (seeded(),), "abc123")


def fill(cache_dir: Path, size_bytes: int = 10) -> Path:
    """A cache as torch 2.13 and Triton leave it: graphs, code, libraries, and what is only of the moment."""
    files = {
        f"{PLACES['inductor']}/xvk45": 0o644,
        f"{PLACES['aot_autograd']}/jgado": 0o644,
        "inductor/bl/cblura.py": 0o644,
        "inductor/bp/cbpahh.main.so": 0o755,
        f"triton/{'N' * 52}/{'triton_per_fused_' * 8}.json": 0o644,
    }
    passing = (
        "inductor/locks/cbpahh.lock",
        "inductor/bl/.12.34.tmp",
        "triton/tmp.pid_9_ab/kernel.json",
        "triton/x.lock",
    )
    for number, (name, mode) in enumerate([*files.items(), *((name, 0o644) for name in passing)]):
        path = cache_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * size_bytes * (number + 1))
        path.chmod(mode)
    return cache_dir


def contents(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time of change in seconds and content of each file below a directory."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): (path.stat().st_mode & 0o7777, int(path.stat().st_mtime), path.read_bytes())
        for path in found
    }

"""Where ranks come from: two interpreters that hash differently, and how chance differs between their forks."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.host import process
from pytest_megacpp.box.worlds.entry import draw_anew
from pytest_megacpp.box.worlds.interpreters import MAX_SEED, InterpreterLost, Interpreters, hash_seeds

WORD = "forces"


def test_seeds_differ_and_are_drawn_anew() -> None:
    drawn = [hash_seeds({}, None) for _ in range(20)]
    assert all(len(set(seeds)) == 2 for seeds in drawn)
    assert all(0 < int(seed) <= MAX_SEED for seeds in drawn for seed in seeds)
    assert len(set(drawn)) > 10
    assert hash_seeds({"PYTHONHASHSEED": "random"}, 5) == hash_seeds({}, 5) == ("5", "6")


def test_what_the_user_fixes_holds_for_all_ranks() -> None:
    assert hash_seeds({"PYTHONHASHSEED": "0"}, None) == hash_seeds({"PYTHONHASHSEED": "0"}, 5) == ("0",)


@pytest.mark.parametrize("size", [2, 4, 8, 16, 64])
def test_every_group_along_a_mesh_has_both(size: int, tmp_path: Path) -> None:
    interpreters = Interpreters(("1", "2"), (), tmp_path)
    for stride in (2**k for k in range(size.bit_length() - 1)):
        for length in (2**k for k in range(1, size.bit_length()) if stride * 2**k <= size):
            for first in range(stride):
                group = range(first, first + stride * length, stride)
                assert len({interpreters.of(rank) for rank in group}) == 2


def test_torch_is_seeded_by_what_the_system_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_rng_state()
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    try:
        draw_anew()
        assert torch.initial_seed() % (1 << 64) == (1 << 64) - 1
    finally:
        torch.set_rng_state(before)


def tell(path: str) -> None:
    """In a fork."""
    reported = [hash(WORD), os.environ.get("PYTHONHASHSEED")]
    Path(path).write_text(json.dumps(reported))


def hash_under(seed: str) -> int:
    reported = subprocess.run(
        [sys.executable, "-c", f"print(hash({WORD!r}))"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
    )
    return int(reported.stdout)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Interpreters]]:
    """Interpreters that have imported next to nothing."""
    made: list[Interpreters] = []
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(tmp_path))  # type: ignore[attr-defined]

    monkeypatch.syspath_prepend(str(tmp_path))

    def begin(*seeds: str, modules: tuple[str, ...] = ()) -> Interpreters:
        made.append(Interpreters(seeds, modules or ("json", "no_such_module"), tmp_path))
        made[-1].begin()
        if not modules:
            wait(made[-1])
        return made[-1]

    yield begin
    for interpreters in made:
        interpreters._kill()
        for one in interpreters._all:
            one.reap()


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done()


def wait(interpreters: Interpreters) -> None:
    wait_until(interpreters.are_through)
    assert interpreters.learn().failed == {"no_such_module": "ModuleNotFoundError: No module named 'no_such_module'"}


def seeds_of(interpreters: Interpreters, rank: int, path: Path) -> list[object]:
    process = interpreters.start(rank, tell, (str(path / f"reported-{rank}"),))
    process.join(60)
    assert process.exitcode == 0
    found: list[object] = json.loads((path / f"reported-{rank}").read_text())
    return found


def test_ranks_hash_as_their_seed_says(
    begun: Callable[..., Interpreters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    interpreters = begun("11", "12")
    reported = [seeds_of(interpreters, rank, tmp_path) for rank in range(3)]
    first, second = hash_under("11"), hash_under("12")
    assert reported == [[first, None], [second, None], [second, None]], "what they start draws a seed of its own"
    assert "PYTHONHASHSEED" not in os.environ


def test_a_fixed_seed_stays_in_the_environment(
    begun: Callable[..., Interpreters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    interpreters = begun(*hash_seeds(os.environ, None))
    assert [seeds_of(interpreters, rank, tmp_path) for rank in range(2)] == [[hash_under("7"), "7"]] * 2


def test_a_killed_one_has_a_successor_that_hashes_alike(begun: Callable[..., Interpreters], tmp_path: Path) -> None:
    interpreters = begun("11", "12")
    assert interpreters.are_known()
    own = interpreters.of(1)
    assert own is not None
    os.kill(own._server._forkserver_pid, signal.SIGKILL)
    wait_until(lambda: not own.is_alive())
    assert not interpreters.are_known()
    with pytest.raises(InterpreterLost, match="the interpreter with hash seed 12 ended after its imports"):
        interpreters.start(1, tell, (str(tmp_path / "never"),))
    interpreters.begin()
    wait(interpreters)
    assert interpreters.are_known()
    assert seeds_of(interpreters, 1, tmp_path)[0] == hash_under("12")


def test_one_that_crashes_in_an_import_is_no_interpreter(begun: Callable[..., Interpreters], tmp_path: Path) -> None:
    (tmp_path / "crashes.py").write_text("import os\nos.abort()\n")
    interpreters = begun("11", modules=("json", "crashes", "this"))
    wait_until(interpreters.are_through)
    for use in (interpreters.learn, lambda: interpreters.start(0, tell, (str(tmp_path / "never"),))):
        with pytest.raises(InterpreterLost, match="the interpreter with hash seed 11 ended while importing crashes"):
            use()
    assert not interpreters.are_known()


def test_those_that_hang_in_an_import_are_killed(begun: Callable[..., Interpreters], tmp_path: Path) -> None:
    code = "import os, pathlib, time; pathlib.Path(__file__).with_name(f'{os.getpid()}.here').touch(); time.sleep(300)"
    (tmp_path / "hangs.py").write_text(code)
    interpreters = begun("11", "12", modules=("json", "hangs"))
    wait_until(lambda: len([*tmp_path.glob("*.here")]) == 2)
    with pytest.raises(InterpreterLost, match="11 had not finished its imports after 300 s: it was importing hangs"):
        interpreters.learn()
    wait_until(lambda: not any(one.is_alive() for one in interpreters._all))


def test_spoiled_ones_are_ended(begun: Callable[..., Interpreters], tmp_path: Path) -> None:
    code = """
        import os, sys, types
        PID = os.getpid()
        sys.modules["torch"] = types.ModuleType("torch")
        sys.modules["torch"]._C = types.SimpleNamespace(_cuda_isInBadFork=lambda: os.getpid() != PID)
    """
    (tmp_path / "starts_cuda.py").write_text(textwrap.dedent(code))
    interpreters = begun("11", "12", modules=("starts_cuda",))
    wait_until(interpreters.are_through)
    pids = [one._server._forkserver_pid for one in interpreters._all]
    assert interpreters.learn().spoiler == "starts_cuda"
    assert [pid for pid in pids if process.stat(pid) is not None] == []
    assert interpreters.are_known()

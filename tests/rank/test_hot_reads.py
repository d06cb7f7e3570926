"""What a rank's audit hook notices of reads of a source, and that it stays out of everybody's way."""

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.rank.hot_reads import HotReads
from pytest_megacpp.recording.events import BucketRead
from pytest_megacpp.recording.plan import DataSet


class Line:
    """An agent that keeps what it is to send; a child's is silent, as the real one."""

    rank = 3

    def __init__(self) -> None:
        self.sent: list[BucketRead] = []
        self.waits: list[bool] = []

    def send(self, fact: BucketRead, *, wait: bool) -> None:
        self.sent.append(fact)
        self.waits.append(wait)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "mount" / "sub").mkdir(parents=True)
    (tmp_path / "mount" / "a").write_text("a")
    (tmp_path / "link").symlink_to("mount")
    return tmp_path / "link"


class Hooked:
    """A hook stays for the life of its process, so tests call it in the interpreter's place."""

    def __init__(self, *data: DataSet) -> None:
        self.line = Line()
        self.reads = HotReads(self.line, data)  # type: ignore[arg-type]

    def __call__(self, event: str, *args: object) -> None:
        self.reads._audit(event, args)

    @property
    def sent(self) -> list[tuple[int, str, str, int]]:
        return [(fact.test, fact.name, fact.path, fact.reads) for fact in self.line.sent]


@pytest.fixture
def hooked(source: Path) -> Hooked:
    return Hooked(DataSet("copied", "/there"), DataSet("shards", "/copy", str(source)))


def test_the_first_read_is_said_at_once_and_their_number_in_the_end(hooked: Hooked, source: Path) -> None:
    hooked("open", str(source / "a"), "r", 0)
    hooked.reads.begin(5)
    hooked("open", str(source / "a"), "r", 0)
    hooked("os.listdir", os.fsencode(source))
    hooked("os.scandir", source.resolve() / "sub")
    assert hooked.sent == [(5, "shards", str(source / "a"), 1)]
    hooked.reads.end()
    hooked("open", str(source / "a"), "r", 0)
    assert hooked.sent[1:] == [(5, "shards", str(source / "a"), 3)]
    assert hooked.line.waits == [False, True]
    hooked.reads.begin(6)
    hooked.reads.end()
    assert len(hooked.sent) == 2


@pytest.mark.parametrize(
    "args",
    [
        *(
            ("open", "/copy/a", "r", 0),
            ("open", 7, "r", 0),
            ("os.listdir", None),
            ("open", object(), "r", 0),
            ("open",),
        ),
        *(("open", "a\0b", "r", 0), ("import", "/copy"), ("socket.connect", 1, 2), ("os.listdir", "")),
    ],
)
def test_anything_else_is_none_of_its_business(args: tuple[str, Any], hooked: Hooked, source: Path) -> None:
    hooked.reads.begin(0)
    hooked(*args)
    hooked("open", f"{source}-beside/a", "r", 0)
    hooked.reads.end()
    assert hooked.sent == []


def test_relative_paths_count_from_where_the_rank_is(
    hooked: Hooked, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source / "sub")
    hooked.reads.begin(0)
    hooked("open", "../a", "r", 0)
    assert hooked.sent == [(0, "shards", str(source.resolve() / "a"), 1)]


def test_a_path_of_any_length_and_name_is_said(hooked: Hooked, source: Path) -> None:
    hooked.reads.begin(0)
    hooked("open", f"{source}/\udcff{'x' * 600}", "r", 0)
    ((_, _, path, _),) = hooked.sent
    assert path.startswith(f"{source}/\udcffx")
    assert len(os.fsencode(path)) == 502


def test_what_forked_children_read_is_counted_in_the_end(hooked: Hooked, source: Path) -> None:
    hooked.reads.begin(0)
    child = os.fork()
    if child == 0:
        hooked("open", str(source / "a"), "r", 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert hooked.sent == []
    hooked("open", str(source / "sub/b"), "r", 0)
    hooked.reads.end()
    assert hooked.sent == [(0, "shards", str(source / "a"), 2)]


def test_without_a_source_there_is_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.addaudithook", None)
    Hooked(DataSet("copied", "/there")).reads.install()


def test_the_compiler_leaves_the_hook_alone(hooked: Hooked, source: Path) -> None:
    """It would look at what a region calls; the real hook stays behind, with nothing to do."""
    import torch
    from torch._dynamo.utils import counters

    place = str(source / "a")

    def frames() -> int:
        def step(x: torch.Tensor) -> torch.Tensor:
            y = x.sin()
            open(place).close()
            return y.cos()

        torch._dynamo.reset()
        before = counters["frames"]["total"]
        torch.compile(step, backend="eager")(torch.ones(2))
        return counters["frames"]["total"] - before

    without = frames()
    hooked.reads.install()
    hooked.reads.begin(0)
    assert frames() == without
    hooked.reads.end()
    assert hooked.sent[0] == (0, "shards", place, 1)

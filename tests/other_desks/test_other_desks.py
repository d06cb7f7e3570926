"""Desks on macOS and Windows: real sessions and commands. On such a system they run as they are. On Linux each runs
twice, with a plugin that sees such a system: what typeshed says it lacks is missing (tests/platforms.py,
seen/sitecustomize.py). Nothing here needs what those systems lack.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

SEEN = Path(__file__).parent / "seen"
LIMITED = (
    "os",
    "signal",
    "socket",
    "errno",
    "time",
    "select",
    "selectors",
    "threading",
    "shutil",
    "subprocess",
    "stat",
)
SYSTEMS = {"darwin": "macOS", "win32": "Windows"}
HERE = ["darwin", "win32"] if sys.platform == "linux" else [sys.platform]
DRILL = Path(__file__).parents[1] / "golden" / "drills" / "stalls-sleep-before-a-collective.jsonl"
BROKEN = (
    "INTERNALERROR",
    "Traceback (most recent call last)",
    "AttributeError",
    "No module named",
    "does something else",
)
LIMIT_S = 300.0
_NOT_FOR_A_DESK = ("PYTEST_", "MEGACPP_", "CI", "GITHUB_", "BUILDKITE", "GITLAB_")


@dataclass(frozen=True)
class Ran:
    """What a session or a command answered; `outcomes` by name of a test."""

    code: int
    text: str
    outcomes: dict[str, str]


@dataclass
class Desk:
    """A project on a desk of another system."""

    root: Path
    platform: str
    more: dict[str, str]

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")

    def runs(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in (self.root / ".megacpp" / "runs").glob("*-*") if path.is_dir())

    def document(self) -> dict[str, Any]:
        """The `run.json` of the newest run."""
        document: dict[str, Any] = json.loads((self.runs()[-1] / "run.json").read_text(encoding="utf-8"))
        return document

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_A_DESK)}
        paths = filter(None, [self._seen(), kept.get("PYTHONPATH")])
        described = {"OTHER_DESK": str(self._described())} if sys.platform == "linux" else {}
        return {**kept, **described, **self.more, "PYTHONPATH": os.pathsep.join(paths)}

    def _seen(self) -> str:
        return str(SEEN) if sys.platform == "linux" else ""

    def _described(self) -> Path:
        from tests.platforms import lacking, lacking_modules

        path = self.root.parent / "other-desk.json"
        names = {module: sorted(lacking(module, self.platform)) for module in LIMITED}
        document = {"platform": self.platform, "modules": sorted(lacking_modules(self.platform)), "names": names}
        path.write_text(json.dumps(document | {"root": str(self.root / ".megacpp")}), encoding="utf-8")
        return path

    def python(self, *words: str, given: bytes = b"") -> Ran:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=self.environment(),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"), {})

    def session(self, *args: str) -> Ran:
        results = self.root.parent / "results.xml"
        results.unlink(missing_ok=True)
        ran = self.python("-m", "pytest", f"--junitxml={results}", *args)
        cases = ElementTree.parse(results).iter("testcase") if results.exists() else ()
        return _sound(Ran(ran.code, ran.text, {str(case.get("name")): _outcome(case) for case in cases}))

    def command(self, *args: str, given: bytes = b"") -> Ran:
        return _sound(self.python("-m", "pytest_megacpp", *args, given=given))


def _outcome(case: ElementTree.Element) -> str:
    return next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed")


def _sound(ran: Ran) -> Ran:
    assert not [sign for sign in BROKEN if sign in ran.text], ran.text
    return ran


@pytest.fixture(params=HERE)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "project", request.param, {})
    desk.write("pyproject.toml", '[tool.pytest.ini_options]\naddopts = ["--strict-markers"]\n')
    desk.write("test_ordinary.py", "def test_ordinary():\n    pass\n")
    desk.write("test_lane.py", "import pytest\n\n@pytest.mark.h200x8(ranks=2)\ndef test_it(modal_h200x8):\n    pass\n")
    return desk


@pytest.mark.skipif(sys.platform != "linux", reason="such a system lacks what it lacks")
def test_it_is_such_a_desk(desk: Desk) -> None:
    """What these tests rest on: the plugin sees no such module or name, and everybody else does."""
    script = """
import os, sys
from pytest_megacpp.desk.hooks import board
assert (board.sys.platform, sys.platform) == (SYSTEM, "linux")
assert (hasattr(board.os, "posix_fallocate"), hasattr(os, "posix_fallocate")) == (False, True)
assert board.os.getcwd() == os.getcwd()
"""
    desk.write("look.py", script.replace("SYSTEM", repr(desk.platform)))
    ran = desk.python("look.py")
    assert ran.code == 0, ran.text


def test_ordinary_tests_and_collecting(desk: Desk) -> None:
    assert desk.session().outcomes == {"test_ordinary": "passed", "test_it": "skipped"}
    listed = desk.session("--co", "-q", "-m", "h200x8")
    assert listed.code == pytest.ExitCode.OK
    assert "test_lane.py::test_it" in listed.text
    with_header = desk.session("--co", "-m", "h200x8").text
    assert f"this machine runs {SYSTEMS[desk.platform]}, and a box takes Linux" in with_header


@pytest.mark.parametrize("asked", [(), ("--surface", "local"), ("--surface", "local", "--dry-run"), ("--dry-run",)])
def test_no_box_here_and_none_in_silence(desk: Desk, asked: tuple[str, ...]) -> None:
    ran = desk.session("-m", "h200x8", *asked)
    assert ran.code == pytest.ExitCode.USAGE_ERROR, ran.text
    assert (
        f"this machine runs {SYSTEMS[desk.platform]}, and a box takes Linux. Run it elsewhere with --surface "
        in ran.text
    )
    assert desk.runs() == []


def test_a_replay_and_all_commands(desk: Desk) -> None:
    """One after the other: a replay costs seconds, and every command has something to look at."""
    facts = [json.loads(line) for line in DRILL.read_text(encoding="utf-8").splitlines()]
    file, _, name = next(fact["nodeid"] for fact in facts if fact["kind"] == "test-planned").partition("::")
    desk.write(file, f"import pytest\n\n@pytest.mark.h200x8(ranks=8)\ndef {name}(modal_h200x8):\n    pass\n")
    shutil.copy(DRILL, desk.root / "drill.jsonl")
    for _ in range(2):
        ran = desk.session("-m", "h200x8", "--replay", "drill.jsonl", file)
        assert ran.outcomes == {name: "failure"}
        assert [test["verdict"] for test in desk.document()["tests"]] == ["straggler"]
        assert {"run.json", "recording.jsonl", "timeline.html"} <= {path.name for path in desk.runs()[-1].iterdir()}
    first, second = (run.name for run in desk.runs())

    said = {
        ("runs",): (0, first),
        ("show",): (1, "straggler"),
        ("show", first, "--json"): (1, '"straggler"'),
        ("judge", "drill.jsonl"): (1, "straggler"),
        ("history",): (1, "are replays, which are no history"),
        ("diff", first, second): (0, ""),
        ("logs", first): (1, ""),
        ("stacks", first): (0, "reduce_elements"),
        ("stop", first): (0, "nothing to stop"),
        ("seed", "list"): (0, ""),
        ("completion", "bash"): (0, "complete"),
        ("--version",): (0, "megacpp"),
        ("gate", "--since", "HEAD"): (2, "rule"),
        ("doctor",): (1, f"this machine runs {SYSTEMS[desk.platform]}"),
        ("doctor", "--json"): (1, '"ready": false'),
        ("init",): (0, "try it"),
        ("run", "-m", "h200x8"): (2, "a box takes Linux"),
        ("prune", "--keep", "1"): (0, "1 run removed"),
    }
    for words, (code, text) in said.items():
        done = desk.command(*words)
        assert (done.code, text in done.text) == (code, True), f"megacpp {' '.join(words)}\n{done.code}\n{done.text}"
    assert [run.name for run in desk.runs()] == [second]


def test_a_recording_from_a_pipe(desk: Desk) -> None:
    judged = desk.command("judge", "-", given=DRILL.read_bytes())
    assert judged.code == 1
    assert "straggler" in judged.text


def test_a_run_that_its_desk_left_behind(desk: Desk) -> None:
    """Files are cleaned and rewritten while nobody holds them."""
    run = desk.root / ".megacpp" / "runs" / "20261122-214501-3f9a"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"run_id": run.name, "status": "running", "tests": []}), encoding="utf-8")
    (run / "box.log").write_text("export TOKEN_SECRET=ghp_abcdefghijklmnopqrstuvwxyz0123456789\n", encoding="utf-8")
    assert run.name in desk.command("runs").text
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    assert "ghp_abc" not in (run / "box.log").read_text(encoding="utf-8")


# -- with boxes elsewhere --------------------------------------------------------------------------------------------


@pytest.fixture
def tenant(desk: Desk) -> Iterator[Desk]:
    """A desk with an account; the emulator runs in this process, and its boxes see the machine as it is."""
    if sys.platform != "linux":
        pytest.skip("the emulator's boxes need Linux")
    if find_spec("modal") is None:
        pytest.skip("the modal client isn't installed: pip install -e '.[test]'")
    from tests.modal_emulator import Emulator

    with Emulator(hide=[desk.root]) as emulator:
        desk.more = dict(emulator.environment)
        desk.write(
            "test_more.py",
            "import pytest\n\n@pytest.mark.h200x8(ranks=2)\ndef test_no(modal_h200x8):\n"
            "    print('said by rank', modal_h200x8.rank)\n    assert not modal_h200x8.rank\n",
        )
        yield desk


def test_a_box_on_modal_and_one_that_was_left(tenant: Desk) -> None:
    """`auto` takes the surface that is ready."""
    lane = ("-m", "h200x8", "--dry-run")
    expected = {"test_it": "passed", "test_no": "failure"}
    ran = tenant.session(*lane)
    assert ran.outcomes == expected, ran.text
    assert tenant.document()["surface"] == "modal"
    left = tenant.session(*lane, "--detach")
    assert left.code == pytest.ExitCode.OK, left.text
    run_id = tenant.runs()[-1].name
    for _ in range(2):  # to its end, and again from its records
        attached = tenant.session("-m", "h200x8", "--attach", run_id)
        assert attached.outcomes == expected, attached.text
    assert "rank 1" in tenant.command("logs", run_id, "--test", "test_no").text

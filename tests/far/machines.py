"""Owns far machines for tests: what reaches them, and what runs there; must not know a run.

All of them are this machine, so that everything that is left behind can be seen.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_megacpp.box.host import process
from tests.plugin.project import command

READY_S = 20.0


class Unusable(Exception):
    """This machine can't be a far one; the text says what is missing."""


@dataclass(frozen=True)
class Machine:
    """What reaches it, by the keys of its table, and the user's cache there."""

    words: tuple[str, ...]
    cache: Path
    shell: bool = False

    def table(self, name: str = "gpu01", *, attach: bool = False, **keys: str) -> str:
        """The machine as a table of pyproject.toml; `keys` are further ones, as TOML."""
        lines = [f"[tool.pytest_megacpp.surfaces.{name}]", f"command = {_toml(self.words)}"]
        lines += [f"python = {_toml(sys.executable)}", f"shell = {str(self.shell).lower()}"]
        lines += [f"attach = {_toml(self.words)}"] if attach else []
        return "\n".join([*lines, *(f"{key} = {value}" for key, value in keys.items()), ""])

    @property
    def boxes(self) -> list[Path]:
        """Directories of runs there."""
        return sorted((self.cache / "pytest-megacpp" / "boxes").glob("*"))


def _toml(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert isinstance(value, tuple)
    return f"[{', '.join(map(_toml, value))}]"


def of_run(run_id: str) -> dict[int, str]:
    """Living processes of a run, on whichever side, with their command lines: they carry its id in their environment,
    or name it.
    """
    living = (p.pid for p in process.all_processes() if p.state not in "ZX" and p.pid != os.getpid())
    found = {pid: command(pid) for pid in living}
    return {
        pid: line
        for pid, line in found.items()
        if run_id in line or process.environment_of(pid).get("MEGACPP_RUN_ID") == run_id
    }


def wait_for_none(run_id: str, limit_s: float) -> dict[int, str]:
    """What is left of a run after so long at most."""
    deadline = time.monotonic() + limit_s
    while (left := of_run(run_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def one_of(run_id: str, part: str, without: str = "\0") -> int:
    """The process of a run whose command line has this part."""
    return next(pid for pid, line in sorted(of_run(run_id).items()) if part in line and without not in line)


@contextmanager
def sshd(directory: Path) -> Iterator[Machine]:
    """A server of our own on loopback, with keys of its own. Raises Unusable."""
    server, keygen = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin"), shutil.which("ssh-keygen")
    if server is None or keygen is None or shutil.which("ssh") is None:
        raise Unusable("no OpenSSH server: apt-get install openssh-server openssh-client")
    for key in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True)
    port, cache = _free_port(), directory / "cache"
    (directory / "banner").write_text("You are entering a machine.\n")
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\n"
        f"Banner {directory}/banner\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
        f"PermitRootLogin prohibit-password\nSetEnv XDG_CACHE_HOME={cache}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as its service does
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen([server, "-D", "-e", "-f", directory / "config"], stdin=subprocess.DEVNULL, stderr=log)
    try:
        _wait_for_port(port, child, directory / "log")
        options = ("UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "BatchMode=yes", "IdentitiesOnly=yes")
        words: tuple[str, ...] = ("ssh", "-F", "none", "-p", str(port), "-i", str(directory / "user"))
        words += tuple(word for option in options for word in ("-o", option))
        yield Machine((*words, "127.0.0.1"), cache, shell=True)
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(READY_S)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for_port(port: int, child: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while child.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise Unusable(f"sshd does not listen: {log.read_text()[-400:]}")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# -- a cluster of one node -----------------------------------------------------------------------------------------

SLURM_CONF = """
ClusterName=far
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={top}/munge.sock
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd.pid
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=512 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
PartitionName=alone Nodes={host} MaxTime=INFINITE State=UP OverSubscribe=EXCLUSIVE
"""
DAEMONS = ("munged", "slurmctld", "slurmd")


@contextmanager
def slurm(top: Path) -> Iterator[Machine]:
    """Slurm with this machine as its only node. Raises Unusable."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in (*DAEMONS, "srun", "sinfo") if shutil.which(name, path=path) is None]
    if missing:
        raise Unusable(f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        raise Unusable("slurmd needs root here")
    _configure(top)
    children, environ = [], {**os.environ, "SLURM_CONF": str(top / "slurm.conf"), "PATH": path}
    munged = ["munged", "--foreground", "--force", f"--socket={top}/munge.sock", f"--key-file={top}/munge.key"]
    munged += [f"--pid-file={top}/munge.pid", f"--log-file={top}/munge.log", f"--seed-file={top}/munge.seed"]
    try:
        for words in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"]):
            with (top / f"{words[0]}.log").open("wb") as log:
                daemon = subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            children.append(daemon)
            _wait_for_socket(top / "munge.sock")
        _wait_for_node(environ, top)
        settings = (f"SLURM_CONF={top}/slurm.conf", f"XDG_CACHE_HOME={top}/cache", f"PATH={path}")
        yield Machine(("env", *settings, "srun", "-n1", "--job-name", "{run}"), top / "cache")
    finally:
        for child in reversed(children):
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(READY_S)


def _configure(top: Path) -> None:
    for name in ("state", "spool"):
        (top / name).mkdir()
    top.chmod(0o755)
    (top / "munge.key").write_bytes(os.urandom(1024))
    (top / "munge.key").chmod(0o400)
    text = SLURM_CONF.format(
        host=socket.gethostname(),
        user="root",
        top=top,
        port=_free_port(),
        node_port=_free_port(),
        cores=os.cpu_count(),
    )
    (top / "slurm.conf").write_text(text)


def _wait_for_socket(path: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise Unusable(f"munged does not listen at {path}")
        time.sleep(0.05)


def _wait_for_node(environ: dict[str, str], top: Path) -> None:
    deadline, state = time.monotonic() + 2 * READY_S, ""
    while "idle" not in state:
        if time.monotonic() > deadline:
            log = (top / "slurmctld.log").read_text()[-400:]
            raise Unusable(f"the node is {state.strip() or 'unknown'}: {log}")
        time.sleep(0.2)
        words = ["sinfo", "--noheader", "--format=%t"]
        state = subprocess.run(words, env=environ, capture_output=True, text=True, check=False).stdout

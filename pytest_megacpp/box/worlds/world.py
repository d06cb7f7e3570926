"""Owns one incarnation of N ranks: stores, processes, lines to the ranks, logs, the end; must not decide when."""

import errno
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from pytest_megacpp.box.host import process
from pytest_megacpp.box.look.watch import Target
from pytest_megacpp.box.worlds.entry import run_rank
from pytest_megacpp.box.worlds.exits import watch_exit
from pytest_megacpp.box.worlds.interpreters import Interpreter, InterpreterLost, Interpreters
from pytest_megacpp.box.worlds.preload import HASH_SEED
from pytest_megacpp.box.worlds.rank_channel import RankChannel
from pytest_megacpp.box.worlds.stores import ADDRESS, Stores
from pytest_megacpp.box.worlds.torchrun_env import rank_environment
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.greeting import new_token
from pytest_megacpp.recording.plan import Go, Leave
from pytest_megacpp.recording.wire import dump_line

DESCRIPTORS_TO_COME = 4  # of a rank: its lines for facts and crashes, a look at it, a log
_NO_STATUS = 255  # what multiprocessing answers when its forkserver died before the child


@dataclass
class RankProcess:
    """One rank's process, a fork of `interpreter` unless that is None. `ended_fd` becomes readable when it ends; it is
    None when it had ended before the box looked. Who connects with `token` is this rank. `signalled`: the box sent it a
    signal to end. `channel` reads what it reports.
    """

    rank: int
    handle: BaseProcess
    ended_fd: int | None
    logs: tuple[str, str]
    token: str
    interpreter: Interpreter | None
    line: socket.socket | None = None
    crash: socket.socket | None = None
    signalled: bool = False
    exited: bool = False

    def __post_init__(self) -> None:
        self.channel = RankChannel(self.rank)

    @property
    def pid(self) -> int:
        assert self.handle.pid is not None
        return self.handle.pid

    @property
    def hash_seed(self) -> str:
        """The seed by which it hashes strings; empty where that is not known."""
        return self.interpreter.hash_seed if self.interpreter is not None else os.environ.get(HASH_SEED, "")

    def exit_code(self, wait_s: float = 0.5) -> int | None:
        """Returns the exit code, negative for a signal; None where it can't be learnt, since the interpreter that reaps
        it is gone.
        """
        self.handle.join(wait_s)
        code = self.handle.exitcode
        orphaned = self.interpreter is not None and not self.interpreter.is_alive()
        return None if code == _NO_STATUS and orphaned else code


class StartFailed(Exception):
    """The processes of a world could not be started. The text says why, `remedy` what to do."""

    cause = "start"

    def __init__(self, ranks: int, error: Exception) -> None:
        super().__init__(f"{ranks} ranks can't be started here: {type(error).__name__}: {error}")
        number = error.errno if isinstance(error, OSError) else None
        otherwise = "see box.log in the run's directory: it has the traceback"
        self.remedy = error.remedy if isinstance(error, InterpreterLost) else _REMEDIES.get(number, otherwise)


class NoTorch(StartFailed):
    """torch doesn't import, so no rank could begin."""

    cause = "torch"

    def __init__(self, why: str) -> None:
        Exception.__init__(self, f"torch doesn't import: {why}")
        self.remedy = "pip install --force-reinstall 'pytest-megacpp[local]'"


_REMEDIES: dict[int | None, str] = {
    errno.EMFILE: "raise the limit of open files (ulimit -n 4096)",
    errno.ENFILE: "the machine has too many open files: end what holds them, or raise fs.file-max",
    errno.EAGAIN: "raise the limit of processes (ulimit -u; of a container its limit of pids)",
    errno.ENOMEM: "the machine's memory is used up: free some, or start fewer ranks",
    errno.ENOSPC: "the file system of the temporary directory or of /dev/shm is full: free some of it",
}


@dataclass
class World:
    """N ranks of one start. `directory` gets `<rank>/stdout.log` and `stderr.log`."""

    name: str
    size: int
    directory: Path
    scratch: Path
    ranks: dict[int, RankProcess] = field(default_factory=dict)
    ending: bool = False
    _stores: Stores | None = None
    _store_port: int = 0

    def start(self, environment: Mapping[str, str], interpreters: Interpreters) -> None:
        """Starts all ranks; `environment` is what every rank gets beside torchrun's own variables. Raises
        StartFailed.
        """
        try:
            self._stores = Stores(partial(interpreters.start, 0))
            port = self.new_store()
            for rank in range(self.size):
                self.ranks[rank] = self._start_rank(rank, port, environment, interpreters)
            _check_descriptors(self.size * DESCRIPTORS_TO_COME)
        except Exception as e:
            for started in self.ranks.values():
                started.handle.kill()
            self.close()
            self.ranks.clear()
            raise StartFailed(self.size, e) from e

    def _start_rank(
        self, rank: int, port: int, environment: Mapping[str, str], interpreters: Interpreters
    ) -> RankProcess:
        token, logs, interpreter = new_token(), self._logs(rank), interpreters.of(rank)
        variables = self._environment(rank, port, environment, token)
        handle = interpreters.start(rank, run_rank, (variables, *logs))
        ended_fd = watch_exit(handle, is_own_child=interpreter is None)
        return RankProcess(rank, handle, ended_fd, logs, token, interpreter)

    def _environment(self, rank: int, port: int, environment: Mapping[str, str], token: str) -> dict[str, str]:
        launch = rank_environment(
            rank=rank,
            world_size=self.size,
            master_addr=ADDRESS,
            master_port=port,
            run_id=environment["MEGACPP_RUN_ID"],
            inherited=os.environ,
        )
        own = {
            "MEGACPP_WORLD": self.name,
            "MEGACPP_WORKER": self.worker(rank),
            "MEGACPP_TOKEN": token,
            "MEGACPP_STDERR": self._logs(rank)[1],
            "MEGACPP_TMP": str(self.scratch / f"tmp-{self.name}-{rank}"),
        }
        return {**environment, **launch, **own}

    def worker(self, rank: int) -> str:
        """Returns where the rank's worker server listens."""
        return str(self.scratch / f"{self.name}.{rank}")

    def target(self, rank: int, *, nccl: bool) -> Target:
        process_ = self.ranks[rank]
        return Target(rank, process_.pid, self.worker(rank), process_.logs, nccl)

    def _logs(self, rank: int) -> tuple[str, str]:
        directory = self.directory / str(rank)
        directory.mkdir(parents=True, exist_ok=True)
        return str(directory / "stdout.log"), str(directory / "stderr.log")

    # -- stores --------------------------------------------------------------------------------------------

    def new_store(self) -> int:
        """Has a new TCPStore hosted and returns its port. Every test has its own, so no key outlives a test (decision
        0001). Raises OSError.
        """
        assert self._stores is not None
        self._store_port = self._stores.new()
        return self._store_port

    def store_for(self, *, keep: bool) -> int:
        """Returns the port for the next test: the last test's when its process group stays. Raises StartFailed."""
        try:
            return self._store_port if keep and self._store_port else self.new_store()
        except OSError as e:
            raise StartFailed(self.size, e) from e

    def drop_stores(self) -> None:
        """Closes all but the newest store."""
        if self._stores is not None:
            self._stores.drop()

    # -- lines ---------------------------------------------------------------------------------------------

    def say(self, command: Go | Leave, ranks: Iterable[int] | None = None) -> None:
        """Sends a command; a rank that is gone doesn't get it."""
        line = dump_line(to_json(command))
        for rank in self.ranks if ranks is None else ranks:
            target = self.ranks[rank].line
            if target is not None:
                try:
                    target.sendall(line)
                except OSError:
                    continue

    def alive(self) -> list[RankProcess]:
        return [r for r in self.ranks.values() if not r.exited]

    def strays(self) -> list[int]:
        """Returns the living processes that were started in this world and outlived their rank: descendants of this box
        or, where orphans go elsewhere, any process that was started here.
        """
        sessions = {r.pid for r in self.ranks.values()}
        found = process.descendants(os.getpid()) if process.adopts_orphans() else process.all_processes()
        return [p.pid for p in found if p.state not in "ZX" and (p.session in sessions or self._is_marked(p.pid))]

    def _is_marked(self, pid: int) -> bool:
        """Returns whether a process was started in this world of this box."""
        own = {"MEGACPP_WORLD": self.name, "MEGACPP_GUARD": os.environ.get("MEGACPP_GUARD")}
        return own.items() <= process.environment_of(pid).items()

    def close(self) -> None:
        """Releases descriptors and stores after the last rank ended."""
        for rank in self.ranks.values():
            if rank.ended_fd is not None:
                os.close(rank.ended_fd)
            for line in (rank.line, rank.crash):
                if line is not None:
                    line.close()
            Path(self.worker(rank.rank)).unlink(missing_ok=True)
        if self._stores is not None:
            self._stores.close()


def _check_descriptors(number: int) -> None:
    """Raises OSError where so few descriptors are left that the box could not accept the ranks' connections."""
    taken: list[int] = []
    try:
        for _ in range(number):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in taken:
            os.close(descriptor)

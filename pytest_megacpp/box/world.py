"""Owns one incarnation of N ranks: stores, processes, lines to the ranks, logs, the end; must not decide when.

Ranks are started by torch elastic's process API on a forkserver that imported torch once. Here and only here the
box needs torch.
"""

import errno
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pytest_megacpp.box import process
from pytest_megacpp.box.entry import run_rank
from pytest_megacpp.box.exits import watch_exit
from pytest_megacpp.box.torchrun_env import rank_environment
from pytest_megacpp.box.watch import Target
from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.greeting import new_token
from pytest_megacpp.recording.plan import Go, Leave
from pytest_megacpp.recording.wire import dump_line

StartMethod: TypeAlias = Literal["forkserver", "spawn"]
MASTER_ADDR = "127.0.0.1"
_NO_STATUS = 255  # what multiprocessing answers when its forkserver died before the child


@dataclass
class RankProcess:
    """One rank's process. `ended_fd` becomes readable when it ends; None when it had ended before the box looked. Who
    connects with `token` is this rank.
    """

    rank: int
    handle: Any
    ended_fd: int | None
    logs: tuple[str, str]
    token: str
    line: socket.socket | None = None
    crash: socket.socket | None = None
    exited: bool = False

    @property
    def pid(self) -> int:
        return int(self.handle.pid)

    def exit_code(self, wait_s: float = 0.5) -> int | None:
        """Negative for a signal; None when it can't be learnt, since the forkserver that reaps it is gone."""
        self.handle.join(wait_s)
        code = self.handle.exitcode
        if code is None or (code == _NO_STATUS and not forkserver_is_alive()):
            return None
        return int(code)


class StartFailed(Exception):
    """The processes of a world could not be made; the text says why, `mend` what to do."""

    def __init__(self, ranks: int, error: Exception) -> None:
        super().__init__(f"{ranks} ranks can't be started here: {type(error).__name__}: {error}")
        number = error.errno if isinstance(error, OSError) else None
        self.mend = _MENDS.get(number, "see box.log in the run's directory: it has the traceback")


_MENDS: dict[int | None, str] = {
    errno.EMFILE: "raise the limit of open files (ulimit -n 4096)",
    errno.ENFILE: "the machine has too many open files: end what holds them, or raise fs.file-max",
    errno.EAGAIN: "raise the limit of processes (ulimit -u; of a container its limit of pids)",
    errno.ENOMEM: "the machine's memory is used up: free some, or start fewer ranks",
    errno.ENOSPC: "the file system of the temporary directory or of /dev/shm is full: free some of it",
}


@dataclass
class World:
    """N ranks, started. `directory` gets `<rank>/stdout.log` and `stderr.log`."""

    name: str
    size: int
    directory: Path
    scratch: Path
    ranks: dict[int, RankProcess] = field(default_factory=dict)
    ending: bool = False
    _stores: dict[int, Any] = field(default_factory=dict)
    _store_port: int = 0
    _context: Any = None  # holds what the ranks unpickle until they have

    def start(self, environment: Mapping[str, str], method: StartMethod) -> None:
        """Starts all ranks; `environment` is what every rank gets beside torchrun's own variables. Raises
        StartFailed.
        """
        try:
            self._start(environment, method)
        except Exception as e:
            raise StartFailed(self.size, e) from e

    def _start(self, environment: Mapping[str, str], method: StartMethod) -> None:
        from torch.distributed.elastic.multiprocessing import start_processes

        port = self.new_store()
        tokens = {r: new_token() for r in range(self.size)}
        envs = {r: self._environment(r, port, environment, tokens[r]) for r in range(self.size)}
        logs = {r: self._logs(r) for r in range(self.size)}
        self._context = context = start_processes(
            name=f"megacpp-{self.name}",
            entrypoint=run_rank,
            args=dict.fromkeys(range(self.size), ()),
            envs=envs,
            logs_specs=_logs_specs(logs),
            start_method=method,
        )
        by_pid = {child.pid: child for child in multiprocessing.active_children()}
        for rank, pid in context.pids().items():
            handle = by_pid.get(pid) or context._pc.processes[rank]  # type: ignore[attr-defined]
            ended_fd = watch_exit(handle, is_own_child=method == "spawn")
            self.ranks[rank] = RankProcess(rank, handle, ended_fd, logs[rank], tokens[rank])

    def _environment(self, rank: int, port: int, environment: Mapping[str, str], token: str) -> dict[str, str]:
        launch = rank_environment(
            rank=rank,
            world_size=self.size,
            master_addr=MASTER_ADDR,
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
        """Where the rank's worker server listens."""
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
        """Hosts a fresh TCPStore; returns its port. Every test has its own, so no key outlives a test."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(MASTER_ADDR, 0, is_master=True, wait_for_workers=False)
        self._stores[store.port] = store
        self._store_port = store.port
        return self._store_port

    def store_for(self, *, keep: bool) -> int:
        """The port for the next test: the last test's when its process group stays."""
        return self._store_port if keep and self._store_port else self.new_store()

    def drop_stores(self) -> None:
        """Closes all but the newest store."""
        self._stores = {self._store_port: self._stores[self._store_port]}

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
        """Living processes that were started in this world and outlived their rank: descendants of this box, or, where
        orphans go elsewhere, of whomever.
        """
        sessions = {r.pid for r in self.ranks.values()}
        found = process.descendants(os.getpid()) if process.adopts_orphans() else process.all_processes()
        return [p.pid for p in found if p.state not in "ZX" and (p.session in sessions or self._is_marked(p.pid))]

    def _is_marked(self, pid: int) -> bool:
        """Whether a process was started in this world of this box."""
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
        self._stores.clear()


def start_forkserver(modules: Iterable[str], report: Path) -> None:
    """Starts the process that imports `modules` for all ranks; returns at once, the imports go on until `report`
    exists (see `preload`).
    """
    order = {"path": sys.path, "modules": list(modules), "report": str(report)}
    os.environ["MEGACPP_PRELOAD"] = json.dumps(order)
    multiprocessing.set_forkserver_preload(["pytest_megacpp.box.preload"])
    forkserver.ensure_running()
    del os.environ["MEGACPP_PRELOAD"]


def forkserver_is_alive() -> bool:
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid is not None and process.is_alive(pid)


def _logs_specs(logs: Mapping[int, tuple[str, str]]) -> Any:
    """Elastic's description of where each rank's streams go."""
    from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

    class RunDirectoryLogs(LogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            return LogsDest(
                stdouts={r: out for r, (out, _) in logs.items()},
                stderrs={r: err for r, (_, err) in logs.items()},
                error_files=dict.fromkeys(logs, ""),
            )

        @property
        def root_log_dir(self) -> str:
            return ""

    return RunDirectoryLogs()

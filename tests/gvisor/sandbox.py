"""Owns how a sandbox of gVisor is described and which commands drive it; must not know who wants one, or start any.

A sandbox sees this machine's files below an overlay in memory: what it writes vanishes with it, except below `kept`
directories, which it shares with this machine. It has a loopback and no other network. It ends with the `runsc run`
that started it, even by SIGKILL.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_megacpp.box.host import process
from tests.gvisor.builds import Build

RUNNING = "running"
_MAKE_ROOT = Path(__file__).with_name("root.sh")
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE"),
    *("NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP", "SYS_PTRACE"),
)
"""What a container of Docker has, and the one that py-spy needs."""
Mount = dict[str, Any]


def _tmpfs(destination: str) -> Mount:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs"}


def _bind(destination: str, source: Path) -> Mount:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", "rw"]}


_HOSTNAME = "box"  # torchrun resolves it
_MOUNTS: tuple[Mount, ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
    _tmpfs("/dev"),
    _tmpfs("/dev/shm"),
)


@dataclass(frozen=True)
class Job:
    """One process: what to run, with which environment, where."""

    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: str


@dataclass(frozen=True)
class Files:
    """What a sandbox sees otherwise than this machine.

    `kept` directories are shared and lie where they do here; `placed` ones lie elsewhere, by that place; `hidden` ones
    look empty.
    """

    kept: Sequence[Path] = ()
    placed: Mapping[str, Path] = field(default_factory=dict)
    hidden: Sequence[Path] = ()

    def mounts(self) -> list[Mount]:
        """Outer directories first, so that none is covered by the one that it lies in."""
        shared: dict[str, Path] = {str(path): path for path in self.kept}
        shared.update(self.placed)
        mounts = {str(path): _tmpfs(str(path)) for path in self.hidden if path.is_dir()}
        mounts.update({inside: _bind(inside, path) for inside, path in shared.items()})
        return [mount for _, mount in sorted(mounts.items())]


@dataclass(frozen=True)
class Sandbox:
    """One sandbox of a build. `directory` is its own on this machine: its description and runsc's state.

    `name` is unique on the machine: 2022-12 has an abstract socket of that name.
    """

    build: Build
    directory: Path
    name: str = field(default_factory=lambda: f"megacpp-{uuid.uuid4().hex[:12]}")

    @property
    def _state(self) -> Path:
        return self.directory / "state"

    @property
    def _root(self) -> Path:
        return self.directory / "root"

    @property
    def _runsc(self) -> tuple[str, ...]:
        return (
            *(str(self.build.path), "--root", str(self._state)),
            *("--ignore-cgroups", "--network=none", "--overlay2=root:memory"),
        )

    def describe(self, job: Job, files: Files) -> None:
        """Writes what `run` reads."""
        for place in (self._state, self._root):
            place.mkdir(parents=True, exist_ok=True)
        hosts = self.directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {_HOSTNAME}\n::1 localhost\n", encoding="utf-8")
        mounts = [*_MOUNTS, _bind("/etc/hosts", hosts), *files.mounts()]
        root = {"path": str(self._root), "readonly": False}
        bundle = {
            "ociVersion": "1.0.2",
            "process": _process(job),
            "root": root,
            "hostname": _HOSTNAME,
            "mounts": mounts,
        }
        (self.directory / "config.json").write_text(json.dumps(bundle), encoding="utf-8")

    def run(self, files: Files) -> list[str]:
        """The command whose life is the sandbox's, with its streams and its exit status."""
        root = ("unshare", "--mount", "sh", str(_MAKE_ROOT), str(self._root), *files.placed, "--")
        return [*root, *self._runsc, "run", "--bundle", str(self.directory), self.name]

    def exec(self, job: Job, number: int) -> list[str]:
        """The command that runs one more process in it. Who kills this command doesn't end the process."""
        description = self.directory / f"exec-{number}.json"
        description.write_text(json.dumps(_process(job)), encoding="utf-8")
        return [*self._runsc, "exec", "--process", str(description), self.name]

    def signal(self, number: int) -> list[str]:
        """The command that sends a signal to its first process."""
        return [*self._runsc, "kill", self.name, str(number)]

    def state(self) -> list[str]:
        """The command that prints its state as JSON; processes can be started in it once its `status` is RUNNING."""
        return [*self._runsc, "state", self.name]

    def processes(self) -> list[int]:
        """Living processes of this machine that carry it: runsc itself, gVisor's kernel, its file server."""
        living = (p.pid for p in process.all_processes() if p.state not in "ZX")
        return [pid for pid in living if self._carries(pid)]

    def _carries(self, pid: int) -> bool:
        try:
            return os.fsencode(self._state) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def forget(self) -> None:
        """Ends what is left of it and removes its directory."""
        process.end_all(self.processes())
        shutil.rmtree(self.directory, ignore_errors=True)


def _process(job: Job) -> dict[str, Any]:
    sets = ("bounding", "effective", "permitted")
    return {
        "args": list(job.command),
        "env": [f"{name}={value}" for name, value in job.environment.items()],
        "cwd": job.cwd,
        "user": {"uid": 0, "gid": 0},
        "capabilities": {name: [f"CAP_{capability}" for capability in _CAPABILITIES] for name in sets},
    }

"""Runs a command on a machine that lacks some kernel interfaces; must not know the lane.

    python tests/kernel/lacking.py NAME[,NAME...] -- COMMAND...

Four means: mounts in a mount namespace of its own (with a user namespace when not root), a seccomp filter that refuses
system calls, a network namespace with a loopback interface only, and, for files that no mount can hide, an audit hook
that refuses them to Python. A NAME is one of `INTERFACES`, with `=ERRNO` where its system call shall fail in another
way (`pidfd_open=EPERM`), or an absolute path (`/proc/*/task/*/schedstat`) that Python shall not find. The exit status
is the command's, or `IMPOSSIBLE` with the reason on stderr where this machine doesn't allow it. Standard library only:
it is run as a file, from any directory.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

IMPOSSIBLE = 125
_HOOK = Path(__file__).with_name("hidden")
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_USERS, _NEW_PIDS, _NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000  # unshare(2)
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # mount(2)
_KEPT_FLAGS = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC  # a user namespace may not take these off
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 22, 38, 24
_CAP_SYS_PTRACE = 19
_SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8914, 0x8916, 1  # netdevice(7)
_NODES = ("null", "zero", "full", "random", "urandom", "tty")

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_COLUMN = {"x86_64": 0, "aarch64": 1}
_NUMBERS = {
    "fallocate": (285, 47),
    "flock": (73, 32),
    "getsockopt": (55, 209),
    "pidfd_open": (434, 434),
    "prctl": (157, 167),
    "process_vm_readv": (310, 270),
    "setsockopt": (54, 208),
    "socket": (41, 198),
    "syslog": (103, 116),
}
"""System call numbers on x86_64 and aarch64."""


@dataclass(frozen=True)
class Refusal:
    """A system call that fails with `error` where all `arguments` (position to value) are as given."""

    call: str
    error: int
    arguments: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Lack:
    """What takes one interface away. `mounts` run in the new mount namespace; `paths` are hidden from Python; `network`
    sets up the loopback interface of a new network namespace.
    """

    refusals: tuple[Refusal, ...] = ()
    mounts: tuple[Callable[[], None], ...] = ()
    paths: tuple[str, ...] = ()
    ignored: tuple[signal.Signals, ...] = ()
    open_files: int = 0
    network: Callable[[], None] | None = None
    needs_pids: bool = False


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    if _LIBC.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind or source} on {target}: {os.strerror(error)}")


def hidden(path: str) -> Callable[[], None]:
    """An empty, read-only directory lies over `path`."""
    return lambda: _mount("lacking", path, "tmpfs", _READ_ONLY, "size=4k,mode=555") if os.path.isdir(path) else None


def read_only(path: str) -> Callable[[], None]:
    def remount() -> None:
        _mount(path, path, flags=_BIND | _RECURSIVE)
        _mount("none", path, flags=_REMOUNT | _BIND | _READ_ONLY | (os.statvfs(path).f_flag & _KEPT_FLAGS))

    return remount


def replaced(path: str, text: str) -> Callable[[], None]:
    """`path` reads as `text`."""

    def cover() -> None:
        with tempfile.NamedTemporaryFile("w", prefix="lacking-") as file:
            file.write(text)
            file.flush()
            _mount(file.name, path, flags=_BIND)

    return cover


def proc_with(option: str) -> Callable[[], None]:
    """A new /proc, mounted with this option."""
    return lambda: _mount("proc", "/proc", "proc", data=option)


def _bare_dev() -> None:
    """A /dev with the usual devices and nothing else."""
    made = tempfile.mkdtemp(prefix="lacking-")
    _mount("lacking", made, "tmpfs", data="size=64k,mode=755")
    for name in _NODES:
        Path(made, name).touch()
        _mount(f"/dev/{name}", f"{made}/{name}", flags=_BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path(made, name).symlink_to(f"/proc/self/{target}")
    Path(made, "ptmx").symlink_to("pts/ptmx")
    Path(made, "pts").mkdir()
    _mount("/dev/pts", f"{made}/pts", flags=_BIND)
    _mount(made, "/dev", flags=_BIND | _RECURSIVE)
    _check(_LIBC.umount2(made.encode(), 2), "umount")  # MNT_DETACH
    os.rmdir(made)


def _see_only_own() -> None:
    """Without this capability, hidepid holds for root as well."""
    _LIBC.prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE, 0, 0, 0)


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        _set_interface(any_socket, _SIOCSIFFLAGS, "lo", struct.pack("h", _IFF_UP))


def _loopback_down() -> None:
    """As it is in a new namespace."""


def _loopback_of_ipv6() -> None:
    """getifaddrs(3) goes by labels: under `lo` it lists `::1` only, under `lo:4` 127.0.0.1."""
    with socket.socket() as any_socket:
        address = struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton("127.0.0.1"))
        _set_interface(any_socket, _SIOCSIFADDR, "lo:4", address)
        _set_interface(any_socket, _SIOCSIFFLAGS, "lo", struct.pack("h", _IFF_UP))


def _set_interface(any_socket: socket.socket, request: int, name: str, value: bytes) -> None:
    fcntl.ioctl(any_socket, request, struct.pack("16s24s", name.encode(), value))


GVISOR_CPUINFO = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: unknown\n\n"
FULL_MEMINFO = "MemTotal: 2097152 kB\nMemFree: 100000 kB\nMemAvailable: 200000 kB\n"
HOSTS = f"127.0.0.1 localhost {platform.node()}\n"
_CGROUP_FILES = ("/proc/self/cgroup", "/proc/*/cgroup", "/proc/self/mountinfo")
_SOL_SOCKET, _SO_SNDBUF, _SO_PEERCRED, _AF_UNIX, _AF_NETLINK = 1, 7, 17, 1, 16

INTERFACES: dict[str, Lack] = {
    # system calls
    "pidfd_open": Lack((Refusal("pidfd_open", errno.ENOSYS),)),
    "peer_credentials": Lack((Refusal("getsockopt", errno.ENOPROTOOPT, ((1, _SOL_SOCKET), (2, _SO_PEERCRED))),)),
    "send_buffer": Lack((Refusal("setsockopt", errno.ENOPROTOOPT, ((1, _SOL_SOCKET), (2, _SO_SNDBUF))),)),
    "fallocate": Lack((Refusal("fallocate", errno.EOPNOTSUPP),)),
    "flock": Lack((Refusal("flock", errno.ENOSYS),)),
    "parent_death_signal": Lack((Refusal("prctl", errno.EINVAL, ((0, 1),)),)),
    "prctl": Lack((Refusal("prctl", errno.ENOSYS),)),
    "syslog": Lack((Refusal("syslog", errno.EPERM),)),
    "process_vm_readv": Lack((Refusal("process_vm_readv", errno.ENOSYS),)),
    "netlink": Lack((Refusal("socket", errno.EAFNOSUPPORT, ((0, _AF_NETLINK),)),)),
    "unix": Lack((Refusal("socket", errno.EAFNOSUPPORT, ((0, _AF_UNIX),)),)),
    # files and directories
    "proc": Lack(mounts=(hidden("/proc"),)),
    "proc_subset": Lack(mounts=(proc_with("subset=pid"),), needs_pids=True),
    "hidepid": Lack(mounts=(proc_with("hidepid=2"), _see_only_own), needs_pids=True),
    "free_memory": Lack(mounts=(replaced("/proc/meminfo", FULL_MEMINFO),)),
    "dev_shm": Lack(mounts=(_bare_dev,)),
    "sys": Lack(mounts=(hidden("/sys"),)),
    "sys_writable": Lack(mounts=(read_only("/sys"),)),
    "sys_class_net": Lack(mounts=(hidden("/sys/class/net"),)),
    "cgroup": Lack(mounts=(hidden("/sys/fs/cgroup"),), paths=_CGROUP_FILES),
    "kmsg": Lack(paths=("/dev/kmsg",)),
    "schedstat": Lack(paths=("/proc/*/schedstat", "/proc/*/task/*/schedstat")),
    "task_status": Lack(paths=("/proc/*/task/*/status",)),
    "environ": Lack(paths=("/proc/*/environ",)),
    "meminfo": Lack(paths=("/proc/meminfo",)),
    # network interfaces
    "others": Lack(network=_loopback_up),
    "loopback": Lack(network=_loopback_down),
    "ipv4_first": Lack(mounts=(replaced("/etc/hosts", HOSTS),), network=_loopback_of_ipv6),
    # what a process inherits
    "child_status": Lack(ignored=(signal.SIGCHLD,)),
    "interrupts": Lack(ignored=(signal.SIGINT, signal.SIGQUIT)),
    "descriptors": Lack(open_files=24),
    "orphans": Lack((Refusal("prctl", errno.EINVAL, ((0, 36),)),), needs_pids=True),
}
"""By name. `others`: other processes' packets on the loopback interface. `ipv4_first`: getifaddrs(3) lists IPv6 first.
`child_status`: SIGCHLD is ignored where the command starts, so that the kernel reaps its children itself. `orphans`: no
subreaper, and a PID 1 that reaps whatever is left to it. `interrupts`: as in a shell's background job."""


def lack(name: str) -> Lack:
    """What a NAME of the command line takes away."""
    if name.startswith("/"):
        return Lack(paths=(name,))
    known, _, error = name.partition("=")
    if known not in INTERFACES:
        raise ValueError(f"unknown interface {known!r}; known: {', '.join(sorted(INTERFACES))}, or an absolute path")
    found = INTERFACES[known]
    number = getattr(errno, error) if error else None
    return replace(found, refusals=tuple(replace(r, error=number or r.error) for r in found.refusals))


# -- for tests -------------------------------------------------------------------------------------------------


def command(names: Iterable[str], words: Sequence[str]) -> list[str]:
    """The command `words`, without the interfaces `names`."""
    return [sys.executable, "-S", str(Path(__file__).resolve()), ",".join(names), "--", *words]


def impossible(names: Iterable[str]) -> str | None:
    """Why this machine can't run a command so, or None."""
    ran = subprocess.run(command(names, ["/bin/true"]), capture_output=True, text=True)
    return ran.stderr.strip().splitlines()[-1] if ran.returncode == IMPOSSIBLE else None


# -- in the process that becomes the command ---------------------------------------------------------------------


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _enter_namespaces(*, pids: bool, network: bool) -> None:
    user, group = os.getuid(), os.getgid()
    own_users = _NEW_USERS if user != 0 else 0
    wanted = _NEW_MOUNTS | own_users | (_NEW_PIDS if pids else 0) | (_NEW_NETWORK if network else 0)
    _check(_LIBC.unshare(wanted), "unshare")
    if own_users:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    _mount("none", "/", flags=_RECURSIVE | _PRIVATE)


def _become_descendant_of_init() -> None:
    """Returns in a grandchild: its parent is PID 1 of the namespace, reaps what is left to it, and ends with it."""
    init = os.fork()
    if init:
        os._exit(_status(os.waitpid(init, 0)[1]))
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    child = os.fork()
    if child:
        while True:
            pid, status = os.wait()
            if pid == child:
                os._exit(_status(status))


def _status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, offset)  # BPF_LD | BPF_W | BPF_ABS


def _refusing(refusal: Refusal, column: int) -> bytes:
    """Goes on behind itself unless number and arguments are those of `refusal`."""
    checks = [(0, _NUMBERS[refusal.call][column]), *((16 + 8 * at, value) for at, value in refusal.arguments)]
    words = b""
    for index, (offset, value) in enumerate(checks):
        left = 2 * (len(checks) - index - 1) + 1
        words += _load(offset) + _instruction(0x15, value, 0, left)  # BPF_JMP | BPF_JEQ | BPF_K
    return words + _instruction(0x06, 0x00050000 | refusal.error)  # SECCOMP_RET_ERRNO


def _install_filter(refusals: Sequence[Refusal]) -> None:
    machine = platform.machine()
    if machine not in _COLUMN:
        raise OSError(f"no system call numbers for {machine}")
    words = _load(4) + _instruction(0x15, _ARCHITECTURE[machine], 1, 0) + _instruction(0x06, 0x7FFF0000)
    words += b"".join(_refusing(refusal, _COLUMN[machine]) for refusal in refusals) + _instruction(0x06, 0x7FFF0000)
    program = ctypes.create_string_buffer(words, len(words))
    header = struct.pack("HxxxxxxP", len(words) // 8, ctypes.addressof(program))
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_LIBC.prctl(_PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")


def _environment(paths: Sequence[str]) -> dict[str, str]:
    if not paths:
        return dict(os.environ)
    python_path = os.pathsep.join([str(_HOOK), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": python_path, "LACKING_PATHS": ":".join(paths)}


def become(names: Sequence[str], words: Sequence[str]) -> None:
    """Turns this process into the command. Raises OSError or ValueError where it can't."""
    lacks = [lack(name) for name in names]
    pids = any(each.needs_pids for each in lacks)
    networks = [each.network for each in lacks if each.network is not None]
    if pids or networks or any(each.mounts for each in lacks):
        _enter_namespaces(pids=pids, network=bool(networks))
    for network in networks:
        network()
    if pids:
        _become_descendant_of_init()
    for mount in [mount for each in lacks for mount in each.mounts]:
        mount()
    with contextlib.suppress(FileNotFoundError):
        os.chdir(os.getcwd())  # below what has just been mounted over
    for ignored in [ignored for each in lacks for ignored in each.ignored]:
        signal.signal(ignored, signal.SIG_IGN)
    for open_files in [each.open_files for each in lacks if each.open_files]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    if refusals := [refusal for each in lacks for refusal in each.refusals]:
        _install_filter(refusals)
    os.execvpe(words[0], list(words), _environment([path for each in lacks for path in each.paths]))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 3 or arguments[1] != "--":
        print("usage: lacking.py NAME[,NAME...] -- COMMAND...", file=sys.stderr)
        return 2
    try:
        become(arguments[0].split(","), arguments[2:])
    except (OSError, ValueError) as e:
        print(f"not possible here: {e}", file=sys.stderr)
    return IMPOSSIBLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

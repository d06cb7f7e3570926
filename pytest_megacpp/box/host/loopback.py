"""Owns what is known of the loopback interface: its name and the order of its addresses; must not know who connects.

gloo takes the first address that the kernel lists for `GLOO_SOCKET_IFNAME`. Linux lists IPv4 first, always. gVisor
before 2025-04 lists the addresses of an interface in changing order (`::1` first in 11 to 77 % of the calls, by build),
so that ranks would listen on addresses of different families and never connect.
"""

import contextlib
import ctypes
import socket
from collections.abc import Iterator
from functools import cache

LOOKS = 100  # at 11 % a look, all of them miss the wrong order in one of 100,000 boxes; they take some 3 ms on Linux


CONNECT_S = 2.0


class _Interface(ctypes.Structure):
    """The first fields of `struct ifaddrs`."""


_Interface._fields_ = [
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(ctypes.c_ushort)),
]


def name() -> str | None:
    """Returns the name of the loopback interface, or None where interfaces can't be listed."""
    with contextlib.suppress(OSError):
        names = {name for _, name in socket.if_nameindex()}
        return next((name for name in ("lo", "lo0") if name in names), None)
    return None


def why_unreachable() -> str:
    """Returns why no process here can connect to another one over 127.0.0.1, or nothing where it can."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as door, socket.socket() as visitor:
            visitor.settimeout(CONNECT_S)
            visitor.connect(door.getsockname())
    except OSError as e:
        return str(e)
    return ""


def for_gloo() -> str | None:
    """Returns the interface on which all ranks of a gloo group find each other, or None."""
    interface = name()
    return interface if interface is not None and lists_ipv4_first(interface) else None


@cache
def lists_ipv4_first(interface: str) -> bool:
    """Returns whether the kernel lists an IPv4 address of this interface first, as often as it is asked."""
    with contextlib.suppress(OSError, AttributeError):
        for _ in range(LOOKS):
            listed = families(interface)
            if socket.AF_INET6 not in listed:
                return True
            if listed[0] != socket.AF_INET:
                return False
    return True


def families(interface: str) -> list[int]:
    """Returns the address families (AF_INET, AF_INET6) of an interface's addresses, as getifaddrs(3) lists them. Raises
    OSError.
    """
    libc, first = ctypes.CDLL(None, use_errno=True), ctypes.POINTER(_Interface)()
    if libc.getifaddrs(ctypes.byref(first)):
        raise OSError(ctypes.get_errno(), "getifaddrs failed")
    try:
        found = [entry.address[0] for entry in _entries(first) if entry.name == interface.encode() and entry.address]
    finally:
        libc.freeifaddrs(first)
    return [family for family in found if family in (socket.AF_INET, socket.AF_INET6)]


def packets() -> int | None:
    """Returns how many packets came over the loopback interface so far, or None where the kernel doesn't tell. gloo's
    messages are among them, what box and ranks say to each other over unix sockets isn't.
    """
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/net/dev", "rb") as file:
        rows = [line.partition(b":") for line in file if b":" in line]
        return sum(int(counts.split()[1]) for name, _, counts in rows if name.strip() in (b"lo", b"lo0"))
    return None


def _entries(entry: "ctypes._Pointer[_Interface]") -> Iterator[_Interface]:
    while entry:
        yield entry.contents
        entry = entry.contents.next

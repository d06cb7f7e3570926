"""Which interface gloo listens on, and what is known of its traffic."""

import socket

import pytest

from pytest_megacpp.box.host import loopback

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6


def listed(monkeypatch: pytest.MonkeyPatch, *answers: list[int]) -> None:
    """The kernel gives these answers, one after the other, and the last one from then on."""
    left = list(answers)
    monkeypatch.setattr(loopback, "families", lambda interface: left.pop(0) if len(left) > 1 else left[0])
    loopback.lists_ipv4_first.cache_clear()


@pytest.fixture(autouse=True)
def forgotten() -> None:
    loopback.lists_ipv4_first.cache_clear()


def test_this_machine_s_addresses_are_read() -> None:
    name = loopback.name()
    assert name is not None
    families = loopback.families(name)
    assert IPV4 in families
    assert set(families) <= {IPV4, IPV6}
    assert loopback.families("no-such-interface") == []


@pytest.mark.parametrize(
    ("answers", "usable"),
    [
        ([[IPV4]], True),
        ([[IPV4, IPV6]], True),
        ([[IPV6, IPV4]], False),
        ([[IPV4, IPV6]] * 40 + [[IPV6, IPV4]], False),
        ([[IPV6]], False),
        ([[]], True),
    ],
)
def test_gloo_takes_the_first_address(answers: list[list[int]], usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, *answers)
    assert (loopback.for_gloo() is not None) is usable


def test_where_no_interface_can_be_listed_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[tuple[int, str]]:
        raise OSError("no netlink")

    monkeypatch.setattr(socket, "if_nameindex", refuse)
    assert loopback.name() is None
    assert loopback.for_gloo() is None


def test_a_message_is_counted_and_a_unix_socket_s_isn_t() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        before = loopback.packets()
        assert before is not None
        client.sendall(b"x")
        answered, _ = server.accept()
        with answered:
            assert answered.recv(1) == b"x"
        now = loopback.packets()
        assert now is not None
        assert now > before

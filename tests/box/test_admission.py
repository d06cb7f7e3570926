"""Only who greets with a rank's secret speaks for it, once a channel; whoever else connects costs nothing."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_megacpp.box.event_loop import Pump
from pytest_megacpp.box.worlds.admission import SILENT_CONNECTIONS, Admission
from pytest_megacpp.recording.greeting import GREETING_BYTES, Channel, greeting, new_token, opened_by

TOKENS = {"w1.0": "0123456789abcdef" * 2, "w1.1": "fedcba9876543210" * 2}


class Reception:
    """An admission with two expected ranks, and whom it admitted."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.pump = Pump[None](lambda _: None, lambda: 0.0)
        self.admitted: list[tuple[str, Channel, socket.socket]] = []
        self.admission = Admission(self.path, self.pump.register, self.pump.forget)
        for name, token in TOKENS.items():
            self.admission.expect(name, token, lambda c, s, name=name: self.admitted.append((name, c, s)))  # type: ignore[misc]

    def connect(self, *data: bytes) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        for piece in data:
            with contextlib.suppress(BrokenPipeError):
                client.sendall(piece)
                self.settle()
        self.settle()
        return client

    def settle(self) -> None:
        for _ in range(4):
            self.pump.once(0.0)

    @property
    def names(self) -> list[tuple[str, Channel]]:
        return [(name, channel) for name, channel, _ in self.admitted]


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    made = Reception(tmp_path / "box")
    yield made
    made.admission.close()
    made.pump.close()


def is_turned_away(client: socket.socket) -> bool:
    client.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


def test_a_rank_opens_each_channel_and_says_the_rest_itself(reception: Reception) -> None:
    reception.connect(greeting(TOKENS["w1.1"], Channel.FACTS) + b'{"kind":"x"}\n')
    reception.connect(greeting(TOKENS["w1.1"], Channel.CRASH))
    assert reception.names == [("w1.1", Channel.FACTS), ("w1.1", Channel.CRASH)]
    assert reception.admitted[0][2].recv(100) == b'{"kind":"x"}\n'


def test_a_secret_opens_a_channel_once(reception: Reception) -> None:
    """Whoever reads it later out of the rank's memory comes too late."""
    reception.connect(greeting(TOKENS["w1.0"], Channel.FACTS))
    assert is_turned_away(reception.connect(greeting(TOKENS["w1.0"], Channel.FACTS)))
    assert reception.names == [("w1.0", Channel.FACTS)]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100),
        greeting("5" * 32, Channel.FACTS),
        greeting(TOKENS["w1.0"], Channel.FACTS)[:-1] + b" ",
        greeting(TOKENS["w1.0"].upper(), Channel.FACTS),
        bytes(range(128, 128 + GREETING_BYTES)),
    ],
    ids=["nothing", "an-empty-line", "http", "another-secret", "no-end-of-line", "upper-case", "not-ascii"],
)
def test_a_stranger_is_turned_away(reception: Reception, said: bytes) -> None:
    client = reception.connect(said)
    if not said:
        client.shutdown(socket.SHUT_WR)
        reception.settle()
    assert is_turned_away(client)
    assert reception.names == []


def test_a_greeting_in_pieces_is_none(reception: Reception) -> None:
    whole = greeting(TOKENS["w1.0"], Channel.FACTS)
    assert is_turned_away(reception.connect(whole[:10], whole[10:]))


def test_a_connection_with_nothing_to_read_yet_may_greet_later(reception: Reception) -> None:
    """select(2) may say that something is ready that isn't."""
    client = reception.connect()
    for handle in [key.data for key in reception.pump._selector.get_map().values()]:
        handle()
    client.sendall(greeting(TOKENS["w1.0"], Channel.FACTS))
    reception.settle()
    assert reception.names == [("w1.0", Channel.FACTS)]


def test_silent_strangers_do_not_pile_up_nor_keep_a_rank_out(reception: Reception) -> None:
    strangers = [reception.connect() for _ in range(3 * SILENT_CONNECTIONS)]
    reception.connect(greeting(TOKENS["w1.0"], Channel.FACTS))
    assert reception.names == [("w1.0", Channel.FACTS)]
    assert sum(map(is_gone, strangers)) >= SILENT_CONNECTIONS
    for stranger in strangers:
        stranger.close()


def is_gone(client: socket.socket) -> bool:
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return client.recv(1) == b""
    return False


def test_what_is_at_the_door_is_let_in_before_a_process_counts_as_ended(reception: Reception) -> None:
    """One that connects, says its last words and ends before the box looked."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(reception.path)
    client.sendall(greeting(TOKENS["w1.0"], Channel.FACTS) + b"last words")
    client.close()
    reception.admission.catch_up()
    assert reception.names == [("w1.0", Channel.FACTS)]
    assert reception.admitted[0][2].recv(100) == b"last words"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("is_known", [False, True], ids=["at the door", "silent so far"])
def test_a_rank_that_greets_in_the_moment_that_another_ends(reception: Reception, is_known: bool) -> None:
    """Both are in one look of the box, the end first: its handler lets the other in, and nothing is done twice."""
    client, (ended, end) = socket.socket(socket.AF_UNIX), socket.socketpair()
    said: list[bytes] = []

    def admit(_: Channel, line: socket.socket) -> None:
        reception.pump.register(line, lambda: said.append(line.recv(200)))

    def catch_up() -> None:
        ended.recv(1)
        reception.admission.catch_up()

    reception.admission.expect("w1.1", TOKENS["w1.1"], admit)
    reception.pump.register(ended, catch_up)
    if is_known:
        client.connect(reception.path)
        reception.settle()
    end.send(b".")
    if not is_known:
        client.connect(reception.path)
    client.sendall(greeting(TOKENS["w1.1"], Channel.FACTS) + b"x" * 100)
    reception.settle()
    assert said == [b"x" * 100]
    for one in (client, ended, end):
        reception.pump.forget(one)
        one.close()


def test_a_rank_of_an_ended_world_is_turned_away(reception: Reception) -> None:
    reception.admission.dismiss("w1.0")
    assert is_turned_away(reception.connect(greeting(TOKENS["w1.0"], Channel.FACTS)))


def test_secrets_differ_and_are_not_guessed_by_a_part() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    token = new_token()
    assert opened_by(greeting(token, Channel.CRASH), token) is Channel.CRASH
    assert opened_by(greeting(token, Channel.CRASH)[:-1], token) is None
    assert opened_by(b"", "") is None

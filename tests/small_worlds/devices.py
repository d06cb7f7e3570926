"""Owns small worlds whose ranks have a device each, as with NCCL. Must not know verdicts."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pytest_megacpp.recording import events as ev
from pytest_megacpp.recording.vocabulary import FlightOrigin, SettingOrigin
from tests.small_worlds.conditions import ORDINARY, Conditions
from tests.small_worlds.programs import Meet, Planted, Program
from tests.small_worlds.ranks import OwnTimeOut, Rank, TimedOut
from tests.small_worlds.worlds import STEP_S, World

Number: TypeAlias = tuple[str, int]
WATCHDOG = (
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE, Timeout(ms)={ms}) ran for {ms} "
    "milliseconds before timing out."
)
MESSAGES = "p2p"  # in what a rank has entered
PG_OF_MESSAGES = 99  # of no group, since messages don't count as collectives of one


@dataclass
class Device:
    """What a rank's host has queued and its device has not come through, by streams: kernels, by the steps of time that
    are left of them, and collectives; asynchronous messages in a stream for each peer.
    """

    streams: dict[str, list[float | Number]] = field(default_factory=dict)
    begun: set[Number] = field(default_factory=set)


class DeviceWorld(World):
    """Ranks with a device each: hosts queue collectives and go on, devices come to them one after the other. A host
    waits, and burns CPU, in barriers and at the end of each part. Nobody notices that a peer is gone; a host gives up
    when its device has been in one collective for too long, and its device then forgets all that was queued.
    """

    buffers = False  # what a device sends is gone when it has begun to send it

    def __init__(self, program: Program, planted: tuple[Planted, ...], conditions: Conditions = ORDINARY) -> None:
        super().__init__(program, planted, conditions)
        self.devices = [Device() for _ in self.ranks]
        self.done: set[Number] = set()
        self.begun_s: dict[tuple[int, Number], float] = {}
        self.unread: set[int] = set()  # ranks whose devices have gone on since their recorders were read
        self.recorded: dict[tuple[int, Number], tuple[str, int]] = {}  # messages, by the number they are recorded under

    def _prepare(self) -> None:
        self.box.box(ev.EnvironmentSet("TORCH_NCCL_ENABLE_TIMING", "1", SettingOrigin.PLUGIN, "who began"))

    def _ends_part(self, rank: Rank) -> Iterator[None]:
        yield from self._synchronizes(rank)

    def _collective(self, rank: Rank, meet: Meet, patience_s: float) -> Iterator[None]:
        self.patience_s[rank.number] = min(self.patience_s[rank.number], patience_s)
        seq = rank.seqs[meet.group] = rank.seqs.get(meet.group, 0) + 1
        self.came.setdefault((meet.group, seq), {})[rank.number] = meet.op
        self.box.enters(rank.number, f"nccl:{meet.op}", seq, group=meet.group)
        self._queues(rank, 1, (meet.group, seq))
        yield
        if meet.op == "barrier":
            rank.waits_in = meet
            try:
                yield from self._synchronizes(rank)
            finally:
                rank.waits_in = None

    def _message(self, rank: Rank, meet: Meet, patience_s: float) -> Iterator[None]:
        """Sent and received by the devices, one after the other between each two ranks."""
        source, target = meet.members
        number = f"{source}->{target}", rank.seqs.get(f"{source}->{target}", 0) + 1
        sent = rank.seqs[MESSAGES] = rank.seqs.get(MESSAGES, 0) + 1
        rank.seqs[number[0]] = number[1]
        self.came.setdefault(number, {})[rank.number] = meet.op
        op = f"nccl:send {source}->{target}" if rank.number == source else f"nccl:recv {target}<-{source}"
        entered_s = round(self.box.now_s, 6)
        entry = ev.Collective("0", sent, op, 8, 8, "Float", "[[8]]", entered_s, False, True, PG_OF_MESSAGES)
        self.recorded[rank.number, number] = MESSAGES, sent
        self.box._entered[rank.number][MESSAGES, sent] = entry
        self.box._flight(rank.number, FlightOrigin.POLL)
        self._queues(rank, 1, number, stream="-".join(map(str, sorted(meet.members))) if meet.is_async else "")
        yield

    def _queues(self, rank: Rank, *work: float | Number, stream: str = "") -> None:
        self.devices[rank.number].streams.setdefault(stream, []).extend(work)

    def _synchronizes(self, rank: Rank) -> Iterator[None]:
        rank.busy = True
        while any(self.devices[rank.number].streams.values()):
            self._loses_patience(rank)
            rank.cpu_s += STEP_S
            yield
        rank.busy = False

    def _loses_patience(self, rank: Rank) -> None:
        patience_s, streams = self.patience_s[rank.number], self.devices[rank.number].streams
        heads = [s[0] for s in streams.values() if s and isinstance(s[0], tuple)]
        began_s = min((self.begun_s.get((rank.number, head), self.box.now_s) for head in heads), default=self.box.now_s)
        if self.box.now_s - began_s > patience_s:
            self.given_up |= {*heads}
            streams.clear()
            rank.busy = False
            raise OwnTimeOut() if self.conditions.own_words else TimedOut(WATCHDOG.format(ms=round(patience_s * 1000)))

    def _queues_kernel(self, rank: Rank, steps: float) -> None:
        self._queues(rank, steps)

    def _moves(self) -> None:
        """Devices go on by one step of time."""
        for rank, device in zip(self.ranks, self.devices, strict=True):
            for stream in (s for s in device.streams.values() if s and not rank.is_gone):
                self._moves_in(rank, device, stream)
        for number, came in self.came.items():
            members = self._members(number)
            begun = all(number in self.devices[m].begun and not self.ranks[m].is_gone for m in members)
            if number not in self.done | self.given_up and begun and len({*came.values()}) == 1:
                self._completes(number, members)

    def _moves_in(self, rank: Rank, device: Device, stream: list[float | Number]) -> None:
        first = stream[0]
        if not isinstance(first, tuple):
            stream[:1] = [first - 1] if first > 0 else []
            return
        device.begun.add(first)
        self.begun_s.setdefault((rank.number, first), self.box.now_s)
        self._marks(rank, first)
        if self.buffers and first[0].startswith(f"{rank.number}->"):
            self._ends(rank.number, first)

    def _members(self, number: Number) -> tuple[int, ...]:
        source, is_message, target = number[0].partition("->")
        return (int(source), int(target)) if is_message else self.program.members(number[0])

    def _completes(self, number: Number, members: tuple[int, ...]) -> None:
        self.done.add(number)
        for member in members:
            self._ends(member, number)

    def _ends(self, rank: int, number: Number) -> None:
        for stream in (s for s in self.devices[rank].streams.values() if s[:1] == [number]):
            stream.pop(0)
            self._marks(self.ranks[rank], number, done=True)

    def _marks(self, rank: Rank, number: Number, *, done: bool = False) -> None:
        """What its device has begun or come through, in the recorder."""
        key = self.recorded.get((rank.number, number), number)
        entry = self.box._entered[rank.number][key]
        if not entry.started or entry.done != done:
            self.box._entered[rank.number][key] = replace(entry, started=True, done=done)
            self.unread.add(rank.number)
            self._poll(rank)

    def _poll(self, rank: Rank) -> None:
        if rank.number in self.unread and not rank.is_silent:
            self.unread.remove(rank.number)
            self.box._flight(rank.number, FlightOrigin.POLL)


class BufferedWorld(DeviceWorld):
    """Small messages: who sent one does not wait for who receives it."""

    buffers = True

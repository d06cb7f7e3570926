"""Owns the commands that a run gets: reads them from the desk's control descriptor, and from what other processes asked
for, and carries them out; must not judge.
"""

import contextlib
import os
from typing import assert_never

from pytest_megacpp.box.asked import Asked
from pytest_megacpp.box.context import RunContext
from pytest_megacpp.recording.codec import CodecError
from pytest_megacpp.recording.commands import Word, read_word
from pytest_megacpp.recording.plan import Again, Enough, Look, Stop
from pytest_megacpp.recording.vocabulary import RunEnd

MAX_WORD_BYTES = 1 << 16  # what is longer is none of the desk's commands


class DeskCommands:
    """Reads the commands that arrive on `control`, one per line. The end of the stream means that the desk is gone, and
    stops the run.
    """

    def __init__(self, context: RunContext, control: int) -> None:
        self._context = context
        self._control = control
        self._tail = b""
        self._asked = Asked(context.directory)
        context.on_step = self._read_asked
        os.set_blocking(control, False)
        context.pump.register(control, self._read_commands)

    def _read_commands(self) -> None:
        try:
            data = os.read(self._control, 65536)
        except BlockingIOError:
            return
        if not data:
            self._context.pump.forget(self._control)
            self._context.stop(RunEnd.INTERRUPTED, "the desk is gone")
            return
        *lines, tail = (self._tail + data).split(b"\n")
        self._tail = tail[:MAX_WORD_BYTES]
        for line in lines:
            with contextlib.suppress(CodecError):
                self._handle_command(read_word(line))

    def _read_asked(self) -> None:
        for word in self._asked.words():
            self._handle_command(word)

    def _handle_command(self, command: Word | None) -> None:
        supervisor, recorder = self._context.supervisor, self._context.recorder
        now_s = recorder.now_s()
        match command:
            case Stop():
                who = "megacpp stop" if command.by_command else "the desk"
                self._context.stop(command.reason, command.why or f"{who} asked for it")
            case Again():
                for action in supervisor.request_attempt(command, now_s):
                    recorder.write(action.fact, action.world)
            case Enough():
                supervisor.settle(command.item, now_s)
            case Look():
                self._context.ask_for_stacks(command.asker)
            case None:
                pass
            case _:
                assert_never(command)

"""Owns what is left of a run whose sandbox does not answer: its output and stored records; must not follow a box."""

from typing import Any

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.surfaces.inbox import RECORDING, Inbox
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal.config import ModalConfig, VolumeConfig
from pytest_megacpp.surfaces.stream import MAX_LINE_BYTES, MAX_LOGS_BYTES, MAX_RECORDING_BYTES, is_log


class Remains:
    """Puts what is left of a run into its inbox."""

    def __init__(self, run_id: str, config: ModalConfig, inbox: Inbox) -> None:
        self._run_id = run_id
        self._config = config
        self._inbox = inbox

    def of_the_ended(self, sandbox: Any, code: int) -> ProblemFound:
        """Takes what the output of an ended sandbox and the stored records have beyond what has arrived. Returns why
        it ended.
        """
        self._inbox.report("lost", f"the sandbox ended with {code}; reading its output")
        self._inbox.take_unseen(client.output(sandbox, "stdout", MAX_RECORDING_BYTES))
        try:
            self.replay_records()
        except failures.SurfaceError as e:  # why the sandbox ended matters more
            self._inbox.report("lost", f"its records can't be read: {e.problem.detail}")
        recorded = self._inbox.has_box_events()
        ending = client.how_it_ended(sandbox)
        stderr = client.output(sandbox, "stderr", MAX_LINE_BYTES).decode(errors="replace")
        return failures.gone(ending, code, stderr, recorded=recorded)

    def look_back(self, sandbox: Any) -> Any:
        """Takes the output of the sandbox of a run without records, if Modal still has it. Returns a sandbox that is
        still running, to be followed: it may have been found late. Otherwise raises SurfaceError: why it ended, or
        that nothing is left.
        """
        if sandbox is None and not self._has_records():
            raise failures.SurfaceError(failures.no_such_run(self._run_id))
        if sandbox is None:
            raise failures.SurfaceError(failures.nothing_left(None))
        code = client.exit_code(sandbox)
        if code is None:
            return sandbox
        problem = self.of_the_ended(sandbox, code)
        has_events = self._inbox.has_box_events()
        raise failures.SurfaceError(problem if has_events else failures.nothing_left(code, problem))

    def replay_records(self) -> None:
        """Takes what the records volume has of this run beyond what has arrived. Raises SurfaceError."""
        kept = self._config.runs_volume
        if kept is None:
            return
        left_bytes = MAX_LOGS_BYTES

        def limit_of(path: str) -> int:
            return MAX_RECORDING_BYTES if path == RECORDING else left_bytes if is_log(path) else 0

        for path, data in client.stored(kept.name, self._records_in(kept), limit_of, self._config.environment):
            if path == RECORDING:
                self._inbox.take_unseen(data)
            else:
                left_bytes -= len(data)
                self._inbox.write_log(path, data)

    def _has_records(self) -> bool:
        """Returns whether the records volume has a directory of this run: a sandbox that mounts it creates one."""
        kept = self._config.runs_volume
        return kept is not None and client.exists(kept.name, self._records_in(kept), self._config.environment)

    def _records_in(self, kept: VolumeConfig) -> str:
        return f"{kept.directory}/{self._run_id}".strip("/")

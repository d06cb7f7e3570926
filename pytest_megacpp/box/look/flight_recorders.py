"""Owns which flight recorders a rank's worker server has, and reading them; must not know when to look, nor why.

What the server offers shows which ones there are; torch's version doesn't:

* `fr_trace_json` is gloo's recorder, in every build.
* `dump_nccl_trace_json` is the legacy NCCL backend's, in builds with CUDA.
* `fr_dump_file` came with the argument `backend` of `fr_trace_json`, under which the backends that a hook records for
  have a recorder each. A server without the argument ignores it and answers with gloo's recorder, which
  `read_hooked_recorder` refuses.
"""

from collections.abc import Collection
from dataclasses import dataclass

from pytest_megacpp.box.look.probe import ask
from pytest_megacpp.recording.flight import (
    HOOKED,
    NOTHING,
    OtherRecorder,
    Read,
    read_flight_recorder,
    read_hooked_recorder,
    together,
)

GLOO_HANDLER, LEGACY_HANDLER, HOOKS_HANDLER = "fr_trace_json", "dump_nccl_trace_json", "fr_dump_file"


@dataclass(slots=True)
class Recorders:
    """The recorders of the rank whose server listens at `worker`; `nccl`: the rank has a device. Until it is known what
    the server offers, it is asked as one of torch 2.11 to 2.14.
    """

    worker: str
    nccl: bool
    epoch_s: float
    _legacy: bool = True
    _hooks: bool = False

    def learn(self, handlers: Collection[str]) -> str:
        """Takes note of what the server offers. Returns why no operation of NCCL will be seen; empty where one can be
        seen.
        """
        self._legacy, self._hooks = LEGACY_HANDLER in handlers, HOOKS_HANDLER in handlers
        blind = self.nccl and not (self._legacy or self._hooks)
        return "torch's worker server has no recorder of NCCL's collectives" if blind else ""

    def read(self) -> Read:
        """Returns the newest entries and the status of each group. Raises OSError or ValueError."""
        gloo = read_flight_recorder(ask(self.worker, GLOO_HANDLER), self.epoch_s)
        return together(self._of_legacy(), gloo, self._of_hooks()) if self.nccl else gloo

    def _of_legacy(self) -> Read:
        if not self._legacy:
            return NOTHING
        dump = ask(self.worker, LEGACY_HANDLER, includecollectives="true", onlyactive="false")
        return read_flight_recorder(dump, self.epoch_s)

    def _of_hooks(self) -> Read:
        """Returns what hooks recorded. All their backends count groups by one counter, so their numbers don't meet."""
        reads = [self._of_hook(backend) for backend in HOOKED] if self._hooks else []
        return tuple(e for entries, _ in reads for e in entries), tuple(s for _, status in reads for s in status)

    def _of_hook(self, backend: str) -> Read:
        dump = ask(self.worker, GLOO_HANDLER, backend=backend)
        try:
            return read_hooked_recorder(dump, self.epoch_s, backend)
        except OtherRecorder:
            self._hooks = False
            return NOTHING

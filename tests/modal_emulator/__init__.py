"""Modal's control plane on loopback, for the unmodified client: real gRPC, local processes, faults on demand.

What the server does beyond its protocol (scheduling, eviction, messages, retention) is a guess: a test that passes
here shows that we use the client right and react right to each answer, not that Modal gives it.
"""

from tests.modal_emulator.emulator import Emulator
from tests.modal_emulator.faults import Faults

__all__ = ["Emulator", "Faults"]

"""Owns what a lane test gets as its fixture: the lane handle; must not know the box, limits or verdicts."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_megacpp.rank.agent import Agent
from pytest_megacpp.rank.group_timeouts import Patience
from pytest_megacpp.rank.torch_state import on_cuda
from pytest_megacpp.recording.events import (
    KEPT_RECORDS,
    FirstForward,
    PhaseEnded,
    PhaseStarted,
    Recorded,
    WarmupSkipped,
)
from pytest_megacpp.recording.plan import Go, Plan
from pytest_megacpp.recording.vocabulary import WARM_UP_PHASE, ForwardOrigin, Preset

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
MAX_RECORD_CHARS = 32_000
MAX_REASON_CHARS = 80
SIGNATURE_BYTES = 160


class Lane:
    """One rank's view of the launch.

    `rank`, `ranks` (world size), `local_rank`, `device`, `backend` ("nccl" or "gloo"), `surface`, `preset`
    ("full" or "diagnostic") and `lane` (its name). The default process group is initialised.
    """

    def __init__(self, agent: Agent, patience: Patience, go: Go, plan: Plan) -> None:
        import torch

        self._agent = agent
        self._patience = patience
        self._data = {one.name: one for one in plan.data}
        self._test = go.test
        self.lane = plan.lane
        self.surface = plan.surface
        self.preset: str = go.preset.value
        self._recorded: set[str] = set()
        self.rank = int(os.environ["RANK"])
        self.ranks = int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        cuda = on_cuda()
        self.backend = "nccl" if cuda else "gloo"
        self.device: torch.device = torch.device("cuda", self.local_rank) if cuda else torch.device("cpu")

    def __repr__(self) -> str:
        return f"<Lane {self.lane} rank {self.rank} of {self.ranks} on {self.device}>"

    def ensure_group(self) -> bool:
        """Initialises the default process group unless it is; returns whether this call did."""
        import torch
        import torch.distributed as dist

        if dist.is_initialized():
            return False
        if self.backend == "nccl":
            torch.cuda.set_device(self.device)
            dist.init_process_group("nccl", device_id=self.device)
        else:
            dist.init_process_group("gloo")
        return True

    def mesh(self, shape: Sequence[int], names: Sequence[str]) -> DeviceMesh:
        """Returns a device mesh over all ranks; the product of `shape` is the world size."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.device.type, tuple(shape), mesh_dim_names=tuple(names))

    def warmup(self, step: Callable[[], T], *, skip: str | None = None) -> T:
        """Runs `step` on all ranks together, from a barrier to a barrier, and records it as the first forward.

        Meanwhile the warm-up limits hold: peers wait for a rank as long as it may compile, and the time is none of
        the `test` limit's. With `skip`, a reason such as `user_disabled`, `fsdp_cuda_eager_mode`, `non_cuda_lane` or
        `cuda_regional_compile_plus_moe`, the step is an ordinary one, and the receipt says why.

        Raises:
            ValueError: `skip` isn't an identifier.
        """
        if skip is not None:
            self._agent.send(WarmupSkipped(self.rank, self._test, _reason(skip)))
            return step()
        return self._warmed(step)

    def _warmed(self, step: Callable[[], T]) -> T:
        import torch.distributed as dist

        with self.phase(WARM_UP_PHASE), self._patience.warming():
            dist.barrier()
            with self._timed(WARM_UP_PHASE, ForwardOrigin.WARM_UP):
                result = step()
            dist.barrier()
        return result

    @contextlib.contextmanager
    def first_forward(self, name: str = "forward") -> Iterator[None]:
        """Records the seconds of the block as this rank's first forward `name`."""
        with self._timed(name, ForwardOrigin.TEST):
            yield

    @contextlib.contextmanager
    def _timed(self, name: str, origin: ForwardOrigin) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._synchronize()
        seconds = round(time.monotonic() - start, 6)
        self._agent.send(FirstForward(self.rank, self._test, name, seconds, origin))

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Names what this rank is doing; reports and the picture of the ranks show it."""
        self._agent.send(PhaseStarted(self.rank, self._test, name))
        try:
            yield
        finally:
            self._agent.send(PhaseEnded(self.rank, self._test, name))

    def pick(self, *, full: T, diagnostic: T) -> T:
        """Returns the value for the preset of this run."""
        return full if self.preset == Preset.FULL else diagnostic

    def data(self, name: str) -> Path:
        """The directory of a configured data set: the copy, never the bucket.

        Raises:
            LookupError: there is none of that name, or not on this box; the text says what to do.
        """
        if name not in self._data:
            near = difflib.get_close_matches(name, self._data, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            known = f"Configured: {', '.join(sorted(self._data)) or 'none'}"
            remedy = f"write [tool.pytest_megacpp.data.{name}] for another: docs/data.md"
            raise LookupError(f"no data set {name!r}{meant} {known}; {remedy}")
        found = self._data[name]
        path = os.environ.get(found.variable)
        if not path:
            raise LookupError(f"data set {name!r} isn't here: {found.absent or f'{found.variable} is empty'}")
        return Path(path)

    def record(self, key: str, value: Any) -> None:
        """Puts JSON evidence into the receipt; the newest value of a key counts.

        Raises:
            TypeError: `value` isn't JSON.
            ValueError: it is huge, or the key is one too many.
        """
        if not isinstance(key, str):
            raise TypeError(f"record keys are strings, got {type(key).__name__}")
        text = json.dumps(value, allow_nan=True)
        if len(text) > MAX_RECORD_CHARS:
            raise ValueError(f"record {key!r} has {len(text)} characters, the limit is {MAX_RECORD_CHARS}")
        self._recorded.add(key)
        if len(self._recorded) > KEPT_RECORDS:
            raise ValueError(f"record {key!r}: a receipt holds {KEPT_RECORDS} records, put more into one value")
        finite = json.loads(text, parse_constant=str)
        self._agent.send(Recorded(self.rank, self._test, key, finite))

    def assert_same(self, tensor: torch.Tensor) -> None:
        """Fails on every rank, naming the odd ones, unless the tensor is bit-equal across ranks.

        Compares shape, dtype and a digest, so it costs one small all-gather whatever the size.

        Raises:
            TypeError: the tensor keeps its data elsewhere, as a DTensor does.
        """
        signatures = self._gathered(_signature(tensor))
        majority = max(signatures, key=signatures.count)
        odd = [rank for rank, signature in enumerate(signatures) if signature != majority]
        if odd:
            lines = "\n".join(f"  rank {rank}: {signature}" for rank, signature in enumerate(signatures))
            where = f"on ranks {odd}" if 2 * len(odd) < len(signatures) else "between ranks"
            raise AssertionError(f"tensor differs {where}:\n{lines}")

    def _gathered(self, text: str) -> list[str]:
        """Returns the text of every rank. It is gathered by tensors: torch's object collectives need numpy, which torch
        doesn't require.
        """
        import torch
        import torch.distributed as dist

        device = "cpu" if "cpu:" in dist.get_backend_config() else self.device
        mine = torch.tensor(list(text.encode().ljust(SIGNATURE_BYTES)), dtype=torch.uint8, device=device)
        everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(everyone, mine)
        return [bytes(one.tolist()).decode().rstrip() for one in everyone]


def _signature(tensor: torch.Tensor) -> str:
    """Returns a digest of shape, dtype and bytes, then shape and dtype in words, as far as they fit into
    SIGNATURE_BYTES.
    """
    flat = _flat_bytes(tensor)
    described = f"{tensor.dtype} shape {tuple(tensor.shape)}"
    digest = hashlib.sha256(described.encode())
    digest.update((ctypes.c_ubyte * flat.numel()).from_address(flat.data_ptr()))
    return f"digest {digest.hexdigest()[:16]} {described}"[:SIGNATURE_BYTES]


def _flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor's elements as bytes in this process's memory, where their address is `data_ptr()`. They are
    read from there, since `numpy()` needs numpy and `bytes(storage)` takes seconds per MiB.
    """
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    if flat.numel() and not flat.data_ptr():
        kind = type(tensor).__name__
        raise TypeError(f"assert_same compares plain tensors; give it the to_local() or full_tensor() of a {kind}")
    return flat


def _reason(skip: str) -> str:
    if not skip.isidentifier() or len(skip) > MAX_REASON_CHARS:
        raise ValueError(f"skip={skip!r} is not an identifier: give the reason as one, such as skip='user_disabled'")
    return skip

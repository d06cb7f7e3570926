"""Owns a rank's digests over all collectives of a test: takes entries in before its recorders lose them; must not know
what tests are, or whether ranks agree.

A recorder keeps its newest 64 entries. So the ring is read whenever so many collectives may have been issued: calls
that Python makes are counted one by one (`native_calls`), those that C++ makes (DDP's reducer) are in the recorder's
own counters, which are looked at around every backward pass and cost a hundredth of the entries. Entries are numbered,
so what is lost is known, and reported. Decision 0079 has the measurements.

What a peer never came to can't complete, and a test may handle that: where a collective has failed, or is still open,
digests have the time before it, too (decision 0083). Gloo's recorder calls one that failed complete, so of its groups
the newest collective counts as complete only where its success was heard (`hearing`). A recorder that is switched off
has nothing, not even counters: then nothing is known of any call.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pytest_megacpp.rank.flight_recorders import Dump
from pytest_megacpp.rank.hearing import Hearing
from pytest_megacpp.rank.known_calls import MESSAGES, KnownCalls, Place, Recorded
from pytest_megacpp.recording.flight import GLOO, GLOO_PG, HOOKED, HOOKED_PG, Fresh, fresh, numel_and_dtype
from pytest_megacpp.recording.issued import Digests, Issue, hashed
from pytest_megacpp.recording.operations import signature

SPARE_ENTRIES = 8  # for what other threads issue, and for calls that are several entries
DEFAULT_RING = 64
PATIENCE_S = 1.0  # for another thread's read, which takes a few milliseconds (decision 0079)

Dumping = Callable[[bool], Sequence[Dump]]


class Issued:
    """The collectives that one rank issued in a test. `dump` reads its recorders, with or without their entries;
    `failed` is called once with what keeps them from being read; `capturing` tells whether this thread's stream is
    recorded into a CUDA graph now.
    """

    def __init__(
        self,
        dump: Dumping,
        failed: Callable[[Exception], object],
        ring: int | None = None,
        capturing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._missed = 0
        self._exact = True  # the digests hold all that was taken in; else nobody is compared with them
        self._dump = dump
        self._failed = failed
        self._capturing = capturing
        ring = _ring() if ring is None else ring
        self.off = ring <= 0
        self._most = max(ring - SPARE_ENTRIES, 1)
        self._digests = Digests()
        self._taken: dict[str, int] = {}  # the newest record of each recorder
        self._burst = self._most // 2  # collectives that came without a call at once
        self._open: set[object] = set()  # bursts; passes are made within passes
        self._calls = 0
        self._known = KnownCalls()
        self._counters: dict[Place, int] = {}  # of the recorders, when they were last read
        self._completed: dict[int, int] = {}  # by a group's number in digests, when they were last looked at
        self._of_gloo: set[int] = set()  # such numbers of groups whose recorder calls what failed complete
        self.hearing = Hearing()
        self._unsure = False  # which collectives of the test have completed
        self._lock = threading.Lock()

    @property
    def missed(self) -> int:
        """Of how many collectives the digests tell nothing, as far as that is known."""
        return self._missed if self._exact else max(self._missed, 1)

    @property
    def may_have_failed(self) -> bool:
        """Whether a collective of the test is known to have failed, or to have been given up."""
        return self._unsure

    def begin(self) -> None:
        """Forgets what was issued until now."""
        self._exact, self._unsure, self.hearing = True, False, Hearing()
        self._surely(self._begin)

    def _begin(self) -> None:
        self._burst = self._most // 2
        if self.behind() or self.may_hide():
            self._take(self._dump(True))
        self._digests, self._missed = Digests(), 0

    def behind(self) -> bool:
        """Returns whether anything was issued since the recorders were read."""
        try:
            taken = self._dump(False)
            self._look(taken)
            return _counters(taken) != self._counters
        except Exception:  # whoever reads then says so
            return True

    def may_hide(self) -> bool:
        """Returns whether something may have been issued that the counters don't show: only gloo's show all. NCCL's
        also number messages, which have numbers of their own, so they may come back to where they were.
        """
        return any(recorder != "gloo" for recorder, _ in self._counters)

    def call(self, group: Any, method: str, args: Sequence[Any], kwargs: Mapping[str, Any], work: Any = None) -> None:
        """Takes note that Python has issued one more collective."""
        if self.off:
            self._missed += method not in MESSAGES
            return
        if self._capturing():
            self._captured()
            return
        self._calls += 1
        with contextlib.suppress(Exception):  # a group without a name, a call without a work: nothing is heard of them
            self.hearing.issued(group, method, work)
        try:
            self._known.add(group, method, args, kwargs)
        except Exception:  # the tensors are the user's, of whatever class
            self._known.lose()
        if self._calls >= self._most:
            self._alone(self._settle)

    @contextlib.contextmanager
    def burst(self) -> Iterator[None]:
        """Makes room for an unknown number of collectives that may be issued in this block: as many as in the one
        before.
        """
        if self.off:
            self._missed += 1  # for all that anybody knows
            yield
            return
        if self._capturing():
            self._captured()  # for all that anybody knows
            yield
            return
        began: list[int] = []
        self._open.add(one := object())
        self._alone(lambda: began.append(self._make_room()))
        try:
            yield
        except BaseException:
            self.fail()
            raise
        finally:
            self._open.discard(one)
            if not self._capturing():  # a graph may begin or end in a hook
                self._alone(lambda: self._measure(*began))

    def _captured(self) -> None:
        """Takes note of a collective that a CUDA graph captures: no recorder has it (decision 0070), nor may one be
        read meanwhile, since NCCL's asks the device which of its collectives are over, which CUDA forbids during a
        capture.
        """
        self._known.lose()
        self._missed += 1

    def _make_room(self) -> int:
        return self._leave_room(_total(self._dump(False)))

    def _measure(self, began: int | None = None) -> None:
        """Measures a burst. Within another burst the largest of them counts: what comes then is the
        rest of that one.
        """
        total = _total(self._dump(False))
        if began is not None:
            self._burst = max(total - began, self._burst if self._open else 0)
        self._leave_room(total)

    def _leave_room(self, total: int) -> int:
        """Leaves room for another burst; calls are counted from here on."""
        self._calls = total - sum(self._counters.values())
        if self._calls + self._burst > self._most:
            self._settle()
        return total

    def take(self) -> Sequence[Dump] | None:
        """Takes in what is new. Returns what the recorders hold, also where another thread kept it from taking that in;
        None where they can't be read.
        """
        taken: Sequence[Dump] | None = None

        def read(then: Callable[[Sequence[Dump]], object]) -> None:
            nonlocal taken
            taken = self._dump(True)
            then(taken)

        if not self._surely(lambda: read(self._take)):
            self._guarded(lambda: read(lambda _: None))
        return taken

    def end(self, group: str | None = None) -> dict[str, str]:
        """Returns the digests of one group, which ends, or of all; none where they may lack something."""
        ended: dict[str, str] = {}
        names = (None,) if group is None else (group, group + GLOO)
        digests = self._digests
        self._surely(lambda: [ended.update(digests.end(name, self._complete, self._may_have_failed)) for name in names])
        return ended if self._exact else {}

    def fail(self) -> None:
        """A collective has failed, or was given up, nobody knows which."""
        self._unsure = True

    def _complete(self, pg: int) -> int | None:
        return 0 if self._unsure else self._completed.get(pg)

    def _may_have_failed(self, name: str, pg: int, count: int) -> bool:
        return pg in self._of_gloo and not self.hearing.of(name.removesuffix(GLOO), count)

    def miss(self, digests: int) -> None:
        """Takes note of digests that are compared with nobody's: each is of one collective at least."""
        self._missed += digests

    def lose(self) -> None:
        """Takes note that an unknown part was lost."""
        self._exact = False

    def restart(self) -> None:
        """Takes note that the recorders' counters begin again."""
        self._surely(lambda: self._read(()))

    def _alone(self, action: Callable[[], object]) -> None:
        """Calls `action`, unless another thread is at it: this one doesn't wait then, since what it issued is taken in
        now or later.
        """
        if self._lock.acquire(blocking=False):
            self._locked(action)

    def _surely(self, action: Callable[[], object]) -> bool:
        """Calls `action` once no other thread is at it, where there is no later; returns whether it did. A thread that
        interrupts itself while it reads would wait for ever, so waiting ends after PATIENCE_S.
        """
        done = self._lock.acquire(timeout=PATIENCE_S)
        if done:
            self._locked(action)
        else:
            self.lose()
        return done

    def _locked(self, action: Callable[[], object]) -> None:
        try:
            self._guarded(action)
        finally:
            self._lock.release()

    def _guarded(self, action: Callable[[], object]) -> None:
        """Calls `action`. Where that fails, or is interrupted by a time-out's signal, it may have taken in a half, so
        the digests are lost.
        """
        try:
            action()
        except Exception as e:
            self.lose()
            self._failed(e)
        except BaseException:
            self.lose()
            raise

    def _settle(self) -> None:
        """Takes in what is new, from the ring only where nothing else has it."""
        taken = self._dump(False)
        now = _counters(taken)
        issued = self._known.issued(self._counters, now)
        if issued is None:
            self._take(self._dump(True))
            return
        self._missed += self._digests.add(issued)
        for (recorder, pg), count in now.items():
            grown = count - self._counters.get((recorder, pg), 0)
            self._taken[recorder] = self._taken.get(recorder, -1) + grown  # an entry each
        self._read(taken)

    def _read(self, taken: Sequence[Dump]) -> None:
        self._calls, self._counters = 0, _counters(taken)
        self._look(taken)
        self._known.begin()

    def _look(self, taken: Sequence[Dump]) -> None:
        self._completed, self._of_gloo = _completed(taken), _of_gloo(taken)

    def _take(self, taken: Sequence[Dump]) -> None:
        if not taken and self._calls:  # a world was aborted, and its recorder shows nothing any more
            self._lost(self._calls)
        recorded: list[Recorded] = []
        several = len(taken) > 1
        for dump in taken:
            newest, before = dump.record, self._taken.get(dump.recorder, -1)
            if newest == before:
                continue
            self._taken[dump.recorder] = newest
            if newest < before:  # the test has reset the recorder, who knows after how many more
                self._lost(1)
                before = -1
            if newest < 0:
                continue
            if (lost := dump.data["entries"][0]["record_id"] - before - 1) > 0:
                self._lost(lost)
            new = sorted(fresh(dump.data, before), key=lambda one: one[1:3])
            found = [(one, _issue(one, dump.recorder if several else "")) for one in new]
            self._missed += self._digests.add(issue for _, issue in found)
            recorded += (Recorded((dump.recorder, one[1]), one[0], issue, _numel(one)) for one, issue in found)
        self._known.learn(recorded, _counters(taken))
        self._read(taken)

    def _lost(self, count: int) -> None:
        self._missed += count
        self._digests.lose()


def _issue(one: Fresh, recorder: str) -> Issue:
    name, pg, seq, op, dtypes, sizes = one
    if recorder == "gloo":  # beside NCCL's, which has groups of the same names
        name, pg = name + GLOO, pg + GLOO_PG
    elif recorder in HOOKED:
        pg += HOOKED_PG
    return name, pg, seq, _hashed(op, dtypes, sizes)


@lru_cache(maxsize=4096)
def _hashed(op: str, dtypes: tuple[str, ...], sizes: tuple[tuple[int, ...], ...]) -> int:
    numel, dtype = numel_and_dtype(dtypes, sizes)
    return hashed(signature(op, dtype, numel))


def _numel(one: Fresh) -> int:
    return numel_and_dtype(*one[4:])[0]


def _counters(taken: Sequence[Dump]) -> dict[Place, int]:
    """Returns the counters by group: numbers in torch's pickles, texts in its JSON. Those of hooked recorders begin
    with -1.
    """
    return {
        (dump.recorder, int(pg)): int(status.get("last_enqueued_collective", 0))
        for dump in taken
        for pg, status in (dump.data.get("pg_status") or {}).items()
    }


_MOST = 1 << 62  # of collectives: what a recorder doesn't count counts as complete


def _completed(taken: Sequence[Dump]) -> dict[int, int]:
    """Of groups with open collectives, by the numbers that groups have in digests; recorders whose counters number
    operations of any kind tell none.
    """
    return {
        number: completed
        for dump in taken
        if dump.recorder not in HOOKED
        for number, status in _statuses(dump, beside=len(taken) > 1)
        if (completed := int(status.get("last_completed_collective", _MOST)))
        < int(status.get("last_enqueued_collective", _MOST))
    }


def _of_gloo(taken: Sequence[Dump]) -> set[int]:
    return {n for dump in taken if dump.recorder == "gloo" for n, _ in _statuses(dump, beside=len(taken) > 1)}


def _statuses(dump: Dump, *, beside: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What a recorder counts, by the numbers that groups have in digests."""
    for pg, status in (dump.data.get("pg_status") or {}).items():
        yield int(pg) + (GLOO_PG if beside and dump.recorder == "gloo" else 0), status


def _total(taken: Sequence[Dump]) -> int:
    return sum(_counters(taken).values())


def _ring() -> int:
    """As torch reads it: what isn't more than 0 switches the recorders off."""
    text = os.environ.get("TORCH_FR_BUFFER_SIZE") or os.environ.get("TORCH_NCCL_TRACE_BUFFER_SIZE") or ""
    try:
        return int(text)
    except ValueError:
        return DEFAULT_RING

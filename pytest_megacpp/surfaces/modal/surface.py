"""Owns a box in a Modal sandbox: from the order to the last byte of its recording; must not know tests or judge.

One thread does it all, in order; the desk only reads what came. Nothing the box says is unpickled, imported or run.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, assert_never

from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.commands import Word, word_line
from pytest_megacpp.recording.events import Event, ProblemFound, Progress
from pytest_megacpp.recording.plan import Plan, Stop
from pytest_megacpp.recording.seed_layout import SeedError
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode, RunEnd, SeedMode
from pytest_megacpp.recording.wire import encode
from pytest_megacpp.surfaces.modal import client, failures
from pytest_megacpp.surfaces.modal import rates as modal_rates
from pytest_megacpp.surfaces.modal.config import (
    HOME,
    PACKAGE_DIR,
    RUN_DIR,
    RUNS_DIR,
    SOURCE_DIR,
    ModalConfig,
    VolumeConfig,
)
from pytest_megacpp.surfaces.modal.seeds import ModalShelf, refusal
from pytest_megacpp.surfaces.modal.stream import (
    MAX_LINE_BYTES,
    MAX_LOGS_BYTES,
    MAX_RECORDING_BYTES,
    End,
    FollowerStream,
    Lines,
    Log,
    is_log,
)
from pytest_megacpp.surfaces.protocol import Address, Ended
from pytest_megacpp.surfaces.remote_plan import plan_elsewhere
from pytest_megacpp.surfaces.source import Source, SourceConfig, SourceError, gather, own_package, stage, top_of
from pytest_megacpp.surfaces.unseen import Unseen

T = TypeVar("T")
SOURCE = "surface"  # of events about the way to the box and back
PLAN = f"{HOME}/plan.json"
RECORDING = "recording.jsonl"
IMAGE_S = 3600.0
UPLOAD_S = 900.0
STOP_S = 30.0  # for a box to end in order, as its own grace periods allow
GIVEN_BACK_S = 20.0  # for a sandbox whose box has ended
LOOK_S = 2.0  # between two looks at whether the sandbox still runs
SAY_S = 5.0  # between two signs of life to the box
SILENT_S = 10.0  # a follower says something every 2 s
OUTPUT_SILENT_S = 30.0  # a sandbox says what it has to say, but one that runs can be asked
AGAIN_S = 0.5
FOLLOWERS_TRIED = 2
RECORDS = VolumeConfig(RUNS_DIR, "megacpp-runs", made=True)
FETCHED = b'{"fetched":true}'
DETACHED_LEASE_S = 0.0
_OF_THE_END = frozenset({"NotFoundError", "ConflictError", "ClientClosed"})  # what calls to an ended sandbox raise


class _Refused(Exception):
    """No follower could be started."""


class Stay(StrEnum):
    """What becomes of the sandbox when the desk has no more use for it."""

    OWNER = "owner"  # it ends with the desk
    VISITOR = "visitor"  # it goes on, followed or not
    LEAVING = "leaving"  # it goes on, and nobody follows it from here


@dataclass(frozen=True)
class ModalSurface:
    """See `Surface`. `never` are directories of the desk that aren't source; `tags` go to the app and the sandbox.
    `rates` remembers what the account pays.
    """

    config: ModalConfig
    source: SourceConfig
    never: Sequence[Path] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    detached: bool = False
    rates: Path | None = None

    @property
    def _kept(self) -> ModalConfig:
        """Records are kept also where nobody said in which volume: else nothing could be attached to."""
        return replace(self.config, runs_volume=self.config.runs_volume or RECORDS)

    def start(self, plan: Plan, run: Path) -> "ModalBox":
        """Returns at once; what fails on the way is the box's end."""
        box = ModalBox(plan.run_id, run, self._kept)
        box.begin(lambda: self._order(plan, box), Stay.LEAVING if self.detached else Stay.OWNER)
        return box

    def attach(self, run_id: str, run: Path) -> "ModalBox":
        """Follows a run from its beginning, whether it still works or only its records are left."""
        box = ModalBox(run_id, run, self._kept)
        box.begin(lambda: self._found(run_id, box), Stay.VISITOR)
        return box

    def _found(self, run_id: str, box: "ModalBox") -> Any:
        box.phase("connect", lambda: client.connect(box.is_cancelled))
        config = self.config
        sandbox = box.phase("look-up", lambda: client.find(config.app, run_id, config.environment))
        if sandbox is not None:
            return sandbox
        box.replay_records()
        if not box.has_spoken():
            return box.look_back(client.find(config.app, run_id, config.environment, ended_too=True))
        return None

    def _order(self, plan: Plan, box: "ModalBox") -> Any:
        """A sandbox at work on the plan. Raises SurfaceTrouble or Cancelled."""
        config, cancelled = self._kept, box.is_cancelled
        source = box.phase("source", lambda: self._gather(plan))
        box.tell("source", source.notice)
        box.phase("connect", lambda: client.connect(cancelled))
        self._check_seeds(plan, box)
        runtime = client.runtime(config.runtime)
        if runtime.notice:
            box.tell("runtime", runtime.notice)
        app = client.app(config.app, config.environment, self._tags(plan), cancelled)
        box.knows(app=getattr(app, "app_id", None))
        image = self._image(top_of(Path(plan.cwd)))
        box.phase("image", lambda: client.build(image, app, "the image", IMAGE_S, cancelled))
        timeout_s, run_s = config.times(plan.run_s, plan.budget_s)
        there = self._plan(plan, source, run_s)
        with self._staged(there, source) as files:
            image = image.add_local_dir(files, HOME)
            box.phase("upload", lambda: client.build(image, app, "the upload", UPLOAD_S, cancelled))
        options = {**self._options(plan, timeout_s), "runtime": runtime.name, "image": image}
        order = client.Order(plan.run_id, app, config.app, self._command(), options, config.environment)
        wanted = plan.gpu if not plan.dry_run else "a CPU machine"
        sandbox = box.phase("capacity", lambda: client.create(order, config.capacity_s, cancelled), wanted)
        threading.Thread(target=self._learn_rates, daemon=True, name="megacpp-modal-rates").start()
        return sandbox

    def _check_seeds(self, plan: Plan, box: "ModalBox") -> None:
        """Before anything is rented; an image of the user's own may bring seeds along."""
        config, image = self.config, self.config.image
        own = image.baked_seed is not None or image.factory is not None or image.reference is not None
        required = any(test.cache_seed is SeedMode.REQUIRE for test in plan.tests)
        if own or not required or config.cache_volume is None:
            return
        shelf = ModalShelf(config.cache_volume, config.environment)
        try:
            refused = box.phase("seed", lambda: refusal(plan, shelf, image.name))
        except SeedError as e:
            raise failures.SurfaceTrouble(ProblemFound(ProblemCode.BLOCKED, ProblemCause.SEED, str(e))) from e
        if refused is not None:
            raise failures.SurfaceTrouble(refused)

    def _learn_rates(self) -> None:
        """For later launches; nobody waits for it."""
        with contextlib.suppress(Exception):
            if self.rates is not None and not modal_rates.remembered(self.rates, time.time()):
                modal_rates.remember(self.rates, modal_rates.ask())

    def _gather(self, plan: Plan) -> Source:
        try:
            return gather(top_of(Path(plan.cwd)), self.source, SOURCE_DIR, self.never)
        except SourceError as e:
            raise failures.SurfaceTrouble(ProblemFound(ProblemCode.BLOCKED, "source", str(e))) from e

    def _image(self, top: Path) -> Any:
        client.client()
        from pytest_megacpp.surfaces.modal.image import ImageError, image

        try:
            return image(self.config.image, top, self.config.environment)
        except ImageError as e:
            raise failures.SurfaceTrouble(ProblemFound(ProblemCode.BLOCKED, "image", str(e))) from e

    def _plan(self, plan: Plan, source: Source, run_s: float) -> Plan:
        variables, data = self.config.env, self.config.data_sets()
        _, memory_mib = self.config.machine(plan.ranks)
        try:
            return plan_elsewhere(
                plan,
                source.layout,
                stores=self.config.seed_stores(),
                image=self.config.image.name,
                run_s=run_s,
                variables=variables,
                data=data,
                memory_bytes=memory_mib << 20,
                environ=os.environ,
            )
        except SourceError as e:
            raise failures.SurfaceTrouble(ProblemFound(ProblemCode.BLOCKED, "source", str(e))) from e

    @contextlib.contextmanager
    def _staged(self, plan: Plan, source: Source) -> Iterator[Path]:
        """A directory that lies as `HOME` will in the box: one upload for all that is sent. Among temporary files: a
        desk that is killed meanwhile leaves none of it among a run's artefacts.
        """
        directory = Path(tempfile.mkdtemp(prefix="megacpp-stage-"))
        try:
            stage(source.files, directory / Path(SOURCE_DIR).name)
            stage(own_package(), directory / Path(PACKAGE_DIR).name)
            (directory / Path(PLAN).name).write_text(json.dumps(to_json(plan)), encoding="utf-8")
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _tags(self, plan: Plan) -> dict[str, str]:
        """Of the sandbox and of the app, which has those of its newest run."""
        return {**self.tags, "megacpp_run": plan.run_id, "lane": plan.lane}

    def _command(self) -> tuple[str, ...]:
        lease_s = DETACHED_LEASE_S if self.detached else self.config.lease_s
        return (*_here("remote.lease"), PLAN, RUN_DIR, f"{lease_s:g}", RUNS_DIR)

    def _options(self, plan: Plan, timeout_s: float) -> dict[str, Any]:
        config = self._kept
        modal = client.client()
        passed = {name: os.environ[name] for name in config.pass_env if name in os.environ}
        cpu, memory_mib = config.machine(plan.ranks)
        environment = {"PYTHONPATH": PACKAGE_DIR, "PYTHONDONTWRITEBYTECODE": "1", "MEGACPP_RUN_ID": plan.run_id}
        secrets = [modal.Secret.from_name(name, environment_name=config.environment) for name in config.secrets]
        return {
            **_network(config),
            "env": environment,
            "secrets": [*secrets, *([modal.Secret.from_dict(passed)] if passed else [])],
            "tags": self._tags(plan),
            "volumes": {**_volumes(config, plan.run_id), **_buckets(config)},
            "gpu": None if plan.dry_run else plan.gpu,
            "cpu": cpu,
            "memory": memory_mib,
            "timeout": int(timeout_s),
            "workdir": HOME,
            "region": list(config.region) or None,
            "cloud": config.cloud,
        }


def _volumes(config: ModalConfig, run_id: str) -> dict[str, Any]:
    modal = client.client()
    return {
        volume.path: modal.Volume.from_name(
            volume.name, environment_name=config.environment, create_if_missing=volume.made
        ).with_mount_options(read_only=volume.read_only, sub_path=volume.directory or None)
        for volume in config.mounts(run_id)
    }


def _buckets(config: ModalConfig) -> dict[str, Any]:
    modal = client.client()
    mounts = {}
    for path, bucket in config.buckets().items():
        secret = bucket.secret and modal.Secret.from_name(bucket.secret, environment_name=config.environment)
        prefix = f"{bucket.prefix}/" if bucket.prefix else None
        mounts[path] = modal.CloudBucketMount(
            bucket.name, bucket_endpoint_url=bucket.endpoint_url, key_prefix=prefix, secret=secret, read_only=True
        )
    return mounts


def _network(config: ModalConfig) -> dict[str, Any]:
    network = config.network
    if network.is_open:
        return {}
    if not (network.cidrs or network.domains):
        return {"block_network": True}
    return {
        "outbound_cidr_allowlist": list(network.cidrs) or None,
        "outbound_domain_allowlist": list(network.domains) or None,
    }


def _here(module: str) -> tuple[str, str, str]:
    """How a module of `pytest_megacpp.box` is run in any image."""
    return ("python3", f"{PACKAGE_DIR}/pytest_megacpp/box/remote/start.py", module)


class ModalBox:
    """See `RunningBox`."""

    def __init__(self, run_id: str, run: Path, config: ModalConfig) -> None:
        self._run_id = run_id
        self._run = run
        self._config = config
        self._recording = run / RECORDING
        self._unread = bytearray()
        self._lock = threading.Lock()
        self._address = Address()
        self._said = 0
        self._cancelled = threading.Event()
        self._words: list[Word] = []  # all of them, since a new follower begins with them again
        self._done = threading.Event()
        self._problem: ProblemFound | None = None
        self._complete = False
        self._over = False
        self._reached_s: float | None = None  # when it first could be spoken to
        self._answered_s = 0.0  # when Modal last knew whether the sandbox runs
        self._stream = FollowerStream()
        self._sandbox: Any = None
        self._stay = Stay.OWNER

    # -- what the desk asks --------------------------------------------------------------------------------

    def read(self) -> bytes:
        with self._lock:
            data, self._unread = bytes(self._unread), bytearray()
        return data

    def ended(self) -> Ended | None:
        return Ended(self._problem) if self._done.is_set() else None

    def address(self) -> Address:
        return self._address

    def say(self, word: Word) -> None:
        if self._stay is Stay.OWNER:
            self._words.append(word)

    def stop(self, reason: RunEnd) -> None:
        if self._stay is not Stay.OWNER:
            return
        self.say(Stop(reason))
        if self._reached_s is None:
            self._cancelled.set()

    def end(self) -> None:
        """In order if the box can still be asked, else at once."""
        if self._stay is not Stay.OWNER:
            self._cancelled.set()
        elif not self._done.is_set():
            self.stop(RunEnd.INTERRUPTED)
            if not self._done.wait(STOP_S):
                self._cancelled.set()
        self._done.wait(GIVEN_BACK_S + 2 * client.POLL_S + client.ENDED_S)

    # -- the thread ----------------------------------------------------------------------------------------

    def begin(self, order: Callable[[], Any], stay: Stay) -> None:
        self._stay = stay
        threading.Thread(target=self._work, args=(order,), daemon=True, name="megacpp-modal").start()

    def _work(self, order: Callable[[], Any]) -> None:
        try:
            self._sandbox = order()
            if self._sandbox is not None:
                self.knows(sandbox=str(self._sandbox.object_id))
                if self._stay is not Stay.LEAVING:
                    self._follow()
        except failures.Cancelled:
            pass
        except failures.SurfaceTrouble as e:
            self._problem = e.problem
        except Exception as e:
            at_work = self._reached_s is not None
            self._problem = failures.given_up(e) if at_work else failures.trouble(e).problem
        finally:
            with contextlib.suppress(Exception):
                self._give_back()
            self._done.set()

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def knows(self, app: str | None = None, sandbox: str | None = None) -> None:
        self._address = Address(app or self._address.app, sandbox or self._address.sandbox)

    def phase(self, name: str, work: Callable[[], T], detail: str = "") -> T:
        """A step that may take a while: its beginning and its time are told."""
        self.tell(name, detail)
        began = time.monotonic()
        result = work()
        self.tell(name, f"{time.monotonic() - began:.1f} s")
        return result

    def tell(self, phase: str, detail: str) -> None:
        event = Event(self._run_id, "", SOURCE, self._said, 0.0, Progress(phase, detail))
        self._said += 1
        self._take(encode(event))

    def _take(self, data: bytes) -> None:
        with self._recording.open("ab") as recording:
            recording.write(data)
        with self._lock:
            self._unread += data

    # -- following -----------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Until the box has ended and all was heard. Raises SurfaceTrouble for a box that can't be found again."""
        began_s = heard_s = time.monotonic()
        refused, started = 0, False
        while not self._complete and not self.is_cancelled():
            try:
                for heard_bytes in self._listen(refused):
                    heard_s, refused = time.monotonic(), 0
                    if heard_bytes and not started:
                        started = True
                        self.tell("start", f"{heard_s - began_s:.1f} s")
            except _Refused:
                refused += 1
            except (failures.Cancelled, failures.Late):
                raise
            except Exception as e:
                if not failures.is_transient(e) and type(e).__name__ not in _OF_THE_END:
                    raise
            if self._complete or self.is_cancelled():
                return
            code = self._exit_code()
            if code is not None:
                self._after_the_end(code)
                return
            lost_s = time.monotonic() - max(heard_s, self._reached_s or 0.0)
            if lost_s > self._patience_s():
                raise failures.SurfaceTrouble(failures.unreachable_box(self._run_id, lost_s, self._config.lease_s))
            self.tell("reconnect", f"lost for {lost_s:.1f} s, at byte {self._stream.resume()}")
            time.sleep(AGAIN_S)

    def _patience_s(self) -> float:
        """How long to look for a box that isn't heard: one that never was may still be waiting for its machine."""
        if self._reached_s is None:
            return self._config.capacity_s
        return 1.5 * self._config.lease_s or 90.0

    def _is_reached(self) -> None:
        self._reached_s = self._reached_s or time.monotonic()

    def _listen(self, refused: int) -> Iterator[int]:
        """Takes in what the box says, yielding how much came; ends when it falls silent or the sandbox is gone. Where
        no follower can be started, that is what it repeats on its own output.
        """
        if refused < FOLLOWERS_TRIED:
            yield from self._converse(self._follower(), self._hear, beats=True)
        else:
            self.tell("fallback", "no follower can be started: reading the sandbox's own output")
            unseen = self._unseen()
            hear = lambda data: self._hear_output(data, unseen)  # noqa: E731
            yield from self._converse(client.Following(self._sandbox), hear, beats=False)

    def _follower(self) -> client.Following:
        """Raises _Refused. The first one has to wait until the sandbox has its machine, which `create` need not do."""
        command = (*_here("remote.follow"), RUN_DIR, str(self._stream.resume()))
        reached = self._reached_s is not None
        limits = ("a follower", client.CALL_S) if reached else ("the machine", self._config.capacity_s)
        try:
            following = client.follower(self._sandbox, command, *limits, self.is_cancelled)
        except (failures.Cancelled, failures.Late) as e:
            if isinstance(e, failures.Late) and reached:
                raise _Refused from e
            raise
        except Exception as e:
            raise _Refused from e
        self._is_reached()
        return following

    def _converse(self, following: client.Following, hear: Callable[[bytes], None], *, beats: bool) -> Iterator[int]:
        """Where nothing has beats, Modal's word that the sandbox runs is a sign of life."""
        silent_s = SILENT_S if beats else OUTPUT_SILENT_S
        heard_s = looked_s = said_s = time.monotonic()
        following.say(b"{}")
        words_said = 0
        try:
            while not self._complete and not self.is_cancelled():
                data = following.next(0.05)
                now_s = time.monotonic()
                if data is None or now_s - heard_s > silent_s:
                    return
                if data:
                    heard_s = now_s
                    hear(data)
                    yield len(data)
                for word in self._words[words_said:]:
                    words_said += 1
                    following.say(word_line(word).rstrip())
                if self._over:
                    following.say(FETCHED)
                if now_s - said_s > self._say_s():
                    said_s = now_s
                    following.say(b"{}")
                if now_s - looked_s > LOOK_S and now_s - heard_s > LOOK_S / 2:
                    looked_s = now_s
                    if self._exit_code() is not None:
                        return
                    if not beats and self._answered_s > heard_s:
                        heard_s = self._answered_s
                        yield 0
            following.say(FETCHED)
        finally:
            following.leave()

    def _say_s(self) -> float:
        """Between two signs of life to the box: many within its lease."""
        return min(SAY_S, self._config.lease_s / 5) if self._config.lease_s else SAY_S

    def _hear(self, data: bytes) -> None:
        for piece in self._stream.feed(data):
            match piece:
                case Lines():
                    self._take(piece.data)
                case Log():
                    self._write_log(piece.path, piece.data)
                case End():
                    self._complete = True
                case _:
                    assert_never(piece)

    def _exit_code(self) -> int | None:
        """None while it runs, and while nobody can say."""
        try:
            code = client.exit_code(self._sandbox)
        except Exception as e:
            if failures.is_transient(e):
                return None
            raise
        self._answered_s = time.monotonic()
        return code

    def _hear_output(self, data: bytes, unseen: Unseen) -> None:
        """The sandbox's output comes line by line, and has no logs."""
        self._is_reached()
        if data.endswith(b"\n") and unseen.is_new(data):
            self._take(data)
            self._over = b'"kind":"run-finished"' in data

    def _unseen(self) -> Unseen:
        unseen = Unseen()
        with contextlib.suppress(OSError):
            unseen.saw(self._recording.read_bytes())
        return unseen

    def has_spoken(self) -> bool:
        """Whether anything of the box itself has come."""
        return b'"kind":"run-started"' in self._recording.read_bytes()

    def look_back(self, sandbox: Any) -> Any:
        """What is left of a run without records: the output of its sandbox, where Modal still knows it. Returns the
        sandbox if it has not ended, to be followed: it may have been found late. Raises SurfaceTrouble when nothing is
        left.
        """
        if sandbox is None and not self._has_records():
            raise failures.SurfaceTrouble(failures.no_such_run(self._run_id))
        code = None
        if sandbox is not None:
            code = client.exit_code(sandbox)
            if code is None:
                return sandbox
            self.knows(sandbox=str(sandbox.object_id))
            self._sandbox = sandbox
            self._after_the_end(code)
        if not self.has_spoken():
            why, self._problem = self._problem, None
            raise failures.SurfaceTrouble(failures.nothing_left(code, why))
        return None

    def _has_records(self) -> bool:
        """Whether the volume of run records has a place of this run: a sandbox that mounts it makes one."""
        kept = self._config.runs_volume
        return kept is not None and client.exists(kept.name, self._records_of(kept), self._config.environment)

    def _records_of(self, kept: VolumeConfig) -> str:
        return f"{kept.directory}/{self._run_id}".strip("/")

    def _after_the_end(self, code: int) -> None:
        """The sandbox is gone: what its output and the kept records have beyond what was heard, and why it ended."""
        self.tell("lost", f"the sandbox ended with {code}; reading its output")
        self._take_unseen(client.output(self._sandbox, "stdout", MAX_RECORDING_BYTES))
        try:
            self.replay_records()
        except failures.SurfaceTrouble as e:  # why the sandbox ended matters more
            self.tell("lost", f"its records can't be read: {e.problem.detail}")
        recorded = self.has_spoken()
        ending = client.how_it_ended(self._sandbox)
        stderr = client.output(self._sandbox, "stderr", MAX_LINE_BYTES).decode(errors="replace")
        self._problem = failures.gone(ending, code, stderr, recorded=recorded)

    def _take_unseen(self, data: bytes) -> None:
        unseen = self._unseen()
        lines = data.splitlines(keepends=True)
        self._take(b"".join(line for line in lines if line.endswith(b"\n") and unseen.is_new(line)))

    def replay_records(self) -> None:
        """What the volume of run records keeps of this run, beyond what is here already. Raises SurfaceTrouble."""
        kept = self._config.runs_volume
        if kept is None:
            return
        directory = self._records_of(kept)
        left_bytes = MAX_LOGS_BYTES

        def limit_of(path: str) -> int:
            return MAX_RECORDING_BYTES if path == RECORDING else left_bytes if is_log(path) else 0

        for path, data in client.stored(kept.name, directory, limit_of, self._config.environment):
            if path == RECORDING:
                self._take_unseen(data)
            else:
                left_bytes -= len(data)
                self._write_log(path, data)

    def _write_log(self, path: str, data: bytes) -> None:
        target = self._run / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def _give_back(self) -> None:
        """The sandbox costs money until it ends. One whose box has ended goes by itself; others are terminated."""
        visiting = self._stay is Stay.VISITOR and not self._complete
        if self._sandbox is None or self._stay is Stay.LEAVING or visiting or self._left_to_itself():
            return
        if not (self._complete and self._goes_by_itself()) and not client.terminate(self._sandbox):
            self.tell("end", "Modal has not confirmed the sandbox's end: a run that starts now may see older volumes")

    def _goes_by_itself(self) -> bool:
        """Leaving in order commits the records."""
        deadline = time.monotonic() + GIVEN_BACK_S
        with contextlib.suppress(Exception):
            while time.monotonic() < deadline:
                if self._exit_code() is not None:
                    return True
                time.sleep(0.1)
        return False

    def _left_to_itself(self) -> bool:
        """A box that can't be reached any more ends by its lease, or not at all; `--attach` finds it."""
        return self._problem is not None and self._problem.cause == ProblemCause.CONNECTION

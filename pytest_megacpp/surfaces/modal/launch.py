"""Owns the way from a plan to a sandbox that works on it, step by step; must not know what the sandbox says then."""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pytest_megacpp.recording.codec import to_json
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.plan import Plan
from pytest_megacpp.recording.seed_layout import SeedError
from pytest_megacpp.recording.vocabulary import ProblemCause, ProblemCode, SeedMode
from pytest_megacpp.surfaces.modal import client, rates
from pytest_megacpp.surfaces.modal.config import HOME, PACKAGE_DIR, SOURCE_DIR, ModalConfig
from pytest_megacpp.surfaces.modal.failures import SurfaceError
from pytest_megacpp.surfaces.modal.inbox import Inbox
from pytest_megacpp.surfaces.modal.order import PLAN, box_command, sandbox_options
from pytest_megacpp.surfaces.modal.seeds import ModalShelf, refusal
from pytest_megacpp.surfaces.remote_plan import plan_elsewhere
from pytest_megacpp.surfaces.source import Source, SourceConfig, SourceError, gather, own_package, stage, top_of

IMAGE_S = 3600.0
UPLOAD_S = 900.0
DETACHED_LEASE_S = 0.0


class Launched(Protocol):
    """The box that a launch is for: where its steps are recorded, and whether the desk still wants it."""

    inbox: Inbox

    def is_cancelled(self) -> bool: ...

    def knows(self, app: str | None = None) -> None: ...


@dataclass(frozen=True)
class Launch:
    """`never` are directories of the desk that aren't source; `tags` go to the app and the sandbox. `rates` remembers
    what the account pays.
    """

    plan: Plan
    config: ModalConfig
    source: SourceConfig
    never: Sequence[Path]
    tags: Mapping[str, str]
    detached: bool
    rates: Path | None
    box: Launched

    def sandbox(self) -> Any:
        """Returns a sandbox that runs the plan. Raises SurfaceError or Cancelled."""
        plan, config = self.plan, self.config
        phase, report, cancelled = self.box.inbox.phase, self.box.inbox.report, self.box.is_cancelled
        source = phase("source", self._gather)
        report("source", source.notice)
        phase("connect", lambda: client.connect(cancelled))
        self._check_seeds()
        runtime = client.runtime(config.runtime)
        if runtime.notice:
            report("runtime", runtime.notice)
        app = client.app(config.app, config.environment, self._all_tags(), cancelled)
        self.box.knows(app=getattr(app, "app_id", None))
        image = self._image()
        phase("image", lambda: client.build(image, app, "the image", IMAGE_S, cancelled))
        timeout_s, run_s = config.times(plan.run_s, plan.budget_s)
        with self._staged(self._plan_there(source, run_s), source) as files:
            image = image.add_local_dir(files, HOME)
            phase("upload", lambda: client.build(image, app, "the upload", UPLOAD_S, cancelled))
        asked = sandbox_options(config, plan, self._all_tags(), timeout_s)
        options = {**asked, "runtime": runtime.name, "image": image}
        command = box_command(DETACHED_LEASE_S if self.detached else config.lease_s)
        order = client.Order(plan.run_id, app, config.app, command, options, config.environment)
        wanted = plan.gpu if not plan.dry_run else "a CPU machine"
        sandbox = phase("capacity", lambda: client.create(order, config.capacity_s, cancelled), wanted)
        threading.Thread(target=self._learn_rates, daemon=True, name="megacpp-modal-rates").start()
        return sandbox

    def _check_seeds(self) -> None:
        """Raises SurfaceError for a missing seed before a machine is rented; a custom image may contain seeds."""
        config, image = self.config, self.config.image
        own = image.baked_seed is not None or image.factory is not None or image.reference is not None
        required = any(test.cache_seed is SeedMode.REQUIRE for test in self.plan.tests)
        if own or not required or config.cache_volume is None:
            return
        shelf = ModalShelf(config.cache_volume, config.environment)
        try:
            refused = self.box.inbox.phase("seed", lambda: refusal(self.plan, shelf, image.name))
        except SeedError as e:
            raise SurfaceError(ProblemFound(ProblemCode.BLOCKED, ProblemCause.SEED, str(e))) from e
        if refused is not None:
            raise SurfaceError(refused)

    def _learn_rates(self) -> None:
        """Remembers what the account pays, for later launches; this one does not wait for it."""
        with contextlib.suppress(Exception):
            if self.rates is not None and not rates.remembered(self.rates, time.time()):
                rates.remember(self.rates, rates.ask())

    @property
    def _top(self) -> Path:
        return top_of(Path(self.plan.cwd))

    def _gather(self) -> Source:
        try:
            return gather(self._top, self.source, SOURCE_DIR, self.never)
        except SourceError as e:
            raise SurfaceError(ProblemFound(ProblemCode.BLOCKED, "source", str(e))) from e

    def _image(self) -> Any:
        client.client()
        from pytest_megacpp.surfaces.modal.image import ImageError, image

        try:
            return image(self.config.image, self._top, self.config.environment)
        except ImageError as e:
            raise SurfaceError(ProblemFound(ProblemCode.BLOCKED, "image", str(e))) from e

    def _plan_there(self, source: Source, run_s: float) -> Plan:
        """The plan with the box's paths and variables."""
        _, memory_mib = self.config.machine(self.plan.ranks)
        try:
            return plan_elsewhere(
                self.plan,
                source.layout,
                stores=self.config.seed_stores(),
                image=self.config.image.name,
                run_s=run_s,
                variables=self.config.env,
                data=self.config.data_sets(),
                memory_bytes=memory_mib << 20,
                environ=os.environ,
            )
        except SourceError as e:
            raise SurfaceError(ProblemFound(ProblemCode.BLOCKED, "source", str(e))) from e

    @contextlib.contextmanager
    def _staged(self, plan: Plan, source: Source) -> Iterator[Path]:
        """Yields a directory laid out like `HOME` in the box: one upload for all that is sent. It is a temporary
        directory, so that a desk that is killed meanwhile leaves none of it among a run's artefacts.
        """
        directory = Path(tempfile.mkdtemp(prefix="megacpp-stage-"))
        try:
            stage(source.files, directory / Path(SOURCE_DIR).name)
            stage(own_package(), directory / Path(PACKAGE_DIR).name)
            (directory / Path(PLAN).name).write_bytes(json.dumps(to_json(plan)).encode())
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _all_tags(self) -> dict[str, str]:
        """Of the sandbox and of the app, which has those of its newest run."""
        return {**self.tags, "megacpp_run": self.plan.run_id, "lane": self.plan.lane}

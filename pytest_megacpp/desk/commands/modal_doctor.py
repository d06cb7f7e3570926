"""Owns the account of Modal for `megacpp doctor --surface modal`; must not know how Modal is asked. Rents nothing."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_megacpp.desk.config.data import read_data
from pytest_megacpp.desk.config.lanes import LaneConfig
from pytest_megacpp.desk.config.modal import read_modal
from pytest_megacpp.desk.config.prices import LIST_PRICES, Machine, Prices, estimate, read_prices, rented
from pytest_megacpp.desk.config.source import read_source
from pytest_megacpp.desk.run.launch import rates_file
from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import wrapped
from pytest_megacpp.surfaces.modal.check import Check, checks
from pytest_megacpp.surfaces.modal.config import SOURCE_DIR, ModalConfig
from pytest_megacpp.surfaces.modal.rates import account_prices, ask, remember, remembered
from pytest_megacpp.surfaces.source import SourceConfig, SourceError, gather, top_of


class Examination:
    """Its lines, as they become known; `ready` then says whether a launch would find all that it needs."""

    def __init__(
        self, settings: Mapping[str, object], lanes: Mapping[str, LaneConfig], lane_dir: Path, project: Path
    ) -> None:
        untrusted = settings.get("untrusted") is True
        data = read_data(settings.get("data", {}), project)
        self._config = read_modal(settings.get("modal", {}), untrusted=untrusted, data=data)
        self._source = read_source(settings.get("source", {}))
        self._prices = read_prices(settings.get("prices", {}), untrusted=untrusted)
        self._lanes = lanes
        self._lane_dir = lane_dir
        self.ready = True

    def lines(self) -> Iterator[str]:
        top = top_of(Path.cwd())
        yield "Modal"
        yield from self._told(_source(top, self._source, self._lane_dir))
        connected = False
        for check in checks(self._config, top):
            connected = connected or check.ok
            yield from self._told(check)
        yield ""
        if connected:
            _ask_prices()
        yield from (f"lane {lane.name:<17}{_price(lane, self._config, self._prices)}" for lane in self._lanes.values())

    def _told(self, check: Check) -> Iterator[str]:
        self.ready = self.ready and check.ok
        yield f"  {one_line(check.name):<22}{'' if check.ok else 'NO: '}{one_line(check.told, 600)}"
        if check.mend:
            yield from wrapped(one_line(check.mend, 300), f"  {'':<22}")


def _source(top: Path, config: SourceConfig, lane_dir: Path) -> Check:
    try:
        return Check("source", True, gather(top, config, SOURCE_DIR, (lane_dir,)).notice)
    except SourceError as e:
        return Check("source", False, str(e))


def _ask_prices() -> None:
    """A client or account that doesn't tell its prices costs nothing but the list's being used."""
    try:
        remember(rates_file(), ask())
    except Exception:
        return


def _price(lane: LaneConfig, config: ModalConfig, prices: Prices) -> str:
    cpu, memory_mib = config.machine(lane.ranks)
    account = account_prices(remembered(rates_file(), time.time()), LIST_PRICES)
    rate = rented(Machine(lane.gpu, cpu, memory_mib), prices, account)
    return f"{lane.gpu}, {lane.ranks} ranks, {cpu:g} cores, {memory_mib / 1024:g} GiB: {estimate(rate, None, None)}"

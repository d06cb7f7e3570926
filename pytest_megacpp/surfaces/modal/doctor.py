"""Owns the account of Modal for `megacpp doctor --surface modal`; must not know how Modal is asked. Rents nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_megacpp.report.clean import one_line
from pytest_megacpp.report.layout import wrapped
from pytest_megacpp.report.money import estimate
from pytest_megacpp.surfaces.modal.check import Check, checks
from pytest_megacpp.surfaces.modal.config import SOURCE_DIR, ModalConfig
from pytest_megacpp.surfaces.modal.prices import rate_of, rates_file
from pytest_megacpp.surfaces.modal.rates import ask, remember
from pytest_megacpp.surfaces.prices import Prices
from pytest_megacpp.surfaces.protocol import Lane, SurfaceOptions
from pytest_megacpp.surfaces.source import SourceConfig, SourceError, gather, top_of


class ModalExamination:
    """See `Examination`."""

    def __init__(self, config: ModalConfig, options: SurfaceOptions, lanes: Sequence[Lane]) -> None:
        self._config = config
        self._source = options.source
        self._prices = options.prices
        self._lanes = lanes
        self._lane_dir = options.lane_dir
        self.ready = True

    def lines(self) -> Iterator[str]:
        top = top_of(Path.cwd())
        yield "Modal"
        yield from self._lines_of(_source(top, self._source, self._lane_dir))
        connected = False
        for check in checks(self._config, top):
            connected = connected or check.ok
            yield from self._lines_of(check)
        yield ""
        if connected:
            _ask_prices()
        yield from (f"lane {lane.name:<17}{_price(lane, self._config, self._prices)}" for lane in self._lanes)

    def _lines_of(self, check: Check) -> Iterator[str]:
        self.ready = self.ready and check.ok
        yield f"  {one_line(check.name):<22}{'' if check.ok else 'NO: '}{one_line(check.detail, 600)}"
        if check.remedy:
            yield from wrapped(one_line(check.remedy, 300), f"  {'':<22}")


def _source(top: Path, config: SourceConfig, lane_dir: Path) -> Check:
    try:
        return Check("source", True, gather(top, config, SOURCE_DIR, (lane_dir,)).notice)
    except SourceError as e:
        return Check("source", False, str(e))


def _ask_prices() -> None:
    """Remembers what the account pays. On failure the list prices are used."""
    try:
        remember(rates_file(), ask())
    except Exception:
        return


def _price(lane: Lane, config: ModalConfig, prices: Prices) -> str:
    cpu, memory_mib = config.machine(lane.ranks)
    rate = rate_of(config, prices, lane.gpu, lane.ranks)
    return f"{lane.gpu}, {lane.ranks} ranks, {cpu:g} cores, {memory_mib / 1024:g} GiB: {estimate(rate, None, None)}"

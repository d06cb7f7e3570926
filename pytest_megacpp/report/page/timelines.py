"""Owns the reports of a run over time, `timeline.html` and `trace.json`; must not know how spans are found or drawn."""

from collections.abc import Iterator

from pytest_megacpp.report.page.data import page_data
from pytest_megacpp.report.page.html import html
from pytest_megacpp.report.reporter import Artefact, Reporter, RunResults, document
from pytest_megacpp.report.run_spans import run_spans
from pytest_megacpp.report.trace import trace, trace_bytes

PAGE, TRACE = "timeline.html", "trace.json"


class Timelines(Reporter):
    """What every rank was in, from when to when, once the run is over for this desk."""

    name = "timeline"

    def ended(self, run: RunResults) -> Iterator[Artefact]:
        spans = run_spans(run.timeline, run.judged)
        yield document(TRACE, trace_bytes(trace(spans, run.timeline, run.judged, run.redact)))
        yield document(PAGE, html(page_data(run, spans)))

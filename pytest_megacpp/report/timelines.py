"""Owns the report of a run over time: `trace.json`; must not know how spans are found or laid out."""

from collections.abc import Iterator

from pytest_megacpp.report.reporter import Artefact, Reporter, RunResults, document
from pytest_megacpp.report.spans import run_spans
from pytest_megacpp.report.trace import trace, trace_bytes


class Timelines(Reporter):
    """What every rank was in, from when to when, once the run is over for this desk."""

    name = "timeline"

    def ended(self, run: RunResults) -> Iterator[Artefact]:
        spans = run_spans(run.timeline, run.judged)
        yield document("trace.json", trace_bytes(trace(spans, run.timeline, run.judged, run.redact)))

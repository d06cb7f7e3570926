"""Owns the properties of a test's pytest reports: those that its ranks recorded, then its verdict and its cost."""

from collections.abc import Iterator

from pytest_megacpp.recording.events import Reported
from pytest_megacpp.recording.ranks import rank_list
from pytest_megacpp.recording.views import RankView
from pytest_megacpp.report.attempts import attempts_line
from pytest_megacpp.report.clean import clean, one_line
from pytest_megacpp.report.reporter import RunResults
from pytest_megacpp.report.run_json import cost_of_test


def properties(run: RunResults, index: int) -> dict[str, object]:
    """By name, in the order in which they are reported."""
    result = run.judged[index]
    view = run.timeline.tests.get(result.number)
    ranks = list(view.ranks.values()) if view else []
    verdict = result.verdict
    found = dict(_recorded(ranks))
    found["megacpp_verdict"] = str(verdict.code)
    if verdict.blamed_ranks:
        found["megacpp_blamed_ranks"] = rank_list(verdict.blamed_ranks)
    if verdict.cause:
        found["megacpp_cause"] = str(verdict.cause)
    if (steps := attempts_line(result)) is not None:
        found["megacpp_attempts"] = steps
    first_forwards = [seconds for rank in ranks if (seconds := rank.first_forward_s) is not None]
    if first_forwards:
        found["megacpp_first_forward_s"] = round(max(first_forwards), 3)  # the slowest rank's
    return found | _of_run(run, index)


def _recorded(ranks: list[RankView]) -> Iterator[tuple[str, object]]:
    """What tests gave pytest's `record_property`; of equal names the last one stays."""
    reports: Iterator[Reported] = (report for rank in ranks for _, report in rank.reports.values())
    for report in reports:
        for name, value in report.properties.items():
            yield one_line(name), value if isinstance(value, bool | int | float | None) else clean(str(value))


def _of_run(run: RunResults, index: int) -> dict[str, object]:
    """The test's run, and its share of the cost."""
    spent = cost_of_test(run.meta, run.timeline, index)
    found: dict[str, object] = {
        "megacpp_run": run.plan.run_id,
        "megacpp_seconds": spent.seconds,
        "megacpp_gpu_seconds": spent.gpu_seconds,
        "megacpp_usd": spent.usd,
        "megacpp_dry_run": "true" if run.plan.dry_run else None,
    }
    return {name: value for name, value in found.items() if value is not None}

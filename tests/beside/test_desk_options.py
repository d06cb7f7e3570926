"""Which options of real plugins ranks leave to the desk: known by what they do, or listed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_megacpp.rank.desk_options import LISTED
from tests.plugin.project import LANE, Project

# What the plugins of the test extra have written, each by its option's name in `config.option`.
WRITING = {
    "allure_pytest": {"allure_report_dir"},
    "benchmark": {
        "benchmark_autosave",
        "benchmark_cprofile",
        "benchmark_cprofile_dump",
        "benchmark_histogram",
        "benchmark_json",
        "benchmark_save",
        "benchmark_storage",
    },
    "html": {"htmlpath"},
    "profiling": {"profile", "profile_svg", "pstats_dir"},
    "pytest-split": {"clean_durations", "durations_path", "store_durations"},
    "pytest_cov": {"cov_append", "cov_report"},
    "pytest_jsonreport": {"json_report", "json_report_file"},
    "pytest_reportlog": {"report_log"},
    "rich": {"rich_capture"},
}
# What tests and their fixtures go by, and must have on ranks as well.
KEPT = {
    "allure_pytest": {"allure_link_pattern", "attach_capture"},
    "benchmark": {
        "benchmark_disable",
        "benchmark_enable",
        "benchmark_min_rounds",
        "benchmark_timer",
        "benchmark_warmup",
    },
    "hypothesispytest": {"hypothesis_profile", "hypothesis_seed"},
    "metadata": {"metadata", "metadata_from_json", "metadata_from_json_file"},
    "randomly": {"randomly_seed"},
    "syrupy": {"default_extension", "snapshot_dirname", "update_snapshots"},
}
# Options of pytest itself that speak of results, and write none.
HARMLESS = {
    "debug",
    "doctestreport",
    "junitprefix",
    "log_file_date_format",
    "log_file_format",
    "log_file_level",
    "log_file_mode",
    "reportchars",
}
ASKING = """
import json
import sys
import pytest
from pytest_megacpp.rank.desk_options import DeskOptions, options_of, writes_results

class Asking:
    def __init__(self):
        self.options, self.parser, self.seen, self.found = DeskOptions(), None, set(), {}

    def pytest_addoption(self, parser):
        self.parser = parser

    def pytest_plugin_registered(self, plugin, plugin_name):
        for option in options_of(self.parser):
            if id(option) not in self.seen:
                self.seen.add(id(option))
                known = self.found.setdefault("" if plugin_name.isdigit() else plugin_name, {})
                known[option.dest] = writes_results(option) or known.get(option.dest, False)

asking = Asking()
pytest.main(["--collect-only", "-q", "."], plugins=[asking])
with open("found.json", "w") as file:
    json.dump(asking.found, file)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bool]]:
    """By plugin: options, and whether they are recognised."""
    directory = tmp_path_factory.mktemp("asking")
    subprocess.run([sys.executable, "-c", ASKING], cwd=directory, check=False, stdout=subprocess.DEVNULL)
    answer: dict[str, dict[str, bool]] = json.loads((directory / "found.json").read_text())
    return answer


@pytest.mark.parametrize("plugin", WRITING)
def test_what_writes_results_is_recognised(found: dict[str, dict[str, bool]], plugin: str) -> None:
    assert {name for name in WRITING[plugin] if not found[plugin][name]} == set()


@pytest.mark.parametrize("plugin", KEPT)
def test_what_tests_go_by_is_kept(found: dict[str, dict[str, bool]], plugin: str) -> None:
    assert {name for name in KEPT[plugin] if found[plugin][name] or name in LISTED} == set()


def test_pytest_s_own_are_listed(found: dict[str, dict[str, bool]]) -> None:
    recognised = {name for name, writes in found[""].items() if writes}
    assert recognised - LISTED.keys() == HARMLESS


def test_what_is_listed_exists_and_is_not_recognised_anyway(found: dict[str, dict[str, bool]]) -> None:
    of_plugins = {name: writes for plugin, options in found.items() if plugin for name, writes in options.items()}
    assert LISTED.keys() <= {*of_plugins, *found[""]}
    assert {name for name in LISTED if of_plugins.get(name)} == set()


def test_reports_are_written_once_and_by_the_desk(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        def pytest_addoption(parser):
            parser.addoption("--results-dir", help="directory where results are written")
        """,
    )
    project.write(
        "test_it.py",
        """
        import json
        import logging
        import pytest

        @pytest.mark.h200x8(ranks=2, test=60)
        def test_lane(modal_h200x8, request):
            logging.getLogger().error("said by a rank")
            names = ("allure_report_dir", "htmlpath", "report_log", "json_report", "store_durations", "profile",
                     "benchmark_json", "benchmark_save", "xmlpath")
            option = request.config.option
            with open(f"options.{modal_h200x8.rank}", "w") as file:
                json.dump([option.results_dir, *(getattr(option, name) for name in names)], file)
        """,
    )
    ran = project.pytest(
        *(*LANE, "--alluredir=out/allure", "--html=out/page.html", "--report-log=out/log.jsonl"),
        *("--json-report", "--json-report-file=out/report.json", "--store-durations", "--durations-path=out/durations"),
        *("--profile", "--pstats-dir=out/prof", "--junitxml=out/junit.xml", "--log-file=out/log.txt"),
        *("-p", "benchmark", "--benchmark-json=out/bench.json", "--benchmark-save=it", "--results-dir=mine"),
    )
    assert ran.outcomes() == {"test_lane": "passed"}
    for rank in (0, 1):
        mine, *others = json.loads((project.root / f"options.{rank}").read_text())
        assert mine == "mine"
        assert not any(others)
    out = project.root / "out"
    assert [len([*out.glob(name)]) for name in ("allure/*-result.json", "page.html", "durations", "junit.xml")] == [
        1
    ] * 4
    assert json.loads((out / "report.json").read_text())["summary"] == {"passed": 1, "total": 1, "collected": 1}
    reported = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["when"] for r in reported if r["$report_type"] == "TestReport"] == ["setup", "call", "teardown"]
    assert json.loads((out / "durations").read_text())["test_it.py::test_lane"] > 0
    assert "said by a rank" not in Path(out / "log.txt").read_text()
    assert sorted(path.name for path in (out / "prof").iterdir()) == ["combined.prof", "test_lane.prof"]

"""These tests drive the client itself: it comes with the `test` extra, and without it they are left out, aloud."""

from importlib.util import find_spec

collect_ignore_glob = ["test_*.py"] if find_spec("modal") is None else []


def pytest_report_header() -> list[str]:
    left_out = "tests/modal is left out: the modal client isn't installed (pip install -e '.[test]')"
    return [left_out] if collect_ignore_glob else []

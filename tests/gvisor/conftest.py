"""The build that tests run under. A missing `runsc` fails them in CI and skips them elsewhere, with what to install."""

import os
from typing import NoReturn

import pytest

from tests.gvisor import builds
from tests.gvisor.builds import Build


def look() -> tuple[list[Build], str]:
    """The wanted builds ($RUNSC: a path or `all`), or none and why no sandbox can run."""
    try:
        builds.check_machine()
        return builds.found(), ""
    except builds.Unusable as e:
        return [], str(e)


BUILDS, WHY_NONE = look()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever needs a build runs once with each."""
    if "build" in metafunc.fixturenames:
        ids = [build.month for build in BUILDS] or ["none"]
        metafunc.parametrize("build", BUILDS or [None], ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def build(request: pytest.FixtureRequest) -> Build:
    found: Build | None = request.param
    if found is None:
        unavailable(WHY_NONE, in_ci=bool(os.environ.get("CI")))
    return found


def unavailable(why: str, *, in_ci: bool) -> NoReturn:
    """CI must not be green because it tried nothing."""
    if in_ci:
        pytest.fail(f"tests under gVisor cannot run: {why}", pytrace=False)
    pytest.skip(why)

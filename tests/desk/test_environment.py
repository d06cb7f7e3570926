"""What would break a launch is refused at the desk, by the place where it stands."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_megacpp.desk.config.lanes import read_lanes
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.run.environment import refused
from pytest_megacpp.surfaces.protocol import Place

DETAIL = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
INFO = {"TORCH_DISTRIBUTED_DEBUG": "INFO"}
SHELL = "the environment of pytest (your shell, CI, or a plugin such as pytest-env)"


def asked(
    surface: str,
    environ: Mapping[str, str],
    lane: Mapping[str, str] | None = None,
    everywhere: Mapping[str, str] | None = None,
    modal: Mapping[str, object] | None = None,
) -> str | None:
    """The place that is named, None where nothing is refused."""
    everything: dict[str, object] = {field.name: None for field in dataclasses.fields(Options)}
    everything |= {
        "lanes": read_lanes({"h200x8": {"environment": dict(lane or {})}}),
        "environment": everywhere or {},
        "project": Path("/repo"),
        "untrusted": False,
        "tables": {"modal": modal or {}},
    }
    problem = refused(Options(**everything), "h200x8", Place(surface, True, ""), environ)  # type: ignore[arg-type]
    if problem is None:
        return None
    assert (problem.code, problem.cause) == ("blocked", "environment")
    assert "Unset it or" in problem.detail
    _, _, place = problem.detail.partition(" in ")
    name, place = problem.detail.partition("=")[0], place.partition(" is refused")[0]
    assert problem.remedy == f"fix {name} in {place}, then rerun"
    return place


@pytest.mark.parametrize(
    ("surface", "environ", "tables", "place"),
    [
        ("local", DETAIL, {}, SHELL),
        ("local", {"TORCH_FR_BUFFER_SIZE": "many"}, {}, SHELL),
        ("local", INFO, {"lane": DETAIL}, "[tool.pytest_megacpp.lanes.h200x8.environment] of /repo/pyproject.toml"),
        ("local", {}, {"everywhere": DETAIL}, "[tool.pytest_megacpp.environment] of /repo/pyproject.toml"),
        ("local", DETAIL, {"everywhere": DETAIL, "lane": INFO}, None),
        ("local", INFO, {"modal": {"env": DETAIL}}, None),
        ("modal", DETAIL, {}, None),
        ("modal", {}, {"modal": {"env": DETAIL}}, "env of [tool.pytest_megacpp.modal] of /repo/pyproject.toml"),
        (
            "modal",
            DETAIL,
            {"modal": {"pass_env": ["TORCH_DISTRIBUTED_DEBUG"]}},
            f"{SHELL}, which pass_env of [tool.pytest_megacpp.modal] passes on",
        ),
    ],
)
def test_where(surface: str, environ: dict[str, str], tables: dict[str, dict[str, object]], place: str | None) -> None:
    assert asked(surface, environ, **tables) == place  # type: ignore[arg-type]

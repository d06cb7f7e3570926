"""Owns the desk's plan as a box elsewhere gets it, with that box's paths and variables; must not know a surface."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_megacpp.recording.plan import DataSet, Plan
from pytest_megacpp.surfaces.source import Layout, SourceError

PYTESTS_OWN_VARIABLES = ("PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
"""Not `PYTEST_PLUGINS`: it names modules that editors and CI systems put beside their own desk."""


def plan_elsewhere(
    plan: Plan,
    layout: Layout,
    *,
    stores: tuple[str, ...],
    image: str,
    run_s: float,
    variables: Mapping[str, str],
    data: tuple[DataSet, ...] = (),
    memory_bytes: int | None = None,
    environ: Mapping[str, str],
) -> Plan:
    """`stores` are the box's directories of seeds, `image` names what it runs in. `variables` are set beside the
    configured environment, which wins; `environ` is the desk's, of which only pytest's own variables go along. `run_s`
    bounds the run. `data` as that box finds it. `memory_bytes` is what was ordered for it.

    Raises:
        SourceError: pytest was started in, or is configured by, a place that isn't sent.
    """
    cwd = _sent(layout, plan.cwd, "pytest was started in")
    _sent(layout, os.path.join(plan.cwd, plan.root), "pytest's root directory is")
    if plan.ini:
        _sent(layout, os.path.join(plan.cwd, plan.ini), "pytest is configured by")
    pytests = {name: layout.argument(environ[name]) for name in PYTESTS_OWN_VARIABLES if environ.get(name)}
    return replace(
        plan,
        args=tuple(layout.argument(with_slashes(argument, Path(plan.cwd))) for argument in plan.args),
        cwd=cwd,
        seed=replace(plan.seed, stores=stores, image=image),
        run_s=min(plan.run_s or run_s, run_s),
        path=tuple(there for entry in plan.path if (there := layout.to_box(Path(os.path.realpath(entry)))) is not None),
        environment={**pytests, **variables, **plan.environment},
        data=data,
        memory_bytes=memory_bytes,
    )


def with_slashes(argument: str, cwd: Path, separator: str = os.sep) -> str:
    """Returns an argument of pytest with a relative path of the desk's system as the box writes it: on Windows
    `smoke_suites\\test_a.py::test_b` and `--ignore=old\\tests`. What names no file or directory below `cwd` stays.
    """
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    file, colons, test = value.partition("::")
    there = file.replace(separator, "/")
    if there == file or not (cwd / there).exists():
        return argument
    return f"{option}{equals}{there}{colons}{test}"


def _sent(layout: Layout, path: str, what: str) -> str:
    there = layout.to_box(Path(os.path.realpath(path)))
    if there is None:
        raise SourceError(
            f"{what} {path}, which isn't sent to the box: start pytest inside the project ({layout.roots[0]}), or name "
            "the directory in extra of [tool.pytest_megacpp.source]"
        )
    return there

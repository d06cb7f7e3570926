"""Owns where a launch's variables come from, to refuse what would break it before anything is started or rented; must
not know the contract's values.
"""

from collections.abc import Iterator, Mapping

from pytest_megacpp.box.host.contract import OBJECTIONS, objection, refusal
from pytest_megacpp.desk.config.lanes import ENVIRONMENT, lane_environment
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.recording.vocabulary import ProblemCode
from pytest_megacpp.surfaces.protocol import Place
from pytest_megacpp.surfaces.registry import provider


def refused(options: Options, lane: str, place: Place, environ: Mapping[str, str]) -> ProblemFound | None:
    """The first variable with a value that nothing can be launched with, and where to fix it. `environ` is the desk's.

    What only the box has (its image, secrets of Modal) the box refuses itself.
    """
    for name in OBJECTIONS:
        for given, where in _origins(options, lane, place, environ):
            if name in given:
                if (why := objection(name, given[name])) is not None:
                    detail = refusal(name, given[name], why, where)
                    return ProblemFound(
                        ProblemCode.BLOCKED, "environment", detail, f"fix {name} in {where}, then rerun"
                    )
                break
    return None


def _origins(
    options: Options, lane: str, place: Place, environ: Mapping[str, str]
) -> Iterator[tuple[Mapping[str, str], str]]:
    """Yields the variables of each origin, with where to change them. The first origin that has a variable decides."""
    file = options.project / "pyproject.toml"
    yield options.lanes[lane].environment, f"{lane_environment(lane)} of {file}"
    yield options.environment, f"{ENVIRONMENT} of {file}"
    yield from provider(place.surface, options.tables).variables(options, environ)

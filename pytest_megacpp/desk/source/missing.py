"""Owns whether a file could not be imported here because something is not installed; must not know what follows."""

import pytest

from pytest_megacpp.report.clean import one_line


def missing(error: BaseException | None) -> str:
    """Returns what is lacking here, in the words of the exception that says so; empty where a file failed otherwise.
    An OSError is a library that the loader did not find.
    """
    causes = list(_causes(error))
    if any(isinstance(one, SyntaxError) for one in causes):
        return ""
    lacking: BaseException | None = next(
        (one for one in reversed(causes) if isinstance(one, ImportError | OSError)), None
    )
    if lacking is None and _is_importorskip(error):
        lacking = error
    return one_line(str(lacking), 160) if lacking is not None else ""


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or getattr(error, "cause", None)
    return found


def _is_importorskip(error: BaseException | None) -> bool:
    if not isinstance(error, pytest.skip.Exception):
        return False
    at, names = error.__traceback__, []
    while at is not None:
        names.append(at.tb_frame.f_code.co_name)
        at = at.tb_next
    return names[-1:] == ["importorskip"]

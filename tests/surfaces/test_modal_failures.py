"""What each failure of Modal's client comes to: by the names of its exceptions, so that these tests need no client."""

import re
from pathlib import Path

import pytest

from pytest_megacpp.recording.events import ProblemFound
from pytest_megacpp.surfaces.modal import failures
from pytest_megacpp.surfaces.modal.failures import CallTimeout, gone, surface_error

DOCS = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")


def raised(name: str, text: str) -> Exception:
    """An exception of a class of this name, two steps below Exception as the client's are."""
    made = type(name, (type("Error", (Exception,), {}),), {})(text)
    assert isinstance(made, Exception)
    return made


@pytest.mark.parametrize(
    ("name", "text", "code", "cause"),
    [
        ("AuthError", "Token missing", "blocked", "credentials"),
        ("PermissionDeniedError", "not yours", "blocked", "credentials"),
        ("ConnectionError", "Could not connect", "blocked", "unreachable"),
        ("ImageBuildError", "Image build for im-1 failed.", "environment", "image-build"),
        ("ResourceExhaustedError", "Insufficient capacity to create sandbox.", "blocked", "capacity"),
        ("ResourceExhaustedError", "the workspace's limit is 4 GPUs", "blocked", "quota"),
        ("ConflictError", "the spend limit is reached", "blocked", "refused"),
        ("AlreadyExistsError", "name in use", "blocked", "duplicate-name"),
        ("NotFoundError", "Secret 'x' not found", "blocked", "not-found"),
        ("InvalidError", "timeout must be positive", "blocked", "refused"),
        ("UnimplementedError", "SandboxCreateV9", "blocked", "client-version"),
        ("SomethingNewError", "who knows", "environment", "surface"),
    ],
)
def test_an_exception_has_a_code_a_cause_and_a_remedy(name: str, text: str, code: str, cause: str) -> None:
    problem = surface_error(raised(name, text)).problem
    assert (problem.code, problem.cause) == (code, cause)
    assert text in problem.detail
    assert problem.remedy


def test_a_subclass_means_what_its_base_means() -> None:
    refused = type("ServiceUnavailable", (type("ServiceError", (Exception,), {}),), {})("503")
    assert surface_error(refused).problem.cause == "unreachable"


@pytest.mark.parametrize(
    ("what", "code", "cause", "setting"),
    [
        ("the machine", "blocked", "capacity", "capacity_s"),
        ("the image", "environment", "image-build", "image"),
        ("Modal", "blocked", "unreachable", "network"),
    ],
)
def test_what_came_too_late(what: str, code: str, cause: str, setting: str) -> None:
    problem = surface_error(CallTimeout(what, 600)).problem
    assert (problem.code, problem.cause) == (code, cause)
    assert "600 s" in problem.detail
    assert setting in problem.remedy


def test_the_last_lines_of_a_build_are_shown() -> None:
    problem = surface_error(raised("ImageBuildError", "it failed"), "step 3\nERROR: no such package\n").problem
    assert problem.detail == "the image could not be built: step 3 / ERROR: no such package"


@pytest.mark.parametrize(
    ("ending", "code", "recorded", "cause"),
    [
        ("timeout", 124, True, "sandbox-timeout"),
        ("terminated", 137, True, "terminated"),
        ("exit", 137, True, "killed"),
        ("exit", 137, False, "killed"),
        ("exit", 1, True, "cut-off"),
    ],
)
def test_how_a_sandbox_went(ending: str, code: int, recorded: bool, cause: str) -> None:
    assert (gone(ending, code, "", recorded=recorded).code, gone(ending, code, "", recorded=recorded).cause) == (
        "box-lost",
        cause,
    )


def test_a_box_that_never_spoke_is_the_image_s_fault() -> None:
    problem = gone("exit", 127, "sh: python: not found\n", recorded=False)
    assert (problem.code, problem.cause) == ("environment", "image")
    assert "python: not found" in problem.detail


def test_only_what_may_pass_is_tried_again() -> None:
    assert failures.is_transient(ConnectionResetError())
    assert failures.is_transient(CallTimeout("x", 1))
    assert failures.is_transient(raised("StreamTerminatedError", ""))
    assert not failures.is_transient(raised("AuthError", ""))
    assert not failures.is_transient(ValueError())


def all_problems() -> list[ProblemFound]:
    known = [surface_error(raised(name, "capacity")).problem for name in failures._BY_CLASS]
    known += [surface_error(CallTimeout(what, 1)).problem for what in ("the machine", "the image", "x")]
    known += [gone(e, c, "", recorded=r) for e, c, r in (("timeout", 1, True), ("terminated", 1, True))]
    known += [gone("exit", c, "", recorded=r) for c, r in ((137, True), (1, True), (1, False))]
    known += [surface_error(raised("ResourceExhaustedError", "")).problem, surface_error(raised("Other", "")).problem]
    return [*known, failures.no_client().problem, failures.unreachable_box("r", 1, 60), failures.given_up(OSError())]


@pytest.mark.parametrize("problem", all_problems(), ids=lambda p: f"{p.code}-{p.cause}")
def test_every_cause_is_documented_under_its_code(problem: ProblemFound) -> None:
    section = re.search(rf"^## `{problem.code}`$(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(rf"^\|[^|]*`{problem.cause}`", section[1], re.MULTILINE), problem.cause

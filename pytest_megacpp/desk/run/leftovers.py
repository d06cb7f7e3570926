"""Owns what becomes of the files of a run whose box has ended, or whose desk died: secrets go, and `run.json` says what
receipts say. Must not know how somebody finds out that a run is dead, nor touch one that isn't.

Whatever is done here can be cut off and done again: logs are replaced whole, and the plan, which may name secrets that
nobody else knows any more, goes last.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from pytest_megacpp.box.logs.redaction import redact_file
from pytest_megacpp.box.logs.size import shorten
from pytest_megacpp.judge.verdicts import Outcome
from pytest_megacpp.recording.redact import Redactor
from pytest_megacpp.report.receipt import receipt_names
from pytest_megacpp.report.run_json import counts

PLAN = "plan.json"
BOX_LOG = "box.log"


def clean(run: Path, redactor: Redactor, *, cut_off: bool = True) -> str | None:
    """Takes secrets out of what a box wrote that has ended, unless it did so itself; one that was `cut_off` could not.
    Returns a problem.
    """
    logs = (run / BOX_LOG, *(run.glob("ranks/*/*/*.log") if cut_off else ()))
    unclean = [log for log in logs if not _is_clean(log, redactor)]
    try:
        for name in (PLAN, f"{PLAN}.tmp") if cut_off else ():
            (run / name).unlink(missing_ok=True)
    except OSError:
        unclean.append(run / PLAN)
    return f"secrets may be left in {unclean[0]}, which can't be rewritten" if unclean else None


def _is_clean(log: Path, redactor: Redactor) -> bool:
    try:
        log.with_name(f"{log.name}.tmp").unlink(missing_ok=True)  # of somebody who was killed at this
    except OSError:
        return False
    shorten(str(log))
    return redact_file(str(log), redactor) or not log.exists()


def known_secrets(run: Path) -> Redactor:
    """What can be known by now of the secrets of a desk that died: this environment, and the plan's as long as the box
    hadn't taken them out of it.
    """
    return Redactor({**os.environ, **_environment(run / PLAN)})


def _environment(plan: Path) -> dict[str, str]:
    """The configured variables of a plan, of which a dead desk may have written half."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        document = json.loads(plan.read_bytes())
        found = document.get("environment") if isinstance(document, dict) else None
        if isinstance(found, dict):
            return {str(name): value for name, value in found.items() if isinstance(value, str)}
    return {}


def with_receipts(run: Path, document: dict[str, Any]) -> dict[str, Any]:
    """A `run.json` that its desk couldn't finish, with what the receipts say that it had written."""
    tests = document.get("tests")
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        return document
    names = receipt_names(str(test.get("nodeid")) for test in tests)
    told = [test | _told(run, f"receipts/{name}", test) for test, name in zip(tests, names, strict=True)]
    outcomes = [Outcome(test["outcome"]) for test in told if test.get("outcome") in list(Outcome)]
    return document | {"tests": told, "counts": counts(outcomes, len(told))}


def _told(run: Path, name: str, test: dict[str, Any]) -> dict[str, Any]:
    try:
        receipt = json.loads((run / name).read_bytes())
        outcome, code = Outcome(receipt["outcome"]), receipt["verdict"]["code"]
        cost = receipt.get("cost", test.get("cost"))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}
    return {"outcome": str(outcome), "verdict": code, "receipt": name, "cost": cost}

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
    """Removes secrets from the files of an ended box, unless it did so itself; a box that was `cut_off` could not.
    Returns a problem, or None.
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
        log.with_name(f"{log.name}.tmp").unlink(missing_ok=True)  # left by a process that was killed here
    except OSError:
        return False
    shorten(str(log))
    return redact_file(str(log), redactor) or not log.exists()


def known_secrets(run: Path) -> Redactor:
    """Returns the secrets of a desk that died, as far as they are still known: those of this environment, and those of
    the plan unless the box had removed them.
    """
    return Redactor({**os.environ, **_environment(run / PLAN)})


def _environment(plan: Path) -> dict[str, str]:
    """Returns the configured variables of a plan, which a dead desk may have written only in part."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        document = json.loads(plan.read_bytes())
        found = document.get("environment") if isinstance(document, dict) else None
        if isinstance(found, dict):
            return {str(name): value for name, value in found.items() if isinstance(value, str)}
    return {}


def with_receipts(run: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Returns a `run.json` that its desk could not finish, completed from the receipts that the desk had written."""
    tests = document.get("tests")
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        return document
    names = receipt_names(str(test.get("nodeid")) for test in tests)
    results = [test | _result(run, f"receipts/{name}", test) for test, name in zip(tests, names, strict=True)]
    outcomes = [Outcome(test["outcome"]) for test in results if test.get("outcome") in list(Outcome)]
    return document | {"tests": results, "counts": counts(outcomes, len(results))}


def _result(run: Path, name: str, test: dict[str, Any]) -> dict[str, Any]:
    """Returns what the receipt `name` adds to a test of `run.json`, empty without a valid receipt."""
    try:
        receipt = json.loads((run / name).read_bytes())
        outcome, code = Outcome(receipt["outcome"]), receipt["verdict"]["code"]
        cost = receipt.get("cost", test.get("cost"))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}
    return {"outcome": str(outcome), "verdict": code, "receipt": name, "cost": cost}

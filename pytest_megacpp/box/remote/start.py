"""Owns the first lines of a box in somebody's image; must parse and run under any Python 3.

`python3 …/pytest_megacpp/box/remote/start.py MODULE ARGUMENTS…` runs a module of `pytest_megacpp.box`. Run as a file,
it needs nothing installed and no variable set, and what it starts finds the package, whatever the image says. A Python
that is too old for the rest is reported in the recording, as every other problem of a box is, and on standard output
for desks that can't read the recording's file.
"""

import importlib
import json
import os
import sys
import time

OLDEST_PYTHON = (3, 11)
RUN_THE_PLAN = ("__main__", "remote.lease")  # their first arguments are the plan and the directory of the run


def main(module: str, *arguments: str) -> int:
    package_root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
    sys.path[0] = package_root
    paths = [package_root] + [
        p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in ("", package_root)
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    if sys.version_info[:2] >= OLDEST_PYTHON:
        code = importlib.import_module("pytest_megacpp.box." + module).main(*arguments)
        return int(code or 0)
    if module in RUN_THE_PLAN:
        refuse(arguments[0], arguments[1], sys.version.split()[0])
    return os.EX_UNAVAILABLE


def refuse(plan_path: str, directory: str, python: str) -> None:
    """Writes the recording of a run that can't begin."""
    with open(plan_path, encoding="utf-8") as file:
        plan = json.load(file)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    started = {name: plan[name] for name in ("run_id", "lane", "surface", "dry_run", "ranks", "cwd")}
    started.update(started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), tests=len(plan["tests"]))
    facts = [dict(started, kind="run-started")]
    for index, test in enumerate(plan["tests"]):
        facts.append({"kind": "test-planned", "test": index, "nodeid": test["nodeid"], "ranks": test["ranks"]})
    detail = "the image's Python is {0}, ranks need {1} or newer: choose an image with it, or set add_python"
    facts += [
        {"kind": "box-ready", "versions": {"python": python}, "facts": {}},
        {"kind": "problem-found", "code": "environment", "cause": "python", "detail": detail.format(python, oldest)},
        {"kind": "run-finished", "reason": "refused"},
    ]
    if not os.path.isdir(directory):
        os.makedirs(directory)
    with open(os.path.join(directory, "recording.jsonl"), "w", encoding="utf-8") as recording:
        for seq, fact in enumerate(facts):
            stamp = {"v": 1, "run": plan["run_id"], "world": "", "src": "box", "seq": seq, "t": 0.0}
            line = json.dumps(dict(stamp, **fact)) + "\n"
            recording.write(line)
            sys.stdout.write(line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Owns the directory of a *joint run*: a lane's tests on several boxes, each of which has a run of its own beside it.
Must not know how tests are dealt or what they come to.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_megacpp.desk.run.directory import RUN_JSON, RunDirectory, read_run_json
from pytest_megacpp.report.joint_run import joint_json


class JointRun:
    """The joint run while its session lasts. `nodeids` are those of all its tests as the desk selected them, spelt as
    they are recorded, in the session's order.
    """

    def __init__(self, directory: RunDirectory, nodeids: Sequence[str], parts: Sequence[str]) -> None:
        self._directory = directory
        self._nodeids = nodeids
        self._parts = parts

    @property
    def name(self) -> str:
        return f"runs/{self._directory.run_id}/{RUN_JSON}"

    def write(self) -> None:
        """Its `run.json`, of what those of the boxes say by now. Raises OSError."""
        documents = documents_of(self._directory.path, self._parts)
        self._directory.write_json(RUN_JSON, joint_json(self._directory.run_id, self._nodeids, documents))

    def close(self) -> None:
        """Writes it for the last time and lets go of the directory. Raises OSError."""
        try:
            self.write()
        finally:
            self._directory.close()


def parts_of(document: Mapping[str, Any]) -> list[str]:
    """The ids of the runs of which a `run.json`, whoever wrote it, is the joint one; empty for any other."""
    boxes = document.get("boxes")
    return [box for box in boxes if isinstance(box, str) and Path(box).name == box] if isinstance(boxes, list) else []


def documents_of(run: Path, parts: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What the `run.json` of each box's run says, by its id; empty where there is none."""
    return {part: read_run_json(run.parent / part) or {} for part in parts}


def completed(run: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """A joint `run.json` that its desk could not finish, made again of those of the boxes."""
    tests = document.get("tests")
    nodeids = [str(test.get("nodeid")) for test in tests if isinstance(test, dict)] if isinstance(tests, list) else []
    return joint_json(run.name, nodeids, documents_of(run, parts_of(document)))

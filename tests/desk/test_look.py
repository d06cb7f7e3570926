"""What is printed of a `run.json` that anybody may have written."""

import json
from pathlib import Path

import pytest

from pytest_megacpp.desk.look import gate_alone

RUN = "20261130-120000-0a0b"


@pytest.mark.parametrize("odd", [5, "all", {"a": 1}, [[1], 2], None])
def test_a_gate_of_any_shape_is_shown(tmp_path: Path, odd: object) -> None:
    run = tmp_path / "runs" / RUN
    run.mkdir(parents=True)
    gate = {"since": "main", "rules": odd, "complaints": odd, "why": odd}
    for told in (gate, gate | {"rules": [{"name": "kernels", "triggered": True, "why": odd}]}):
        (run / "run.json").write_text(json.dumps({"status": "failed", "gate": told}))
        shown = gate_alone(tmp_path, RUN)
        assert shown is not None
        assert any("nothing was started" in line for line in shown.lines)

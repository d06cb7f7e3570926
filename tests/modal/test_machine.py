"""The machine that is asked for: its runtime, what it says of itself, and that its end is waited for."""

import json
from pathlib import Path

import modal
import pytest

from pytest_megacpp.surfaces.modal import client
from pytest_megacpp.surfaces.modal.client import Runtime, runtime
from pytest_megacpp.surfaces.modal.config import RUNTIME_VARIABLE, RUNTIMES
from tests.modal.test_desk import LANE, SETTINGS, Site, site
from tests.modal_emulator import Emulator

__all__ = ["site"]
QUICK = """
    import pytest

    @pytest.mark.h200x8(ranks=1)
    def test_quick(modal_h200x8):
        pass
"""


@pytest.mark.parametrize(
    ("asked", "theirs", "name"),
    [
        (None, None, None),
        ("vm", None, "vm"),
        (None, "runc", "gvisor"),
        ("vm", "gvisor", "vm"),
        ("gvisor", "gvisor", "gvisor"),
    ],
)
def test_a_runtime_is_never_inherited(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, theirs: str | None, name: str | None
) -> None:
    monkeypatch.delenv(RUNTIME_VARIABLE, raising=False)
    if theirs is not None:
        monkeypatch.setenv(RUNTIME_VARIABLE, theirs)
    chosen = runtime(asked)
    assert chosen.name == name
    assert bool(chosen.notice) == (theirs not in (None, asked))
    assert theirs is None or f"{RUNTIME_VARIABLE}={theirs}" in chosen.notice or theirs == asked
    assert modal.config.config.get("function_runtime") == theirs, "others in this process keep it"


def test_a_client_without_that_setting_passes_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modal.config, "config", {})
    assert runtime(None) == Runtime(None)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_client_knows_the_runtimes(name: str) -> None:
    from modal.sandbox._common import _validate_sandbox_runtime

    _validate_sandbox_runtime(name)  # type: ignore[arg-type]


def test_what_the_desk_s_client_is_set_to_does_not_count(site: Site) -> None:
    """It is named, nothing is taken from it, and `run.json` has what the machine itself says."""
    site.write("pyproject.toml", SETTINGS + '    region = "us-east"\n')
    site.write("test_it.py", QUICK)
    with site.start(*LANE, env={**site.emulator.environment, RUNTIME_VARIABLE: "runc"}) as desk:
        assert desk.wait() == pytest.ExitCode.OK, desk.text
        document = desk._run_json()
    assert site.sandbox.definition.runtime == "gvisor"
    assert f"megacpp: runtime gvisor; this desk's {RUNTIME_VARIABLE}=runc is ignored for the sandbox" in desk.text
    assert "preemptible because of region: Modal may end it at any time" in desk.text
    assert document is not None
    assert document["machine"] == {
        "sandbox": site.sandbox.id,
        "task": site.sandbox.task_id,
        "image": site.sandbox.definition.image_id,
        "cloud": "CLOUD_PROVIDER_EMULATED",
        "region": "us-east",
        "runtime": "gvisor",
    }
    assert "as-emulated" not in json.dumps(document), "no token"


def sandbox(emulator: Emulator) -> modal.Sandbox:
    app = modal.App.lookup("ends", create_if_missing=True)
    return modal.Sandbox.create("sleep", "600", app=app, image=modal.Image.debian_slim(), timeout=600)


def test_an_end_is_waited_for(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults.end_s = 1.0
    rented = sandbox(emulator)
    assert client.terminate(rented)
    assert emulator.sandboxes[0].result is not None
    assert client.terminate(rented), "ending what has ended is no mistake"


def test_an_end_is_not_waited_for_without_end(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.faults.end_s = 30.0
    monkeypatch.setattr(client, "ENDED_S", 0.5)
    rented = sandbox(emulator)
    assert not client.terminate(rented)
    assert emulator.sandboxes[0].result is None, "it had not ended when the wait was over"

"""Where lanes run: what was asked for, credentials, devices; never degraded in silence."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_megacpp.desk.config.lanes import read_lanes
from pytest_megacpp.desk.config.options import Options
from pytest_megacpp.desk.run import launch
from pytest_megacpp.desk.run.launch import choose_place
from pytest_megacpp.surfaces.local.surface import LocalSurface
from pytest_megacpp.surfaces.modal import credentials
from pytest_megacpp.surfaces.protocol import Place
from pytest_megacpp.surfaces.registry import provider

TOKEN = {"MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": "as-1"}


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is installed here doesn't matter."""
    monkeypatch.setattr(credentials, "find_spec", lambda name: object())


def options(**asked: object) -> Options:
    everything: dict[str, object] = {field.name: None for field in dataclasses.fields(Options)} | {"boxes": 1}
    everything |= {"surface": "auto", "dry_run": False, "untrusted": False, "detach": False, "lanes": read_lanes({})}
    everything |= {"tables": {}}
    return Options(**(everything | asked))  # type: ignore[arg-type]


def place(environ: dict[str, str], devices: int = 0, **asked: object) -> Place:
    return choose_place(options(**asked), {"HOME": "/nowhere"} | environ, lambda: devices)


@pytest.mark.parametrize(
    ("environ", "devices", "asked", "surface", "dry_run"),
    [
        ({}, 0, {}, "local", True),
        ({}, 8, {}, "local", False),
        ({}, 8, {"dry_run": True}, "local", True),
        (TOKEN, 0, {}, "modal", False),
        (TOKEN, 8, {}, "modal", False),
        (TOKEN, 0, {"dry_run": True}, "modal", True),
        (TOKEN | {"CI": "true"}, 0, {}, "modal", False),
        (TOKEN, 0, {"surface": "local"}, "local", True),
        ({}, 8, {"surface": "modal"}, "modal", False),
        ({"CI": "true"}, 0, {"dry_run": True}, "local", True),
        ({"CI": "true"}, 8, {"surface": "local"}, "local", False),
    ],
)
def test_where(environ: dict[str, str], devices: int, asked: dict[str, Any], surface: str, dry_run: bool) -> None:
    chosen = place(environ, devices, **asked)
    assert (chosen.surface, chosen.dry_run) == (surface, dry_run)


@pytest.mark.parametrize(
    ("environ", "asked", "answer"),
    [
        ({"CI": "true"}, {}, "a gate never falls back to a dry run silently"),
        ({"CI": "true"}, {"surface": "local"}, "under CI nothing falls back to a dry run silently"),
        ({}, {"surface": "local", "detach": True}, "pass --surface modal"),
        ({}, {"detach": True}, "pass --surface modal"),
        ({}, {"untrusted": True}, "must run on an isolated machine"),
    ],
)
def test_refusals(environ: dict[str, str], asked: dict[str, Any], answer: str) -> None:
    with pytest.raises(pytest.UsageError, match=answer):
        place(environ, **asked)


@pytest.mark.parametrize(
    ("config", "dry_run", "said"),
    [
        ({}, True, "runtime chosen by Modal (gVisor by default); not preemptible"),
        ({}, False, "preemptible because of a GPU: Modal may end it at any time"),
        ({"region": "us-east"}, True, "preemptible because of region: Modal may end it at any time"),
        ({"region": "us-east", "cloud": "oci"}, False, "preemptible because of a GPU, region and cloud"),
        ({"runtime": "gvisor"}, False, "sandbox: runtime gvisor; preemptible"),
        ({"runtime": "vm"}, True, "signals to a process group do nothing on the vm runtime"),
    ],
)
def test_what_is_said_of_a_rented_machine(config: dict[str, str], dry_run: bool, said: str) -> None:
    chosen = place(TOKEN, tables={"modal": config}, dry_run=dry_run)
    assert said in "\n".join(chosen.details)


def test_the_vm_runtime_has_no_gpus() -> None:
    with pytest.raises(pytest.UsageError, match=r'runtime = "vm" .* has no GPUs: remove it or say "gvisor"'):
        place(TOKEN, tables={"modal": {"runtime": "vm"}})


def test_devices_are_not_looked_for_on_the_way_to_modal() -> None:
    def look() -> int:
        raise AssertionError("nvidia-smi costs time")

    assert choose_place(options(surface="modal"), {}, look).surface == "modal"


def test_the_local_surface() -> None:
    assert isinstance(provider("local").surface(options(), {}), LocalSurface)


def test_a_token_in_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "modal.toml"
    environ = {"MODAL_CONFIG_PATH": str(file)}
    assert not credentials.configured(environ)
    file.write_text('[default]\ntoken_id = "ak-1"\ntoken_secret = "as-1"\n')
    assert credentials.configured(environ)


def test_half_a_token_is_none() -> None:
    assert not credentials.configured({"HOME": "/nowhere", "MODAL_TOKEN_ID": "ak-1"})


def test_a_token_without_the_client_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "find_spec", lambda name: None)
    assert not credentials.configured(TOKEN)


def test_more_tests_than_a_run_holds_are_refused_at_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "MAX_TESTS", 1)
    items = [request.node, request.node]
    with pytest.raises(
        pytest.UsageError, match="2 tests are marked h200x8, and a run can have at most 1: select fewer"
    ):
        launch.select(items, "h200x8", lambda item: None, lambda item: False)
    assert len(launch.select(items[:1], "h200x8", lambda item: None, lambda item: False)) == 1

"""What a rented machine says of itself: the named variables only, and only where it is one."""

import pytest

from pytest_megacpp.box.gpus.devices import DeviceList
from pytest_megacpp.box.host.rented import machine
from pytest_megacpp.box.host.survey import Survey

CONTAINER = {
    "MODAL_SANDBOX_ID": "sb-1",
    "MODAL_TASK_ID": "ta-1",
    "MODAL_IMAGE_ID": "im-1",
    "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_OCI",
    "MODAL_REGION": "us-ashburn-1",
    "MODAL_FUNCTION_RUNTIME": "gvisor",
}


def test_a_container_of_modal() -> None:
    said = machine(CONTAINER | {"MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": "as-1", "MODAL_IDENTITY_TOKEN": "x"})
    assert said == {
        "sandbox": "sb-1",
        "task": "ta-1",
        "image": "im-1",
        "cloud": "CLOUD_PROVIDER_OCI",
        "region": "us-ashburn-1",
        "runtime": "gvisor",
    }


def test_what_is_not_reported_is_none() -> None:
    said = machine({"MODAL_TASK_ID": "ta-1", "MODAL_REGION": "", "MODAL_IMAGE_ID": "i" * 9_999})
    assert (said["task"], said["region"], said["runtime"]) == ("ta-1", None, None)
    assert said["image"] is None  # half a word is none


def test_a_desk_with_a_setting_for_its_client_is_no_container() -> None:
    assert machine({"MODAL_FUNCTION_RUNTIME": "runc", "MODAL_IMAGE_ID": "im-1", "MODAL_TOKEN_ID": "ak-1"}) == {}


def test_it_is_among_the_facts_of_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    survey = Survey({}, {"cpus": 2}, DeviceList())
    for name in CONTAINER:
        monkeypatch.delenv(name, raising=False)
    assert survey.all_facts() == {"cpus": 2}
    for name, value in CONTAINER.items():
        monkeypatch.setenv(name, value)
    assert survey.all_facts() == {"cpus": 2, "machine": machine(CONTAINER)}

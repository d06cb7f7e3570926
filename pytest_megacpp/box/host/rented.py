"""Owns what a rented machine says of itself in its environment; must not know who rented it, or any secret.

Only the variables of the table are read; Modal sets them in every container.
"""

from collections.abc import Mapping

from pytest_megacpp.recording.events import Json
from pytest_megacpp.recording.texts import beginning

VARIABLES = {
    "sandbox": "MODAL_SANDBOX_ID",
    "task": "MODAL_TASK_ID",
    "image": "MODAL_IMAGE_ID",
    "cloud": "MODAL_CLOUD_PROVIDER",
    "region": "MODAL_REGION",
    "runtime": "MODAL_FUNCTION_RUNTIME",
}
_MARKS = ("MODAL_SANDBOX_ID", "MODAL_TASK_ID")  # a desk may have the others for its own client
MAX_CHARS = 200


def machine(environ: Mapping[str, str]) -> dict[str, Json]:
    """Returns the machine by the names of `VARIABLES`, None for what is not reported; empty when it is not a rented
    one.
    """
    if not any(environ.get(mark) for mark in _MARKS):
        return {}
    return {name: beginning(environ.get(variable) or "", MAX_CHARS) or None for name, variable in VARIABLES.items()}

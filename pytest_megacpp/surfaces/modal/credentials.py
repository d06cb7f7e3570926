"""Owns whether this desk has credentials for Modal, without the client: `auto` asks in every session of lanes."""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def configured(environ: Mapping[str, str]) -> bool:
    """Whether the client is installed and would find a token: in the environment, else in its configuration file."""
    if find_spec("modal") is None:
        return False
    if environ.get("MODAL_TOKEN_ID") and environ.get("MODAL_TOKEN_SECRET"):
        return True
    home = (environ.get("HOME") if sys.platform != "win32" else "") or os.path.expanduser("~")
    file = Path(environ.get("MODAL_CONFIG_PATH") or f"{home}/.modal.toml")
    try:
        return b"token_secret" in file.read_bytes()
    except OSError:
        return False

"""Owns where files lie that runs and projects of a user share; must not know what is in them."""

import os
from pathlib import Path


def user_cache_dir() -> Path:
    """What runs and projects of a user share."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "pytest-megacpp"

"""Owns where files lie that runs and projects of a user share; must not know what is in them."""

from pathlib import Path


def user_cache_dir() -> Path:
    """What runs and projects of a user share, where the system keeps such files: `~/.cache/pytest-megacpp` on Linux."""
    from platformdirs import user_cache_path  # not needed by ranks, which load this plugin, too

    return user_cache_path("pytest-megacpp", appauthor=False)

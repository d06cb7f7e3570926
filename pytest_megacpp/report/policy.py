"""Owns how a page names its own script and style in its Content-Security-Policy; must not know a page."""

import base64
import hashlib


def source(text: str) -> str:
    """The source expression that allows an element with just this text: `sha256-…`."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

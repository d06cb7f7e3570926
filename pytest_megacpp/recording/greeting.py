"""Owns the first bytes of a connection from a rank to its box: a secret and what the connection is for; must not know
sockets or what is said afterwards.

The secret, not the kernel's peer credentials, says which rank connects: gVisor names the wrong process before 2025-11.
It reaches a rank in its environment, which the rank clears before any code of the user's runs, and opens each channel
once. So neither a child of the rank nor a stranger can speak for it.
"""

import hmac
import secrets
from enum import StrEnum

TOKEN_BYTES = 32
GREETING_BYTES = TOKEN_BYTES + 2


class Channel(StrEnum):
    """What a connection is for, in one letter."""

    FACTS = "F"
    CRASH = "C"


def new_token() -> str:
    """Returns a secret for one rank, `TOKEN_BYTES` hexadecimal digits."""
    return secrets.token_hex(TOKEN_BYTES // 2)


def greeting(token: str, channel: Channel) -> bytes:
    """Returns the `GREETING_BYTES` that open a channel."""
    return f"{token}{channel}\n".encode("ascii")


def opened_by(data: bytes, token: str) -> Channel | None:
    """Returns the channel that these bytes open with this secret, or None."""
    return next((c for c in Channel if hmac.compare_digest(data, greeting(token, c))), None)

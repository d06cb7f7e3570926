"""Owns which names are those of credentials: variables', and names that something is assigned to in a text. Must not
know what becomes of a secret.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from pytest_megacpp.recording.secret_shapes import looks_random

MIN_SECRET_CHARS = 6
MAX_QUOTED_CHARS = 4096

_STRONG = (
    r"PASSWORDS?|PASSWD|PASSPHRASE|SECRETS?|API_?KEYS?"
    r"|(?:PRIVATE|ACCESS|SECRET|ACCOUNT|SIGNING|ENCRYPTION|DEPLOY|MASTER)_?KEY"
)
_OFTEN = rf"{_STRONG}|TOKEN|CREDENTIALS?|AUTHORIZATION"
_LAST = (
    r"(?:^|_)(?:PASS|PAT|AUTH|AUTH_CONFIG|CREDS?|JWT|DSN|COOKIES?|WEBHOOK(?:_URL)?"
    r"|(?:SSH|APP|SERVICE|CLIENT|SESSION|SHARED|LICEN[CS]E|VAULT|INGEST|WRITE)_KEY)|_PWD|CONNECTION_?STRING"
)
_CREDENTIAL_NAME = re.compile(rf"(?:{_OFTEN})\d*(?:_|$)|(?:{_LAST})(?:_?\d+)?$", re.IGNORECASE)
_STRONG_NAME = re.compile(rf"(?:{_STRONG})\d*$", re.IGNORECASE)
_ASSIGNED_NAME = re.compile(rf"(?:{_OFTEN}|{_LAST})\d*$", re.IGNORECASE)
_LOCATION_NAME = re.compile(r"(?:FILE|PATH|DIR|HOME|SOCK|(?<!WEBHOOK_)URL|CREDENTIALS)$", re.IGNORECASE)
_LOCATION = re.compile(r"~?/|\./|[A-Za-z]:\\|https?://")
_TRIVIAL = frozenset({"", "true", "false", "yes", "no", "on", "off", "none", "null", "default", "enabled", "disabled"})


def is_credential(name: str, value: str) -> bool:
    """Whether a variable holds a secret: named like a credential, and neither a switch nor a place."""
    if not _CREDENTIAL_NAME.search(name) or value.lower() in _TRIVIAL:
        return False
    if value.startswith("<") and value.endswith(">"):  # EOS_TOKEN=<|endoftext|>
        return False
    return not (_LOCATION_NAME.search(name) and _LOCATION.match(value))


_ASSIGNMENT = re.compile(
    r"""(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]++)\\*+["']?\]?\s{0,3}(?P<by>={1,3}|:(?![:/])|=>)\s{0,3}"""
    r"""(?P<quote>\\*+["'])?+"""
)
_BARE = re.compile(r"""[^\s"'`<>(){}\[\],;&|\\]{0,128}+""")
_BARE_REST = re.compile(_BARE.pattern.replace("{0,128}", "*"))


@lru_cache(4096)
def _may_be_assigned(name: str) -> bool:
    """`password`, `clientSecret`, `aws.secret-access-key`; not `max_tokens`, `token_type_ids`."""
    return _ASSIGNED_NAME.search(_underlined(name)) is not None


def _underlined(name: str) -> str:
    return name.replace("-", "_").replace(".", "_")


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a text assigns to a name like a credential's: its place, and whether it can only be a secret."""

    start: int
    end: int
    value: str
    secret: bool


def assignments(text: str) -> Iterator[Assigned]:
    """What is assigned in a text to names of credentials, from left to right. A secret begins no other assignment."""
    end = 0
    for match in _ASSIGNMENT.finditer(text):
        if match.start() >= end and _may_be_assigned(match["name"]):
            value = _value(text, match)
            found = Assigned(match.end(), match.end() + len(value), value, _is_secret(match, value))
            if found.secret:
                end = _end_of_word(text, found.end)
                found = replace(found, end=end)
            yield found


def _end_of_word(text: str, start: int) -> int:
    rest = _BARE_REST.match(text, start)
    return rest.end() if rest is not None else start


def _value(text: str, match: re.Match[str]) -> str:
    """What is assigned: up to the quote that it began with, else the next word."""
    start, quote = match.end(), match["quote"]
    if quote is not None:
        end = text.find(quote, start, start + MAX_QUOTED_CHARS)
        if end >= 0 and "\n" not in (quoted := text[start:end]):
            return quoted
    bare = _BARE.match(text, start)
    assert bare is not None
    return "" if text[bare.end() : bare.end() + 1] in ("(", "[") else bare[0]  # code


def _is_secret(match: re.Match[str], value: str) -> bool:
    """Whether what is assigned to a name in a text is a secret, and no code, word or place.

    A line of an environment (`DB_PASSWORD=…`) is believed; where anything may stand (`token: …`) it must look drawn.
    """
    name = _underlined(match["name"])
    if (
        len(value) < MIN_SECRET_CHARS
        or not is_credential(name, value)
        or _LOCATION.match(value)
        or value[0] in "<$%{[("
    ):
        return False
    if name.isupper() and match["by"] == "=" and match.end("by") == match.end() - len(match["quote"] or ""):
        return True
    if not _STRONG_NAME.search(name):
        return looks_random(value)
    has_both = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return match["quote"] is not None or has_both

"""Owns the removal of secrets from texts; must not know what a text is for or where it is written.

A secret is a text of a known shape (tokens, passwords in URLs, private keys), or the value of an environment
variable that is named like a credential. Every pattern is linear in the text: a start never scans what
another start scans again. `text` applied to its own result changes nothing, because

* placeholders are cut out first and never looked into;
* a shape that needs a left boundary can't get one from a later pass: tokens always end where letters and
  digits end.

Redact before anything cuts, escapes or encodes a text: half a secret has no shape.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import quote

MIN_SECRET_CHARS = 6
MIN_SECRET_DIGITS = 8
MIN_SECRET_LINE_CHARS = 16
MIN_JWT_HEADER_CHARS = 15
MIN_JWT_BODY_CHARS = 4

Keep = Callable[[re.Match[str]], bool]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A secret is the group `secret` of the pattern, or all of it; `keep` tells a harmless match."""

    kind: str
    pattern: re.Pattern[str]
    keep: Keep | None = None


def _has_no_digit(match: re.Match[str]) -> bool:
    return not any("0" <= c <= "9" for c in match[0])


def _is_no_jwt(match: re.Match[str]) -> bool:
    parts = match[0].split(".")
    return not any(
        len(head) - head.find("eyJ") >= MIN_JWT_HEADER_CHARS and len(body) >= MIN_JWT_BODY_CHARS
        for head, body in itertools.pairwise(parts)
        if "eyJ" in head
    )


_LEFT = r"(?<![A-Za-z0-9])"

_BLOCKS = (
    _Shape(
        "private-key",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-]*+(?:-(?!----)[^-]*+)*+-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"|(?:\s|\\[nr]|[A-Za-z0-9+/=]{16,})*+)"
        ),
    ),
    _Shape("url-password", re.compile(r"""://[^\s/?#:@"'<>`]*:(?P<secret>[^\s/?#"'<>`]+)@""")),
)

_TOKENS = (
    _Shape("jwt", re.compile(r"eyJ[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+)*+"), keep=_is_no_jwt),
    _Shape("github-token", re.compile(r"github_pat_[A-Za-z0-9_]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}")),
    _Shape("gitlab-token", re.compile(r"glpat-[A-Za-z0-9_-]{20,}")),
    _Shape("aws-key", re.compile(r"A(?:KIA|SIA)[A-Z0-9]{16}[A-Za-z0-9]*+")),
    _Shape("google-key", re.compile(r"AIza[A-Za-z0-9_-]{35,}")),
    _Shape("slack-token", re.compile(r"xox[a-z]-[A-Za-z0-9-]{10,}")),
    _Shape("pypi-token", re.compile(r"pypi-AgE[A-Za-z0-9_-]{16,}")),
    _Shape("hugging-face-token", re.compile(_LEFT + r"(?:hf|api_org)_[A-Za-z0-9]{20,}")),
    _Shape("api-key", re.compile(_LEFT + r"sk-[A-Za-z0-9_-]{16,}"), keep=_has_no_digit),
    _Shape("modal-token", re.compile(_LEFT + r"[aw][ks]-[A-Za-z0-9]{20,}")),
    _Shape(
        "bearer-token",
        re.compile(
            _LEFT + r"bearer\s++(?P<secret>(?=[A-Z._~+/=-]*+[0-9])[A-Z0-9._~+/=-]{8,}+|[A-Z._~+/=-]{20,}+)",
            re.IGNORECASE | re.ASCII,
        ),
    ),
)

SHAPES = tuple(shape.kind for shape in _BLOCKS + _TOKENS)

_CREDENTIAL_NAME = re.compile(
    r"(?:TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|API_?KEYS?|CREDENTIALS?|AUTHORIZATION"
    r"|(?:PRIVATE|ACCESS|SECRET|ACCOUNT|SIGNING)_?KEY)"
    r"(?:_|$)|_PWD$",
    re.IGNORECASE,
)
_LOCATION_NAME = re.compile(r"(?:FILE|PATH|DIR|HOME|SOCK|URL|CREDENTIALS)$", re.IGNORECASE)
_LOCATION = re.compile(r"~?/|\./|[A-Za-z]:\\|https?://")
_TRIVIAL = frozenset({"", "true", "false", "yes", "no", "on", "off", "none", "null", "default", "enabled", "disabled"})


def is_credential(name: str, value: str) -> bool:
    """Whether a variable holds a secret: named like a credential, and neither a switch nor a place."""
    if not _CREDENTIAL_NAME.search(name) or value.lower() in _TRIVIAL:
        return False
    if value.startswith("<") and value.endswith(">"):  # EOS_TOKEN=<|endoftext|>
        return False
    return not (_LOCATION_NAME.search(name) and _LOCATION.match(value))


REMEMBERED = 8192
REMEMBERED_CHARS = 256


class Redactor:
    """Takes secrets out of texts; made once from the environment whose secrets it must know."""

    def __init__(self, env: Mapping[str, str]) -> None:
        credentials = {name: value for name, value in env.items() if is_credential(name, value)}
        self._placeholders = _either(_placeholder(label) for label in (*SHAPES, *credentials))
        self._labels = _labels_of_values(credentials)
        self._values = _either(self._labels) if self._labels else None
        self._remembered = lru_cache(REMEMBERED)(self._redacted)  # records repeat the same few words

    def text(self, text: str) -> str:
        """`text` with every secret replaced by `[redacted:KIND]` or `[redacted:VARIABLE]`."""
        return self._remembered(text) if len(text) <= REMEMBERED_CHARS else self._redacted(text)

    def _redacted(self, text: str) -> str:
        for shape in _BLOCKS:
            text = self._outside_placeholders(text, partial(_without, shape))
        text = self._outside_placeholders(text, self._without_values)
        for shape in _TOKENS:
            text = self._outside_placeholders(text, partial(_without, shape))
        return text

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with the values of credentials replaced, and secrets taken out of all other values."""
        return {
            name: _placeholder(name) if is_credential(name, value) else self.text(value) for name, value in env.items()
        }

    def _without_values(self, part: str) -> str:
        if self._values is None:
            return part
        return self._values.sub(lambda match: _placeholder(self._labels[match[0]]), part)

    def _outside_placeholders(self, text: str, change: Callable[[str], str]) -> str:
        done: list[str] = []
        end = 0
        for match in self._placeholders.finditer(text):
            done += change(text[end : match.start()]), match[0]
            end = match.end()
        return "".join((*done, change(text[end:])))


def _placeholder(label: str) -> str:
    return f"[redacted:{re.sub(r'[^A-Za-z0-9_-]', '_', label)}]"


def _either(texts: Iterable[str]) -> re.Pattern[str]:
    """Any of the texts, the longest first so that one inside another doesn't hide the rest of it."""
    return re.compile("|".join(map(re.escape, sorted(set(texts), key=lambda text: (-len(text), text)))))


def _without(shape: _Shape, part: str) -> str:
    return shape.pattern.sub(lambda match: _replaced(shape, match), part)


def _replaced(shape: _Shape, match: re.Match[str]) -> str:
    if shape.keep is not None and shape.keep(match):
        return match[0]
    if "secret" not in shape.pattern.groupindex:
        return _placeholder(shape.kind)
    before, after = match.start("secret") - match.start(), match.end("secret") - match.start()
    return match[0][:before] + _placeholder(shape.kind) + match[0][after:]


def _labels_of_values(credentials: Mapping[str, str]) -> dict[str, str]:
    """Every text that gives a credential away → the variable's name."""
    public = "".join(map(_placeholder, (*SHAPES, *credentials)))
    return {
        text: name
        for name, value in credentials.items()
        for text in _forms(value)
        if _is_telling(text) and text not in public
    }


def _is_telling(text: str) -> bool:
    """Long enough that blanking it everywhere blanks nothing else."""
    return len(text) >= (MIN_SECRET_DIGITS if text.isdecimal() else MIN_SECRET_CHARS)


def _forms(value: str) -> Iterator[str]:
    """The value as it is and as JSON, `repr` and URLs show it; also line by line, for logs are read so."""
    for form in (value, value.strip()):
        yield from (form, repr(form)[1:-1], quote(form, safe="", errors="surrogatepass"))
        yield from (json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1])
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= MIN_SECRET_LINE_CHARS and not line.startswith("-----"))

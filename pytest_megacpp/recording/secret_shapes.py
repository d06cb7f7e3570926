"""Owns which texts are secrets by their shape alone (tokens, private keys, logins in URLs); must not know variables.

The list is our own. Which beginnings of tokens there are was compared with gitleaks' rules (decision 0091). Every
pattern is linear in the text: a start never scans what another start scans again.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_JWT_HEADER_CHARS = 15
MIN_JWT_BODY_CHARS = 4
MIN_RANDOM_CHARS = 16
MAX_PIECE_CHARS = 4.0
"""Letters and digits that were drawn change between small, capital and digit every 2 to 3 characters; words and dates
that people string together are longer: `Llama` `2024`. Of 20,000 drawn texts of 22 letters and digits, or of 34
letters, 0.1 % and 0.7 % have longer pieces on average.
"""

Keep = Callable[[re.Match[str]], bool]


@dataclass(frozen=True, slots=True)
class Shape:
    """A secret is the group `secret` of the pattern, or all of it; `keep` tells a harmless match."""

    kind: str
    pattern: re.Pattern[str]
    keep: Keep | None = None


_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_SEGMENT = re.compile(rf"[A-Za-z0-9]{{{MIN_RANDOM_CHARS},}}")


def looks_random(text: str) -> bool:
    """Whether some run of letters and digits in the text is random, not written by somebody."""
    return any(len(run) < MAX_PIECE_CHARS * len(_PIECE.findall(run)) for run in _SEGMENT.findall(text))


def _is_written(match: re.Match[str]) -> bool:
    return not looks_random(match[0])


def _is_no_jwt(match: re.Match[str]) -> bool:
    parts = match[0].split(".")
    return not any(
        len(head) - head.find("eyJ") >= MIN_JWT_HEADER_CHARS and len(body) >= MIN_JWT_BODY_CHARS
        for head, body in itertools.pairwise(parts)
        if "eyJ" in head
    )


def _has_no_digit(match: re.Match[str]) -> bool:
    return not any("0" <= c <= "9" for c in match[0])


def _is_no_login(match: re.Match[str]) -> bool:
    """Basic authentication is `user:password` in base64; `basic requirements` is not."""
    code = match["secret"]
    try:
        said = base64.b64decode(code + "=" * (-len(code) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return True
    return ":" not in said or not said.isprintable()


_LEFT = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=\x1b\[[0-9]m)|(?<=\x1b\[[0-9][0-9]m))"
"""Where a word begins: also behind an escaped line end, an escape of a URL, and a colour of a terminal."""
_RIGHT = r"(?![A-Za-z0-9])"

_KEY_BEGINS = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_IN_KEY = r"[^-]*+(?:-(?!----)[^-]*+)*+"
KEY_ENDS = "-----END "
OPEN_KEY = re.compile(rf"{_KEY_BEGINS}{_IN_KEY}(?:-----[A-Z0-9 ]{{0,60}})?\Z")
"""A private key that goes on behind the end of the text."""

PRIVATE_KEY = re.compile(
    rf"{_KEY_BEGINS}(?:{_IN_KEY}{KEY_ENDS}[A-Z0-9 ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:\s|\\[nr]|[A-Za-z0-9+/=]{16,})*+)"
)
BLOCKS = (
    Shape("private-key", PRIVATE_KEY),
    Shape("url-password", re.compile(r"""://[^\s/?#:@"'<>`]*:(?P<secret>[^\s/?#"'<>`]+)@""")),
)

_WORD = "[A-Za-z0-9]"
_NAME = "[A-Za-z0-9_-]"
_PREFIXED = {
    "jwt": (rf"eyJ{_NAME}*+(?:\.{_NAME}*+)*+",),
    "github-token": (r"github_pat_[A-Za-z0-9_]{20,}", rf"gh[oprsu]_{_WORD}{{20,}}"),
    "gitlab-token": (rf"gl(?:pat|ptt|rt|rtr|dt|cbt|ft|ffct|imt|agent|soat|oas)-[A-Za-z0-9_.-]{{20,}}{_WORD}*+",),
    "aws-key": (rf"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{{16}}{_WORD}*+", "ABSK[A-Za-z0-9+/]{100,}"),
    "google-key": (rf"AIza{_NAME}{{35,}}", rf"ya29\.{_NAME}{{20,}}", rf"GOCSPX-{_NAME}{{20,}}"),
    "slack-token": (
        r"xox(?:[abcepr]-[0-9]|[os]-[0-9]+-[0-9]|d-[A-Za-z0-9%]{10})[A-Za-z0-9_%-]{8,}",
        rf"xoxe\.xox[bp]-{_NAME}{{16,}}",
        rf"xapp-[0-9]-{_NAME}{{16,}}",
    ),
    "webhook": (
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9_/-]{20,}",
        r"discord(?:app)?\.com/api/webhooks/[A-Za-z0-9_/-]{20,}",
        r"webhook\.office\.com/webhookb2/[A-Za-z0-9_@/-]{20,}",
    ),
    "pypi-token": (rf"pypi-AgE{_NAME}{{16,}}",),
    "npm-token": (rf"npm_{_WORD}{{36,}}",),
    "rubygems-token": (rf"rubygems_[a-f0-9]{{48}}{_WORD}*+",),
    "docker-token": (rf"dckr_[po]at_{_NAME}{{20,}}",),
    "databricks-token": (rf"dapi[a-f0-9]{{32}}{_WORD}*+",),
    "digitalocean-token": (rf"do[opr]_v1_[a-f0-9]{{64}}{_WORD}*+",),
    "shopify-token": (rf"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{{32}}{_WORD}*+",),
    "grafana-token": (rf"glsa_{_WORD}{{32}}_{_WORD}{{8,}}", "glc_[A-Za-z0-9+/]{32,}"),
    "age-key": (rf"AGE-SECRET-KEY-1[A-Z0-9]{{50,}}{_WORD}*+",),
    "linear-key": (rf"lin_api_{_WORD}{{32,}}",),
    "notion-token": (rf"ntn_[0-9]{{11}}{_WORD}{{20,}}",),
    "sentry-token": (r"sntry[us]_[A-Za-z0-9+/=_-]{32,}",),
    "stripe-secret": (r"whsec_[A-Za-z0-9+/]{20,}",),
    "wandb-key": (r"wandb_v[0-9]_[A-Za-z0-9_]{30,}",),
    "langsmith-key": (r"lsv2_(?:pt|sk)_[a-f0-9]{32}[A-Za-z0-9_]*+",),
}
"""Beginnings that nothing else has."""

_DRAWN = {
    "hugging-face-token": (("hf_", f"{_WORD}{{30,40}}"), ("api_org_", f"{_WORD}{{30,40}}")),
    "modal-token": tuple((prefix, f"{_WORD}{{22}}") for prefix in ("ak-", "as-", "wk-", "ws-")),
    "nvidia-key": (("nvapi-", f"{_NAME}{{20,}}"),),
    "stripe-key": (("sk_live_", f"{_WORD}{{16,}}"), ("sk_test_", f"{_WORD}{{16,}}"), ("rk_live_", f"{_WORD}{{16,}}")),
    "vault-token": (("hvs.", f"{_NAME}{{24,}}"), ("hvb.", f"{_NAME}{{24,}}")),
    "sendgrid-key": (("SG.", rf"{_NAME}{{16,32}}\.{_NAME}{{32,}}"),),
    "api-key": (
        *(("sk-", f"{_NAME}{{16,}}"), ("gsk_", f"{_WORD}{{20,}}"), ("r8_", f"{_WORD}{{20,}}")),
        *(("xai-", f"{_WORD}{{32,}}"), ("pplx-", f"{_WORD}{{32,}}")),
    ),
}
"""Beginnings that words and names of models and files have, too: they must stand on their own, and what follows must
look drawn.
"""


def _as_word(prefix: str, rest: str) -> str:
    """A pattern that begins with a literal, for which texts are searched fast; only then it looks to the left."""
    return f"{re.escape(prefix)}(?<={_LEFT}{re.escape(prefix)}){rest}"


_BEARER = r"\s++(?P<secret>(?=[A-Za-z._~+/=-]*+[0-9])[A-Za-z0-9._~+/=-]{8,}+|[A-Za-z._~+/=-]{20,}+)"
_BASIC = rf"\s++(?P<secret>[A-Za-z0-9+/]{{8,}}+={{0,2}}){_RIGHT}"
_KEEPS: Mapping[str, Keep] = {"jwt": _is_no_jwt}
TOKENS = (
    *(Shape(kind, re.compile(one), _KEEPS.get(kind)) for kind, patterns in _PREFIXED.items() for one in patterns),
    Shape("api-key", re.compile(_as_word("sk-", rf"(?:proj|ant|svcacct|admin|or-v1)-{_NAME}{{20,}}")), _has_no_digit),
    *(
        Shape(kind, re.compile(_as_word(prefix, rest) + _RIGHT), _is_written)
        for kind, shapes in _DRAWN.items()
        for prefix, rest in shapes
    ),
    *(Shape("bearer-token", re.compile(_as_word(word, _BEARER))) for word in ("Bearer", "bearer", "BEARER")),
    *(Shape("basic-login", re.compile(_as_word(word, _BASIC)), _is_no_login) for word in ("Basic", "basic", "BASIC")),
    Shape(
        "url-signature",
        re.compile(
            r"(?<=[?&;])(?:sig|signature|X-(?:Amz|Goog)-(?:Signature|Security-Token))=(?P<secret>[A-Z0-9%+/=_-]{20,}+)",
            re.IGNORECASE | re.ASCII,
        ),
    ),
)

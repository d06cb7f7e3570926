"""Secrets: every shape goes, every credential's value goes, and nothing else."""

import json
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytest_megacpp.recording.redact import SHAPES, Redactor, is_credential

PEM = """-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED

MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MhgwMbRvI0MBZhpI
-----END RSA PRIVATE KEY-----"""
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"

SECRETS = {
    "github": ("github-token", "ghp_" + "aB3" * 12),
    "github-app": ("github-token", "ghs_" + "aB3" * 12),
    "github-oauth": ("github-token", "gho_" + "aB3" * 12),
    "github-fine-grained": ("github-token", "github_pat_11ABCDEFG0" + "aB_3" * 10),
    "gitlab": ("gitlab-token", "glpat-" + "aB3-" * 5),
    "hugging-face": ("hugging-face-token", "hf_" + "aBcDeF" * 5),
    "openai": ("api-key", "sk-proj-" + "aB3_-" * 8),
    "anthropic": ("api-key", "sk-ant-api03-" + "aB3_-" * 8),
    "aws": ("aws-key", "AKIAIOSFODNN7EXAMPLE"),
    "aws-temporary": ("aws-key", "ASIAIOSFODNN7EXAMPLE"),
    "google": ("google-key", "AIza" + "aB3_-" * 7),
    "slack": ("slack-token", "xoxb-1234567890-aBcDeF"),
    "pypi": ("pypi-token", "pypi-AgEIcHlwaS5vcmcCJ" + "aB3" * 8),
    "modal-id": ("modal-token", "ak-" + "aB3" * 7 + "x"),
    "modal-secret": ("modal-token", "as-" + "aB3" * 7 + "x"),
    "jwt": ("jwt", JWT),
    "pem": ("private-key", PEM),
    "pem-in-json": ("private-key", json.dumps(PEM)[1:-1]),
}


@pytest.mark.parametrize(("kind", "secret"), SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("around", ["{}", "token={} \n", '{{"key": "{}"}}', "({}, 1)", "x_{}."])
def test_a_secret_of_a_known_shape_goes(kind: str, secret: str, around: str) -> None:
    text = Redactor({}).text(around.format(secret))
    assert secret not in text
    assert f"[redacted:{kind}]" in text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://me:hunter2@host/x?y", "https://me:[redacted:url-password]@host/x?y"),
        ("redis://:p@ss@host:6379/0", "redis://:[redacted:url-password]@host:6379/0"),
        ("Authorization: Bearer abc.123-def", "Authorization: Bearer [redacted:bearer-token]"),
        ("authorization: bearer  abcdefghijklmnopqrstuv", "authorization: bearer  [redacted:bearer-token]"),
        (f"a\n{PEM}\nb", "a\n[redacted:private-key]\nb"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA0Z3V\ncut here", "[redacted:private-key]cut here"),
    ],
)
def test_what_surrounds_a_secret_stays(text: str, redacted: str) -> None:
    assert Redactor({}).text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "ssh://git@github.com/a/b and http://host:80/path and tcp://[::1]:29500 a@b",
        '["http://a:80", "user@example.com"]',
        "the bearer certificates of a bearer",
        "task-runner sk-learn-compatible-estimators disk-utilisation-9000-of-everything",
        "shelf_ hf_hub_download canvas-1 peak-memory alias-for-something",
        "keyJson.dumps.x and monkeyJump.a.b",
        "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEA0Z3V\n-----END CERTIFICATE-----",
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)",
        "-----BEGIN ----- ghp_short AKIASHORT xoxb-1",
        "",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert Redactor({}).text(text) == text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HF_TOKEN", "x", True),
        ("MODAL_TOKEN_ID", "ak-1", True),
        ("AWS_SECRET_ACCESS_KEY", "/base64+looks/like/a/path", True),
        ("wandb_api_key", "0123", True),
        ("OPENAI_APIKEY", "k", True),
        ("NPM_AUTHTOKEN", "k", True),
        ("DB_PASSWORD", "hunter2", True),
        ("MYSQL_PWD", "hunter2", True),
        ("SSH_PRIVATE_KEY", "k", True),
        ("GOOGLE_CREDENTIALS", '{"private_key": 1}', True),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json", False),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token", False),
        ("TOKEN_URL", "https://login.example.com/token", False),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("MAX_TOKENS", "4096", False),
        ("EOS_TOKEN", "<|endoftext|>", False),
        ("SECRET_FEATURE", "enabled", False),
        ("PWD", "/home/me", False),
        ("OLDPWD", "/home/me", False),
        ("PATH", "/bin", False),
    ],
)
def test_which_variables_are_credentials(name: str, value: str, expected: bool) -> None:
    assert is_credential(name, value) is expected


ENV = {
    "DB_PASSWORD": "correct horse/battery",
    "DEPLOY_TOKEN": "correct horse",
    "SSH_PRIVATE_KEY": "first line of the secret\nsecond line of the secret\n",
    "SHORT_TOKEN": "abc",
    "TOKEN_BUDGET": "131072",
    "GITHUB_TOKEN_VARIABLE": "DEPLOY_TOKEN",
    "HOME": "/home/somebody",
}


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("pw=correct horse/battery!", "pw=[redacted:DB_PASSWORD]!"),
        ("pw=correct horse!", "pw=[redacted:DEPLOY_TOKEN]!"),
        ("db?pw=correct%20horse%2Fbattery", "db?pw=[redacted:DB_PASSWORD]"),
        ("> first line of the secret", "> [redacted:SSH_PRIVATE_KEY]"),
        (
            repr({"key": ENV["SSH_PRIVATE_KEY"]}),
            "{'key': '[redacted:SSH_PRIVATE_KEY]'}",
        ),
        ("abc 131072 DEPLOY_TOKEN /home/somebody", "abc 131072 DEPLOY_TOKEN /home/somebody"),
    ],
)
def test_the_values_of_credentials_go_from_any_text(text: str, redacted: str) -> None:
    assert Redactor(ENV).text(text) == redacted


def test_an_environment_keeps_its_names_and_loses_its_secrets() -> None:
    env = {**ENV, "DATABASE_URL": "postgres://u:p@h/db", "NOTE": "is correct horse"}
    redacted = Redactor(ENV).environment(env)
    assert list(redacted) == list(env)
    assert redacted["DB_PASSWORD"] == "[redacted:DB_PASSWORD]"
    assert redacted["SHORT_TOKEN"] == "[redacted:SHORT_TOKEN]"
    assert redacted["DATABASE_URL"] == "postgres://u:[redacted:url-password]@h/db"
    assert redacted["NOTE"] == "is [redacted:DEPLOY_TOKEN]"
    assert redacted["HOME"] == "/home/somebody"
    assert Redactor(ENV).environment(redacted) == redacted


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
FRAGMENTS = st.sampled_from(
    [
        *(secret for _, secret in SECRETS.values()),
        *ENV.values(),
        *(f"[redacted:{kind}]" for kind in SHAPES),
        *(
            "eyJ",
            ".",
            "sk-",
            "ak-",
            "hf_",
            "ghp_",
            "AKIA",
            "://",
            ":",
            "@",
            "Bearer ",
            "_",
            "-----",
            "\\n",
            "[",
            "]",
        ),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "-----END PRIVATE KEY-----",
            "[redacted:",
            "DB_PASSWORD",
            "a1" * 20,
            "9",
        ),
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=6), max_size=12).map("".join)
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too, as undecodable bytes become
ENVIRONMENTS = st.dictionaries(
    st.sampled_from(["A_TOKEN", "B_SECRET", "C_PASSWORD", "D_API_KEY", "PATH"]), ANY_TEXT | FRAGMENTS
)


@patient
@given(ENVIRONMENTS | st.just(ENV), TEXTS | ANY_TEXT)
def test_redacting_twice_is_redacting_once(env: dict[str, str], text: str) -> None:
    redactor = Redactor(env)
    once = redactor.text(text)
    assert redactor.text(once) == once
    assert redactor.environment(redactor.environment(env)) == redactor.environment(env)


SEPARATORS = st.text(st.characters(exclude_categories=("L", "N")), min_size=1, max_size=4)
BEFORE = st.tuples(st.text(), SEPARATORS).map("".join)
SHAPED = st.sampled_from([secret for _, secret in SECRETS.values()])


@patient
@given(BEFORE, SHAPED, SEPARATORS, st.text())
def test_no_planted_token_survives(before: str, secret: str, separator: str, after: str) -> None:
    assert secret not in Redactor({}).text(before + secret + separator + after)


PASSWORDS = st.text(st.characters(exclude_characters="[]", exclude_categories=()), min_size=6, max_size=40)


@patient
@given(PASSWORDS, st.text(), st.text())
def test_no_planted_credential_survives(secret: str, before: str, after: str) -> None:
    assume(is_credential("MY_PASSWORD", secret) and not secret.isdecimal())
    placeholders = [f"redacted:{kind}" for kind in (*SHAPES, "MY_PASSWORD")]
    assume(not any(secret in placeholder for placeholder in placeholders))
    redactor = Redactor({"MY_PASSWORD": secret})
    for shown in (secret, repr(secret), json.dumps(secret)):
        assert shown not in redactor.text(before + shown + after)
    assert redactor.environment({"MY_PASSWORD": secret}) == {"MY_PASSWORD": "[redacted:MY_PASSWORD]"}


@pytest.mark.parametrize(
    "unit",
    [
        "eyJ",
        "eyJa.",
        "sk-",
        "://a:",
        "://a:b",
        "-----BEGIN PRIVATE KEY-----",
        "-",
        "bearer ",
        "hf_",
        "@",
        "a" * 9,
    ],
)
def test_a_hostile_megabyte_is_no_trouble(unit: str) -> None:
    """A quadratic pattern would need hours here."""
    text = (unit * (1_000_000 // len(unit)))[:1_000_000]
    assert len(Redactor(ENV).text(f"://:{text}")) <= 1_100_000


def test_kinds_fit_the_placeholder() -> None:
    assert all(re.fullmatch(r"[a-z-]+", kind) for kind in SHAPES)

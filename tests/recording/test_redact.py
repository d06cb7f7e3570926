"""Secrets: every shape goes, every credential's value goes, and nothing else."""

import base64
import json
import re
import string
from collections.abc import Callable
from functools import partial
from random import Random
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytest_megacpp.recording.credentials import is_credential
from pytest_megacpp.recording.redact import SHAPES, Redactor, is_word, number_of

PEM = """-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED

MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MhgwMbRvI0MBZhpI
-----END RSA PRIVATE KEY-----"""
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


LOGIN = base64.b64encode(b"me:hunter2").decode()


def drawn(chars: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """As whoever hands out tokens draws them; the same ones in every run of the tests."""
    return "".join(Random(f"{chars}{alphabet}").choices(alphabet, k=chars))


HEX = "0123456789abcdef"
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
    "gitlab-runner": ("gitlab-token", "glrt-" + drawn(20)),
    "hugging-face-letters": ("hugging-face-token", "hf_" + drawn(34, string.ascii_letters)),
    "modal-drawn": ("modal-token", "ak-" + drawn(22)),
    "deepseek": ("api-key", "sk-" + drawn(32, HEX)),
    "openai-classic": ("api-key", "sk-" + drawn(48)),
    "groq": ("api-key", "gsk_" + drawn(52)),
    "npm": ("npm-token", "npm_" + drawn(36)),
    "nvidia": ("nvidia-key", "nvapi-" + drawn(64)),
    "docker": ("docker-token", "dckr_pat_" + drawn(27)),
    "slack-app": ("slack-token", f"xapp-1-A0{drawn(9)}-1234567890-{drawn(40, HEX)}"),
    "slack-legacy": ("slack-token", "xoxp-2-1234567890-" + drawn(10)),
    "slack-webhook": ("webhook", f"hooks.slack.com/services/T0{drawn(7)}/B0{drawn(7)}/{drawn(24)}"),
    "discord-webhook": ("webhook", f"discord.com/api/webhooks/123456789012345678/{drawn(68)}"),
    "google-oauth": ("google-key", "ya29." + drawn(60)),
    "google-client": ("google-key", "GOCSPX-" + drawn(28)),
    "databricks": ("databricks-token", "dapi" + drawn(32, HEX)),
    "stripe": ("stripe-key", "sk_live_" + drawn(24)),
    "vault": ("vault-token", "hvs." + drawn(90)),
    "sendgrid": ("sendgrid-key", f"SG.{drawn(22)}.{drawn(43)}"),
    "age": ("age-key", "AGE-SECRET-KEY-1" + drawn(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")),
    "pem": ("private-key", PEM),
    "pem-in-json": ("private-key", json.dumps(PEM)[1:-1]),
}


@pytest.mark.parametrize(("kind", "secret"), SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "saw={} \n", '{{"key": "{}"}}', "({}, 1)", "x_{}.", "a\\n{}", "?q%3D{}", "\x1b[31m{}\x1b[0m"]
)
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
        (f"Authorization: Basic {LOGIN}", "Authorization: Basic [redacted:basic-login]"),
        ("postgres://app:postgres@db/x", "postgres://app:[redacted:url-password]@db/x"),
        ("?sv=1&sig=abc%2Fdef0123456789abcdef%3D&se=2", "?sv=1&sig=[redacted:url-signature]&se=2"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPx", "aws_secret_access_key = [redacted:assigned-secret]"),
        ("Name=x;AccountKey=abc/d0+ef==;Suffix=y", "Name=x;AccountKey=[redacted:assigned-secret];Suffix=y"),
        ("MY_TOKEN=whatever it is", "MY_TOKEN=[redacted:assigned-secret] it is"),
        ("export DB_PASS='correct horse'; ls", "export DB_PASS='[redacted:assigned-secret]'; ls"),
        ('{"password": "hunters", "user": "me"}', '{"password": "[redacted:assigned-secret]", "user": "me"}'),
        (r"{\"password\": \"hunters\"}", r"{\"password\": \"[redacted:assigned-secret]\"}"),
        ("{'clientSecret': 'hunters'}", "{'clientSecret': '[redacted:assigned-secret]'}"),
        ("password: hunter2", "password: [redacted:assigned-secret]"),
        (f"token: {drawn(40)}", "token: [redacted:assigned-secret]"),
        (f"x-api-key: {drawn(40)}", "x-api-key: [redacted:assigned-secret]"),
        (f"a\n{PEM}\nb", "a\n[redacted:private-key]\nb"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA0Z3V\ncut here", "[redacted:private-key]cut here"),
    ],
)
def test_what_surrounds_a_secret_stays(text: str, redacted: str) -> None:
    assert Redactor({}).text(text) == redacted


ORDINARY = """
ssh://git@github.com/a/b and http://host:80/path and tcp://[::1]:29500 a@b
["http://a:80", "user@example.com"]
the bearer certificates of a bearer, basic requirements and a basic understanding
task-runner sk-learn-compatible-estimators disk-utilisation-9000-of-everything
/data/sk-2024-experiments-lr1e4-bs32/run-12b sk-learn-contrib-2023-11-release sk-image-0.24.0-regression-suite
as-implementation2024results ws-parallelTransformer22 ak-checkpoint20240101final
hf_convert20240101checkpoints hf_hub_download hf_transfer20240101checkpointsEverywhere
xoxo-hugs-and-kisses xoxo-hugs-2024-to-all
shelf_ canvas-1 peak-memory alias-for-something nvapi-open-source-sdk-documentation SG.test_module.test_function
keyJson.dumps.x and monkeyJump.a.b
-----BEGIN CERTIFICATE-----
-----BEGIN ----- ghp_short AKIASHORT xoxb-1
[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)
commit 3f2a9c51d0b7e84f6a1c2d3e4f5061728394a5b6
HEAD is now at 3f2a9c51d0b Merge pull request #1234 from someone/token-rework
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
nvidia_nccl_cu12-2.27.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
torch-2.13.0+cu130-cp312-cp312-manylinux_2_28_x86_64.whl --hash=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2
https://download.pytorch.org/whl/cu130/torch-2.13.0%2Bcu130-cp312-cp312-linux_x86_64.whl
https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct/resolve/main/model-00001-of-00004.safetensors?download=true
meta-llama/Llama-3.1-405B-Instruct-FP8 mistralai/Mixtral-8x22B-Instruct-v0.1 Qwen/Qwen2.5-72B-Instruct-AWQ
deepseek-ai/DeepSeek-V3-0324 google/gemma-2-27b-it BAAI/bge-large-en-v1.5 gpt-4o-mini-2024-07-18
tests/auth/test_token.py::TestSecret::test_roundtrip_v2[password-hunter2-128]
tests/test_secrets.py::TestPassword::test_policy2_is_long PASSED
tests/test_tokenizer.py::test_special_tokens[eos_token-</s>-bos_token-<s>]
/home/somebody/.cache/huggingface/hub/models--gpt2/snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e
/tmp/torchinductor_root/fx/f6/cf6v5tq7xq3b2dj5lwwyzjbcq6zr3xhmt2k5bdh7fzkq2m3n4o5p.py
triton_per_fused_native_layer_norm_backward_r8_3 triton_poi_fused_add_mul_silu_split_with_sizes_2
_ZN2at6native13reduce_kernelILi512ELi1ENS0_8ReduceOpIfNS0_10NormTwoOpsIfffEEjfLi4ELi4EEEEEvT1_
/usr/include/c++/13/bits/stl_vector.h:1126:41: error: expected primary-expression before 'token' token
kernel.cu(42): warning #177-D: variable "secret" was declared but never referenced
ptxas info    : Compiling entry function '_Z6kernelPKfPfi' for 'sm_90a'
ninja: build stopped: subcommand failed. CMake Error at cmake/public/cuda.cmake:47 (message)
token = tokenizer.next_token(batch) if token is None else token
self.api_key = os.environ["OPENAI_API_KEY"]; password=getpass.getpass("Password: ")
def connect(user: str, password: str | None = None, token: Optional[str] = None) -> Client2:
{"eos_token": "<|endoftext|>", "pad_token_id": 50256, "unk_token": "<unk>", "max_tokens": 4096}
next_token: int64 num_tokens=131072 tokens_per_second=18234.5 token_type_ids=tensor([0, 1])
token: AutoModelForCausalLMWithValueHead secret: bool password: required
Requirement already satisfied: tokenizers<0.22,>=0.21 in /usr/lib/python3/dist-packages (0.21.4)
world_size=8 rank=3 local_rank=3 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 seed=1234567890
4f5c2c6e-8d1f-4a4e-9a0e-0c2b7f1f4b1d 2026-11-22T21:45:01.250Z 0x7f3a9c51d0b7 1e-05
i-0abcdef1234567890 sb-4XyAbCdEfGhIjKlMnOpQrS ap-AbCdEfGhIjKlMnOpQrStUv arn:aws:s3:::training/v1
"""


def test_nothing_is_taken_out_of_ordinary_texts() -> None:
    """The measure of over-redaction: hashes, paths, names of models and wheels, node ids, URLs, compilers, code."""
    env = {"DB_PASSWORD": "postgres", "APP_SECRET": "Password", "REGISTRY_TOKEN": "token", "HF_TOKEN": drawn(37)}
    redactor = Redactor(env)
    texts = [text for text in ORDINARY.splitlines() if text]
    changed = {text: redacted for text in texts if (redacted := redactor.text(text)) != text}
    assert changed == {}
    assert redactor.text(ORDINARY) == ORDINARY


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
        ("DB_PASS", "hunter2", True),
        ("GH_PAT", "x", True),
        ("NPM_AUTH", "x", True),
        ("DOCKER_AUTH_CONFIG", "{}", True),
        ("SLACK_WEBHOOK", "https://hooks.slack.com/x", True),
        ("SLACK_WEBHOOK_URL", "https://hooks.slack.com/x", True),
        ("DEPLOY_KEY", "x", True),
        ("ENCRYPTION_KEY", "x", True),
        ("RAILS_MASTER_KEY", "x", True),
        ("APP_KEY", "x", True),
        ("SECRET_KEY_BASE", "x", True),
        ("SENTRY_DSN", "https://x@sentry.io/1", True),
        ("TOKEN2", "x", True),
        ("API_KEY_2", "x", True),
        ("COOKIE", "x", True),
        ("CI_JOB_JWT", "x", True),
        ("SYSTEM_ACCESSTOKEN", "x", True),
        ("AZURE_STORAGE_CONNECTION_STRING", "x", True),
        ("SSH_AUTH_SOCK", "/tmp/ssh", False),
        ("XAUTHORITY", "/home/me/.Xauthority", False),
        ("COMPASS", "north", False),
        ("CACHE_KEY", "x", False),
        ("GPG_KEY", "A035C8C19219BA821ECEA86B64E628F8D684696D", False),
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


def behind(others: int, value: str) -> str:
    """In base64 with so many bytes before it."""
    return base64.b64encode(b"u" * others + value.encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda value: value,
    "json": lambda value: json.dumps({"a": value}),
    "json of json": lambda value: json.dumps(json.dumps({"a": value}, ensure_ascii=False), ensure_ascii=False),
    "escaped slashes": lambda value: value.replace("/", "\\/"),
    "url": lambda value: quote(value, safe=""),
    "url path": lambda value: quote(value),
    "form": lambda value: quote_plus(value),
    "hex": lambda value: value.encode().hex(),
    "HEX": lambda value: value.encode().hex().upper(),
    **{f"base64 behind {n}": partial(behind, n) for n in range(4)},
    "base64 in a login": lambda value: base64.b64encode(f"user:{value}:more".encode()).decode(),
    "base64 of a URL": lambda value: base64.urlsafe_b64encode(f"?>{value}".encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", ["correct horse/b?t+t~ry", drawn(32), "ÿÿ>>??~~ü/"])
def test_no_form_of_a_value_survives(form: str, value: str) -> None:
    text = Redactor({"DEPLOY_KEY": value}).text(f"saw {FORMS[form](value)} there")
    assert "[redacted:DEPLOY_KEY]" in text


def test_a_word_is_taken_out_only_where_it_is_a_secret() -> None:
    redactor = Redactor({"DB_PASSWORD": "postgres"})
    assert redactor.text("the postgres server at postgres.local") == "the postgres server at postgres.local"
    for assigned in ("password=postgres", "'password': 'postgres'", "DB_PASSWORD=postgres", "DB_PASS: postgres"):
        assert redactor.text(assigned) == assigned.replace("postgres", "[redacted:DB_PASSWORD]")


IDS = ["t.py::a[plain]", f"t.py::a[{drawn(8)}-ghp_{drawn(36)}]", "t.py::b"]
SAME = [f"t.py::a[ghp_{drawn(36)}]", f"t.py::a[ghp_{drawn(37)}]", "t.py::a[ghp_short]", f"t.py::a[ghp_{drawn(38)}]"]


def test_ids_without_secrets_are_as_different_as_before() -> None:
    redactor = Redactor({})
    said = redactor.ids([*IDS, *SAME])
    assert said[0] == IDS[0]
    assert len(set(said)) == len(said)
    assert not any(secret in one for one in said for secret in (drawn(36), drawn(37), drawn(38)))
    assert redactor.ids(said) == said
    by_id = dict(zip([*IDS, *SAME], said, strict=True))
    assert redactor.ids(reversed(SAME)) == [by_id[one] for one in reversed(SAME)]
    assert {number_of(by_id[one]) for one in SAME if "short" not in one} == {
        ("t.py::a[[redacted:github-token]]", number) for number in (1, 2, 3)
    }


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
            "password=",
            '"secret": "',
            "MY_TOKEN=",
            "(",
            " ",
            "Basic ",
            LOGIN,
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
    assume(is_credential("MY_PASSWORD", secret) and not secret.isdecimal() and not is_word(secret))
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
        "password=",
        'secret="',
        "token: ",
        "a-a.",
        "glpat-",
        "basic ",
        "&sig=",
        "\\",
    ],
)
def test_a_long_hostile_text_is_no_trouble(unit: str) -> None:
    """A quadratic pattern would need many minutes here."""
    text = (unit * (300_000 // len(unit)))[:300_000]
    assert len(Redactor(ENV).text(f"://:{text}")) <= 750_000


def test_kinds_fit_the_placeholder() -> None:
    assert all(re.fullmatch(r"[a-z-]+", kind) for kind in SHAPES)

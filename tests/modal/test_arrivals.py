"""What of a desk arrives in a Modal box, and what doesn't; what a launch costs and may not cost."""

import json
import textwrap
import tomllib

import pytest

from pytest_megacpp.desk.config.data import read_data
from tests.modal.test_desk import LANE, Site, site

__all__ = ["site"]

SETTINGS = """
    [tool.pytest.ini_options]
    addopts = ["--strict-markers", "--import-mode=importlib"]
    pythonpath = ["src"]
    [tool.pytest_megacpp.environment]
    CONFIGURED = "c"
    [tool.pytest_megacpp.source]
    extra = ["../lib"]
    include = ["src/built.so"]
    exclude = [".witness*"]
    [tool.pytest_megacpp.modal]
    environment = "ci"
    secrets = ["wandb"]
    pass_env = ["PASSED"]
    env = { OF_THE_BOX = "b" }
    cache_volume = "cache"
    [tool.pytest_megacpp.data]
    tokens = { volume = "corpus/tokens" }
    shards = { source = "s3://training/v1", secret = "aws", exclude = ["*.tmp"] }
    [tool.pytest_megacpp.prices]
    source = "our contract"
    gpu = { H200 = 4 }
    cpu_core = 0.5
    memory_gib = 0
"""
TESTS = """
    import os
    import pathlib
    import sys
    import pytest
    import project_code

    HERE = pathlib.Path(__file__).parent

    @pytest.mark.h200x8(ranks=1)
    def test_arrivals(modal_h200x8, request):
        files = [str(p.relative_to(HERE.parent)) for p in HERE.parent.rglob("*") if p.is_file()]
        modal_h200x8.record("files", sorted(files))
        names = ("CONFIGURED", "PASSED", "OF_THE_BOX", "FROM_SECRET", "KEPT_AT_HOME", "MODAL_TOKEN_SECRET")
        modal_h200x8.record("variables", {name: os.environ.get(name) for name in names})
        modal_h200x8.record("data", (modal_h200x8.data("tokens") / "a.bin").read_text())
        modal_h200x8.record("copy", sorted(str(p) for p in modal_h200x8.data("shards").glob("*")))
        modal_h200x8.record("cache", os.environ["TORCHINDUCTOR_CACHE_DIR"])
        modal_h200x8.record("places", [str(request.config.rootpath), str(request.config.inipath), os.getcwd()])
        modal_h200x8.record("option", request.config.getoption("keyword"))
        assert project_code.VALUE == "from src"
"""


@pytest.fixture
def filled(site: Site) -> Site:
    site.write("pyproject.toml", SETTINGS)
    site.write("test_it.py", TESTS)
    site.write("src/project_code.py", "VALUE = 'from src'\n")
    site.write("src/built.so", "binary")
    site.write("../lib/shared.txt", "s")
    site.write(".env", "TOKEN=hush\n")
    site.write(".git/HEAD", "not a repository")
    site.write("__pycache__/x.pyc", "cache")
    site.emulator.secret("wandb", {"FROM_SECRET": "s"})
    tokens = site.emulator.volume("corpus") / "tokens"
    tokens.mkdir(parents=True)
    (tokens / "a.bin").write_text("data")
    site.emulator.secret("aws", {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    shards = site.emulator.bucket("training") / "v1"
    shards.mkdir(parents=True, exist_ok=True)
    (shards / "0.bin").write_text("shard")
    (shards / "0.tmp").write_text("nobody's")
    return site


def test_what_arrives(filled: Site) -> None:
    desk = filled.start(
        *LANE,
        str(filled.root / "test_it.py"),
        env={
            **filled.emulator.environment,
            "PASSED": "p",
            "KEPT_AT_HOME": "k",
            "PYTEST_ADDOPTS": f"-p no:randomly -k test_arrivals --ignore={filled.root}/elsewhere",
        },
    )
    assert desk.wait() == 0, desk.text
    assert desk.directory is not None
    (receipt,) = (desk.directory / "receipts").iterdir()
    document = json.loads(receipt.read_text())
    records = document["ranks"][0]["records"]
    project = filled.root.name
    assert records["files"] == [
        "lib/shared.txt",
        *(f"{project}/{name}" for name in ("pyproject.toml", "src/built.so", "src/project_code.py", "test_it.py")),
    ]
    assert records["variables"] == {
        "CONFIGURED": "c",
        "PASSED": "p",
        "OF_THE_BOX": "b",
        "FROM_SECRET": "s",
        "KEPT_AT_HOME": None,
        "MODAL_TOKEN_SECRET": None,
    }
    assert records["data"] == "data"
    assert records["copy"] == ["/megacpp/data/shards/files/0.bin"]
    assert "megacpp: data shards 1 of 1 files" in desk.text
    (bucket,) = filled.sandbox.definition.cloud_bucket_mounts
    assert (bucket.bucket_name, bucket.key_prefix, bucket.mount_path) == ("training", "v1/", "/megacpp/buckets/shards")
    assert bucket.read_only
    assert bucket.credentials_secret_id
    (copy,) = [m for m in filled.sandbox.definition.volume_mounts if m.mount_path == "/megacpp/data/shards"]
    assert (
        filled.emulator.volume("megacpp-data") / copy.sub_path.strip("/") / "files" / "0.bin"
    ).read_text() == "shard"
    assert records["cache"].endswith("/cache/inductor")
    assert not records["cache"].startswith("/megacpp/cache/"), "a working copy, not the volume"
    at = f"/megacpp/source/{project}"
    assert records["places"] == [at, f"{at}/pyproject.toml", at]
    assert records["option"] == "test_arrivals"
    assert "megacpp: source 5 files, 0.0 MiB" in desk.text
    assert "not sent (named like secrets): .env" in desk.text
    assert "megacpp: h200x8 costs $8.00/h (our contract), at most $32.00" in desk.text
    run = json.loads((desk.directory / "run.json").read_text())
    assert run["rate"] == {"usd_per_hour": 2.0, "gpus": 0, "source": "our contract"}
    assert run["cost"]["usd"] > 0
    assert "hush" not in (desk.directory / "recording.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--lane-budget", "0.01"), "the budget of $0.01 buys"),
        (("--untrusted",), "untrusted code would see wandb, PASSED"),
    ],
)
def test_what_may_not_start_rents_nothing(arguments: tuple[str, ...], said: str, filled: Site) -> None:
    ran = filled.run(*LANE, *arguments)
    assert ran.code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)
    assert said in ran.text
    assert filled.emulator.sandboxes == []


def test_a_stranger_s_box_reaches_and_keeps_nothing(filled: Site) -> None:
    settings = SETTINGS.replace('secrets = ["wandb"]', 'network = "none"').replace('pass_env = ["PASSED"]', "")
    filled.write("pyproject.toml", settings)
    tables = tomllib.loads(textwrap.dedent(SETTINGS))["tool"]["pytest_megacpp"]["data"]
    _, shards = read_data(tables, filled.root)
    copied = filled.emulator.volume("megacpp-data") / shards.own_directory / "files"
    copied.mkdir(parents=True, exist_ok=True)
    (copied / "0.bin").write_text("copied by others")
    ran = filled.run(*LANE, "--untrusted")
    assert ran.outcome("test_arrivals") == "passed", ran.text
    definition = filled.sandbox.definition
    assert definition.network_access.network_access_type == definition.network_access.NetworkAccessType.BLOCKED
    mounted = {mount.mount_path: mount for mount in definition.volume_mounts}
    assert set(mounted) == {"/megacpp/runs", "/megacpp/data/tokens", "/megacpp/data/shards"}
    assert all(mounted[f"/megacpp/data/{name}"].read_only for name in ("tokens", "shards"))
    assert list(definition.cloud_bucket_mounts) == []
    assert ran.run is not None
    assert mounted["/megacpp/runs"].sub_path.strip("/") == ran.run["run_id"]

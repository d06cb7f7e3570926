"""`megacpp doctor --surface modal` against the emulator: everything is looked at, nothing is rented."""

from pathlib import Path

import modal
import pytest

from pytest_megacpp.desk.commands import cli
from pytest_megacpp.surfaces.modal import prices
from tests.modal_emulator import Emulator

CONFIGURED = """
[tool.pytest_megacpp.modal]
secrets = ["wandb"]
cache_volume = "cache"
packages = ["numpy>=2"]
[tool.pytest_megacpp.data]
tokens = { volume = "corpus/tokens" }
shards = { source = "gs://training", secret = "gcs" }
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "test_a.py").write_text("def test_a(): pass\n")
    monkeypatch.chdir(tmp_path / "p")
    monkeypatch.setattr(prices, "user_cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "p"


def examined(project: Path, toml: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    (project / "pyproject.toml").write_text(toml)
    code = cli.main(["doctor", "--surface", "modal"])
    return code, capsys.readouterr().out


def test_all_is_there(emulator: Emulator, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emulator.secret("wandb", {"WANDB_API_KEY": "k"})
    emulator.secret("gcs", {"GOOGLE_ACCESS_KEY_ID": "k"})
    modal.Volume.from_name("corpus", create_if_missing=True).hydrate()
    before = emulator.calls["SandboxCreate"]
    code, said = examined(project, CONFIGURED, capsys)
    assert code == 0, said
    for line in (
        *("source                2 files", "account               workspace emulated, client "),
        *("secret wandb          exists", "secret gcs            exists"),
        *(
            "volume megacpp-data   will be created, mounted at /megacpp/data/shards",
            "volume cache          will be created, mounted at /megacpp/cache",
        ),
        *(
            "volume corpus         exists, mounted at /megacpp/data/tokens, read-only",
            "image                 the default image is built",
        ),
        "lane h200x8           H200:8, 8 ranks, 16 cores, 20 GiB: $39.07/h (list prices as of",
    ):
        assert f"{line}" in said
    assert emulator.calls["SandboxCreate"] == before


def test_what_is_missing_is_said_with_its_remedy(
    emulator: Emulator, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = '[tool.pytest_megacpp.modal]\nsecrets = ["absent"]\nimage = "no_such:image"\n'
    toml += '[tool.pytest_megacpp.data]\nx = { volume = "nowhere" }\n'
    code, said = examined(project, toml, capsys)
    assert code == 1
    for words in (
        *("secret absent         NO: does not exist", "modal secret create absent"),
        *("volume nowhere        NO: does not exist", "modal volume create nowhere"),
        "image                 NO: image = 'no_such:image' failed with ModuleNotFoundError",
    ):
        assert words in said


def test_an_image_that_does_not_build_shows_its_last_lines(
    emulator: Emulator, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.faults.build_fails = True
    emulator.faults.build_log = ("Collecting torch", "ERROR: no matching distribution")
    code, said = examined(project, '[tool.pytest_megacpp.modal]\npackages = ["nowhere==1"]\n', capsys)
    assert code == 1
    assert "image                 NO: the image could not be built" in said


def test_without_credentials_nothing_else_is_asked(
    emulator: Emulator, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    code, said = examined(project, CONFIGURED, capsys)
    assert code == 1
    assert "account               NO: " in said
    assert "modal token new" in said
    assert "secret" not in said


def test_the_accounts_own_prices_are_asked_and_remembered(
    emulator: Emulator, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.control.rates = {"gpu_h200": "0.001", "cpu_core_sandbox": "0.00004", "memory_sandbox": "0.000007"}
    try:
        _, said = examined(project, "", capsys)
    finally:
        emulator.control.rates = {}
    assert "$31.61/h (the account's rates)" in said
    assert (project.parent / "cache" / "modal-rates.json").exists()

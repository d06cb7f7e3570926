"""Modal's own prices: believed when name and number make sense together, remembered for a week."""

from pathlib import Path

import pytest

from pytest_megacpp.surfaces.modal.prices import CPU_CORE_USD_PER_HOUR, GPU_USD_PER_HOUR, MEMORY_GIB_USD_PER_HOUR
from pytest_megacpp.surfaces.modal.rates import FRESH_S, account_prices, remember, remembered

EXPECTED = {**GPU_USD_PER_HOUR, "cpu_core": CPU_CORE_USD_PER_HOUR, "memory_gib": MEMORY_GIB_USD_PER_HOUR}


@pytest.mark.parametrize(
    "answer",
    [
        {"gpu_h200": "0.001261"},
        {"GPU H200 (per second)": "0.001261"},
        {"gpuH200Hour": "4.5396"},
        {"h200": "4.5396", "h200_nonpreemptible": "9.1", "gpu-h200-eu-west": "7.0"},
    ],
)
def test_units_are_told_by_the_size_of_the_number(answer: dict[str, str]) -> None:
    assert account_prices(answer, EXPECTED)["H200"] == pytest.approx(4.5396)


def test_sizes_of_cards_are_not_mixed_up() -> None:
    found = account_prices({"gpu_a100_80gb": "0.000694", "gpu_a100_40gb": "0.000583"}, EXPECTED)
    assert found == {"A100-80GB": pytest.approx(2.4984), "A100-40GB": pytest.approx(2.0988)}


def test_a_sandboxs_cores_are_meant() -> None:
    answer = {"cpu": "0.0000131", "sandbox_cpu_core": "0.00003942", "sandbox_memory": "0.00000672"}
    found = account_prices(answer, EXPECTED)
    assert found == {"cpu_core": pytest.approx(0.141912), "memory_gib": pytest.approx(0.024192)}


@pytest.mark.parametrize(
    "answer", [{}, {"gpu_h200": "free"}, {"gpu_h200": "400"}, {"gpu_gh200": "0.001261"}, {"volume": "1"}]
)
def test_what_makes_no_sense_is_not_believed(answer: dict[str, str]) -> None:
    assert account_prices(answer, EXPECTED) == {}


def test_an_answer_is_remembered_for_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    place = tmp_path / "new" / "rates.json"
    remember(place, {"gpu_h200": "0.001261"})
    assert remembered(place, 1_000_000.0 + FRESH_S) == {"gpu_h200": "0.001261"}
    assert remembered(place, 1_000_001.0 + FRESH_S) == {}
    assert remembered(place, 999_999.0) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"asked_at_s": "x", "rates": {}}', '{"asked_at_s": 5, "rates": 3}'])
def test_a_damaged_memory_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_text(text)
    assert remembered(tmp_path / "rates.json", 6.0) == {}
    assert remembered(tmp_path / "absent.json", 6.0) == {}

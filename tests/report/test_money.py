"""What seconds cost, and how it is said."""

import pytest

from pytest_megacpp.report.money import Cost, Rate, cost, dollars, footer

H200X8 = Rate(36.32, 8, "list prices")


@pytest.mark.parametrize(
    ("seconds", "rate", "spent"),
    [
        (90.0, H200X8, Cost(90.0, 720.0, 0.908)),
        (0.0, H200X8, Cost(0.0, 0.0, 0.0)),
        (90.0, Rate(None, 8, "not known"), Cost(90.0, 720.0, None)),
        (90.0, Rate(0.0, 0, "this machine"), Cost(90.0, 0.0, 0.0)),
    ],
)
def test_all_gpus_of_a_box_are_paid_for(seconds: float, rate: Rate, spent: Cost) -> None:
    assert cost(seconds, rate) == spent


@pytest.mark.parametrize(("usd", "said"), [(0.0, "$0.00"), (0.004, "<$0.01"), (0.354, "$0.35"), (1234.5, "$1,234.50")])
def test_dollars(usd: float, said: str) -> None:
    assert dollars(usd) == said


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (H200X8, "720.0 GPU-seconds, $0.91 (list prices)"),
        (Rate(None, 8, "?"), "720.0 GPU-seconds, price not known"),
        (Rate(0.0, 8, "this machine"), "720.0 GPU-seconds"),
        (Rate(0.0, 0, "this machine"), ""),
        (Rate(0.2, 0, "list prices"), "<$0.01 (list prices)"),
    ],
)
def test_the_footer(rate: Rate, said: str) -> None:
    assert footer(cost(90.0, rate), rate) == said

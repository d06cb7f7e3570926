"""Owns the account's own prices: asking Modal, reading the answer, remembering it; must not know what a run costs.

The names and units of the answer are Modal's and nowhere documented. A price is believed only when a name says what it
is for and the number is near a known price, as dollars per hour or per second; what is not believed is not there.
"""

import contextlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

FRESH_S = 7 * 86_400.0
HOUR_S = 3600.0
NEAR = (0.3, 3.0)  # by what factor a price may differ from the one that is known
CPU, MEMORY = "cpu_core", "memory_gib"
_WORDS: Mapping[str, tuple[str, ...]] = {CPU: ("cpu", "core"), MEMORY: ("memory", "mem", "ram")}


def account_prices(answer: Mapping[str, object], expected: Mapping[str, float]) -> dict[str, float]:
    """Dollars per hour by the names of `expected`, out of Modal's answer; of several the Sandbox's, or the plainest."""
    found = {}
    for name, about in expected.items():
        prices = [(key, price) for key in answer if (price := _price(key, answer[key], name, about)) is not None]
        if prices:
            found[name] = min(prices, key=lambda pair: ("sandbox" not in pair[0].lower(), len(pair[0]), pair[0]))[1]
    return found


def _price(key: str, value: object, name: str, about: float) -> float | None:
    if not _is_about(key, name):
        return None
    with contextlib.suppress(ValueError):
        number = float(str(value))
        for per_hour in (number, number * HOUR_S):
            if NEAR[0] <= per_hour / about <= NEAR[1]:
                return round(per_hour, 6)
    return None


def _is_about(key: str, name: str) -> bool:
    """`gpu_a100_80gb` is about `A100-80GB`, not about `A100`."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key).lower())
    if name in _WORDS:
        return any(word in _WORDS[name] for word in words) and "gpu" not in words
    wanted = re.findall(r"[a-z0-9]+", name.lower())
    sizes = [word for word in words if re.fullmatch(r"\d+gb", word)]
    return all(word in words for word in wanted) and all(size in wanted for size in sizes)


def ask() -> dict[str, str]:
    """Modal's answer as it is, in texts. Raises what the client raises; a client without the call has none."""
    import modal

    return {str(name): str(price) for name, price in modal.Workspace.from_context().billing.rates().items()}


def remember(place: Path, answer: Mapping[str, str]) -> None:
    """For later launches: asking costs a call that nobody should wait for. What can't be kept is not kept."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.new")
        beside.write_bytes(json.dumps({"asked_at_s": time.time(), "rates": dict(answer)}).encode())
        beside.replace(place)


def remembered(place: Path, now_s: float) -> dict[str, str]:
    """The answer of the last week; empty without one."""
    try:
        said = json.loads(place.read_bytes())
        if 0 <= now_s - float(said["asked_at_s"]) <= FRESH_S:
            return {str(name): str(price) for name, price in said["rates"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return {}

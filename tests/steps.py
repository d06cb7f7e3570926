"""Owns the list of all next steps as they are written, with their fields; must not know what they say."""

from pytest_megacpp.judge import next_steps
from pytest_megacpp.judge.next_steps import STEPS, VARIANTS, usual_step
from pytest_megacpp.judge.verdicts import Code


def all_steps() -> list[str]:
    """Returns each step once: that of a code, of a cause, of a variant, and those for several attempts."""
    others = (text for text in vars(next_steps).values() if isinstance(text, str) and "{" in text)
    found = {*map(usual_step, Code), *STEPS.values(), *VARIANTS.values(), *others}
    return sorted(found - {""})

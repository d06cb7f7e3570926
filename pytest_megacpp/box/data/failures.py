"""Owns how a copy of a data set ends early; must not know what is copied."""

EXCLUDE = "exclude it (exclude of the data set), or fix it in the source"
READABLE = "look at the source and the target of the data set, and at who may read and write there"


class CopyFailed(Exception):
    """A data set can't be copied. The text says what is wrong, `remedy` what to do."""

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


class Cancelled(Exception):
    """The copy was cancelled; what is copied stays."""


def shown(path: str) -> str:
    """Returns a path as messages quote it."""
    return repr(path)

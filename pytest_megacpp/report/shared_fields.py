"""Owns fields that many documents of a run have in common, so that they are made once; must not know documents."""

from pytest_megacpp.recording.events import Json


class SharedFields(dict[str, Json]):
    """Fields that nobody changes any more, free of secrets. `encoded` keeps what who writes them made of them first."""

    encoded: str | None = None

"""What the desk says of a box on this machine that ended without a word of its own."""

import pytest

from pytest_megacpp.surfaces.box_end import last_words

RAISED = """megacpp: ranks come
Traceback (most recent call last):
  File "main.py", line 1, in run
    store = TCPStore()
            ^^^^^^^^^^
torch.distributed.DistStoreError: Failed to init uv loop
"""
WARNED = """/lib/resource_tracker.py:123: UserWarning: process died unexpectedly
  warnings.warn('resource_tracker: process died unexpectedly')

"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (RAISED, "torch.distributed.DistStoreError: Failed to init uv loop"),
        (RAISED + WARNED, "torch.distributed.DistStoreError: Failed to init uv loop"),
        (RAISED.replace("Store", "Base") + RAISED, "torch.distributed.DistStoreError: Failed to init uv loop"),
        ("first\nlast\n\n", "last"),
        ("Traceback (most recent call last):\n  File x\n", "File x"),
        ("", ""),
    ],
    ids=["raised", "and warned", "raised twice", "plain", "cut off", "silent"],
)
def test_its_last_words_are_what_it_failed_with(log: str, said: str) -> None:
    assert last_words(log) == said

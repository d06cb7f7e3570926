"""Owns what makes this rank's keys of the compile caches its own; must not know caches or seeds.

torch computes the key of a graph before passes that may compile the rank into the code (bucketed all-gathers and
overlap scheduling, pytorch #188332), so ranks that share a cache directory would load each other's code. The tag is a
part of every key of Inductor and AOT autograd; generated code and kernels stay shared, their names say what they hold.
"""

import os
from typing import Any

TAG = "TORCH_COMPILE_CACHE_KEY_TAG"


def separate_keys(rank: int, ranks: int) -> None:
    """Adds the rank to the tag of the launch, for children of this process as well; an empty tag stays empty.

    Raises AttributeError where torch knows no tag.
    """
    base = os.environ.get(TAG, "")
    if not base:
        return
    import torch.compiler.config as imported

    config: Any = imported
    os.environ[TAG] = config.cache_key_tag = f"{base}-rank{rank}of{ranks}"

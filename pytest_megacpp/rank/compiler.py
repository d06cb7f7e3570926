"""Owns what torch's compiler is asked to do with code of this plugin; must not know what that code does."""

import contextlib
from types import CodeType


def left_alone_by_compiler(code: CodeType) -> None:
    """What is called from anywhere, inside a compiled region too, isn't compiled there with its arguments' values in
    mind. A torch that can't be told so compiles it.
    """
    with contextlib.suppress(Exception):
        from torch._C._dynamo import eval_frame

        skip = eval_frame._FrameAction.SKIP
        strategy = eval_frame._FrameExecStrategy(skip, skip)
        eval_frame.set_code_exec_strategy(code, strategy)

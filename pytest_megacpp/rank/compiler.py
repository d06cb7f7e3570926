"""Owns what torch's compiler is asked to do with code of this plugin; must not know what that code does."""

import contextlib
from types import CodeType


class Unwatchable(RuntimeError):
    """This torch is built differently where it was to be watched."""


def as_torchs(code: CodeType, original: CodeType) -> CodeType:
    """Returns `code` with the name and file of torch's: by its file the compiler decides whether to leave a frame
    alone.
    """
    return code.replace(
        co_filename=original.co_filename,
        co_name=original.co_name,
        co_qualname=original.co_qualname,
        co_firstlineno=original.co_firstlineno,
    )


def left_alone_by_compiler(code: CodeType) -> None:
    """Keeps the compiler from compiling code that is called from anywhere, compiled regions included, once for each
    value of its arguments. A torch that has no mark for that compiles it.
    """
    with contextlib.suppress(Exception):
        from torch._C._dynamo import eval_frame

        skip = eval_frame._FrameAction.SKIP
        strategy = eval_frame._FrameExecStrategy(skip, skip)
        eval_frame.set_code_exec_strategy(code, strategy)

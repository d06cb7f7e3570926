"""Owns whether `-k` may select a test whose cases are not known yet; must not know pytest's items."""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import product

_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")
MAX_UNKNOWN = 8


def words_to_match(expression: str, names: Collection[str], *, has_methods: bool) -> tuple[str, ...] | None:
    """Returns words that names of a case may contain beside `names`, so that the expression is true; none are needed
    where it is true already. None where no case can match, or the expression is beyond this reading. Without
    `has_methods` only parameters are unknown, and a word that begins like the name of a test is in none.
    """
    tokens = _TOKEN.findall(expression)
    words = list(dict.fromkeys(t for t in tokens if t not in ("(", ")", "and", "or", "not")))
    known = {word for word in words if any(word.lower() in name.lower() for name in names)}
    unknown = [word for word in words if word not in known and (has_methods or not word.lower().startswith("test"))]
    if len(unknown) > MAX_UNKNOWN:
        return None
    for chosen in product((False, True), repeat=len(unknown)):
        more = {word for word, is_there in zip(unknown, chosen, strict=True) if is_there}
        try:
            if _is_true(tokens, (known | more).__contains__):
                return tuple(more)
        except (IndexError, SyntaxError):
            return None
    return None


def _is_true(tokens: Sequence[str], matches: Callable[[str], bool]) -> bool:
    waiting = [*tokens, ""][::-1]
    result = _either(waiting, matches)
    if waiting != [""]:
        raise SyntaxError
    return result


def _either(waiting: list[str], matches: Callable[[str], bool]) -> bool:
    result = _both(waiting, matches)
    while waiting[-1] == "or":
        waiting.pop()
        result = _both(waiting, matches) or result
    return result


def _both(waiting: list[str], matches: Callable[[str], bool]) -> bool:
    result = _one(waiting, matches)
    while waiting[-1] == "and":
        waiting.pop()
        result = _one(waiting, matches) and result
    return result


def _one(waiting: list[str], matches: Callable[[str], bool]) -> bool:
    token = waiting.pop()
    if token == "not":
        return not _one(waiting, matches)
    if token == "(":
        result = _either(waiting, matches)
        if waiting.pop() != ")":
            raise SyntaxError
        return result
    if token in ("", ")", "and", "or"):
        raise SyntaxError
    return matches(token)

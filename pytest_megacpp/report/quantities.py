"""Owns how numbers are written, in narrow columns and in documents of JSON; must not know what they are of."""

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
MOST = 2**52  # what every reader of JSON takes for a whole number
UNKNOWN = "–"


def seconds_text(seconds: float | None) -> str:
    """`0.012 s`, `3.42 s`, `272 s`, `12.5 min`, `3.1 h`."""
    if seconds is None:
        return UNKNOWN
    size = abs(seconds)
    if size < 0.9995:
        return f"{seconds:.3f} s"
    if size < 99.995:
        return f"{seconds:.2f} s"
    if size < 10 * MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE_S:.1f} min" if size < 2 * HOUR_S else f"{seconds / HOUR_S:.1f} h"


def waited_text(shortest_s: float, longest_s: float) -> str:
    """`131 s`, `4.2 s`, `0.04 s`, as verdicts write it, so that one wait has one number; `0.69 to 0.71 s` where none
    holds for all; empty if that is no time at all.
    """
    digits = 0 if longest_s >= 10 else 1 if longest_s >= 1 else 2
    shortest, longest = (f"{seconds:.{digits}f}" for seconds in (shortest_s, longest_s))
    if not float(longest):
        return ""
    return f"{longest} s" if shortest == longest else f"{shortest} to {longest} s"


def age_text(seconds: float | None) -> str:
    """`12 s`, `5 min`, `3 h`, `9 d`."""
    if seconds is None:
        return UNKNOWN
    seconds = max(0.0, seconds)
    for limit_s, unit_s, unit in ((2 * MINUTE_S, 1.0, "s"), (2 * HOUR_S, MINUTE_S, "min"), (2 * DAY_S, HOUR_S, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / DAY_S:.0f} d"


def usd_text(usd: float | None) -> str:
    """`$0.35`, `<$0.01`, `free`."""
    if usd is None:
        return UNKNOWN
    if usd == 0:
        return "free"
    return "<$0.01" if usd < 0.01 else f"${usd:,.2f}"


def percent_text(share: float) -> str:
    """`12 %`; what isn't nothing or all is never shown as that."""
    rounded = round(100 * share)
    if rounded in (0, 100) and share not in (0.0, 1.0):
        return "<1 %" if rounded == 0 else ">99 %"
    return f"{rounded} %"


def whole(number: int) -> int:
    """A count in a document, which a recording may claim to be any number."""
    return min(max(number, 0), MOST)


def microseconds(seconds: float) -> int:
    """Whole microseconds in a document; a recording may claim any time."""
    return round(min(max(seconds * 1e6, 0.0), MOST))

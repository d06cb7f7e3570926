"""Nothing that a rank or a box wrote acts on a terminal, breaks a JUnit file or is a command of a workflow, whatever
field it is in: every string of every kind of event is made hostile, one kind after the other, and replayed.
"""

import dataclasses
import json
import re
import types
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import pytest

from pytest_megacpp.recording.codec import key_of, to_json
from pytest_megacpp.recording.numbers import NO_NUMBERS, Numbers
from pytest_megacpp.recording.timeline import fold
from pytest_megacpp.recording.wire import KINDS, RANK_KINDS, read_all

pytest_plugins = ["pytester"]

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTILE = (
    "\x1b]52;c;aGk=\x07\x9b31m\x1b[2Jx\x08\u202e\ud800\r\n::stop-commands::pwn\n  ::error::pwn\n##[error]pwn\n\x00<b>&"
)
STRUCTURE = {"run", "world", "src", "kind"}
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
COMMAND = re.compile(r"^\s*::[^\n]*::|##\w*\[", re.MULTILINE)


def hostile(value: Any, hint: Any) -> Any:
    """The value with every string in it made hostile, keys of free objects included; `hint` is its type. Words of
    closed sets stay: with another one the whole event is unknown, and nothing of it is shown.
    """
    if closed(hint) is not None:
        return value
    if isinstance(value, dict):
        of = next((one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)), None)
        if of is not None:
            hints = get_type_hints(of)
            return {name: hostile(one, hints[name]) for name, one in value.items()}
        return {key + HOSTILE: hostile(one, None) for key, one in value.items()}
    if isinstance(value, list):
        inner = next(iter(get_args(hint)), None)
        return [hostile(one, inner) for one in value]
    return value + HOSTILE if isinstance(value, str) else value


def closed(hint: Any) -> type[StrEnum] | None:
    """The closed set that a value of this type is from."""
    return next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, StrEnum)), None)


def spoilt(recorded: list[str], kind: str, kept: Collection[str] = ()) -> str:
    """The recording with every string of the events of this kind made hostile, but for what says whose event it is, and
    the `kept` fields.
    """
    lines = []
    for line in recorded:
        event = json.loads(line)
        if event["kind"] == kind:
            hints = hints_by_key(KINDS[kind])
            free = {n: v for n, v in event.items() if n not in {*STRUCTURE, "v", "seq", "t", "nodeid", *kept}}
            event |= {name: hostile(value, hints[name]) for name, value in free.items()}
        lines.append(json.dumps(event))
    return "\n".join(lines) + "\n"


def hints_by_key(cls: Any) -> dict[str, Any]:
    """The types of a fact's fields, by their keys in a recording."""
    hints = get_type_hints(cls)
    return {key_of(field): hints[field.name] for field in dataclasses.fields(cls)}


def of_one_test() -> Iterator[tuple[str, list[str]]]:
    """Golden recordings of the test that the session has, by name."""
    for path in sorted(GOLDEN.glob("*/recording.jsonl")):
        text = path.read_text(encoding="utf-8")
        if '"nodeid":"suite/test_step.py::test_step"' in text:
            yield path.parent.name, text.splitlines()


def chosen() -> dict[str, list[str]]:
    """A golden recording with such events for each kind; a red one where there is one, since more of it is shown."""
    found: dict[str, list[str]] = {}
    recorded = sorted(of_one_test(), key=lambda one: one[0].startswith(("passed", "skipped", "xfail")))
    for _, lines in recorded:
        for kind in {json.loads(line)["kind"] for line in lines} & set(KINDS) - set(found):
            found[kind] = lines
    red = next(lines for name, lines in recorded if name == "test-failed")
    return found | {kind: with_one(red, kind) for kind in set(KINDS) - set(found)}


def with_one(lines: list[str], kind: str) -> list[str]:
    """The recording with an event of this kind behind the last one of its source."""
    source = "rank 0" if kind in RANK_KINDS else "box"
    last = max(n for n, line in enumerate(lines) if f'"src":"{source}"' in line and '"world":""' not in line)
    stamp = {name: value for name, value in json.loads(lines[last]).items() if name in (*STRUCTURE, "v", "seq", "t")}
    fields = {key: simplest(hint) for key, hint in hints_by_key(KINDS[kind]).items()}
    added = json.dumps({**stamp, "seq": stamp["seq"] + 1, "kind": kind, **to_json(fields)})
    return [*lines[: last + 1], added, *lines[last + 1 :]]


def simplest(hint: Any) -> Any:
    """A value of this type in which every string that can be there is."""
    match get_origin(hint) or hint:
        case types.UnionType:
            return simplest(get_args(hint)[0])
        case of if of is tuple:
            return (simplest(get_args(hint)[0]),) if get_args(hint) else ()
        case of if of in (dict, Mapping):
            return {"x": simplest(get_args(hint)[1])} if get_args(hint) else {}
        case of if dataclasses.is_dataclass(of):
            return {f.name: simplest(get_type_hints(of)[f.name]) for f in dataclasses.fields(of)}
        case of if (words := closed(of)) is not None:
            return next(iter(words)).value
        case of if of is Numbers:
            return NO_NUMBERS
        case of if of in (str, int, float, bool):
            return "x" if of is str else of(0)
        case _:
            return "x"


CHOSEN = chosen()
NAMED = dict(of_one_test())
CASES = [  # everything at once, then with a verdict that is as before
    *(pytest.param(kind, lines, (), id=kind) for kind, lines in sorted(CHOSEN.items())),
    *(
        pytest.param(kind, NAMED[name], ("outcome", "when", "code", "reason"), id=f"{kind} of {name}")
        for kind, names in {
            "reported": ("skipped", "skipped-in-call", "xfailed", "xpassed", "test-failed"),
            "rank-collected": ("startup-failure-import", "startup-failure-collection-file-skipped"),
            "problem-found": ("environment", "box-lost-killed", "blocked-budget"),
        }.items()
        for name in names
    ),
]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "suite").mkdir()
    test = "import pytest\n@pytest.mark.h200x8(ranks=4)\ndef test_step(): pass\n"
    (pytester.path / "suite" / "test_step.py").write_text(test)
    return pytester


@pytest.mark.parametrize(("kind", "recorded", "kept"), CASES)
def test_what_was_written_is_only_shown(
    suite: pytest.Pytester, kind: str, recorded: list[str], kept: Collection[str]
) -> None:
    path = suite.path / "spoilt.jsonl"
    path.write_text(spoilt(recorded, kind, kept), encoding="utf-8")
    for style in ("-vrA", "--tb=line") if kind == "reported" else ("-vrA",):
        options = ("-m", "h200x8", "--replay", str(path), "--junitxml=out.xml", "--lane-annotations", "off", style)
        ran = suite.runpytest_inprocess(*options)
        said = ran.stdout.str() + ran.stderr.str()
        assert "test_step" in said
        assert "INTERNALERROR" not in said
        assert not ACTING.search(said), said
        assert not COMMAND.search(said), said
        ElementTree.parse(suite.path / "out.xml")


@pytest.mark.parametrize("kind", sorted(CHOSEN))
def test_a_spoilt_recording_still_has_its_events(kind: str) -> None:
    timeline = fold(read_all(spoilt(CHOSEN[kind], kind).encode()))
    assert (timeline.damaged, timeline.gaps, timeline.unknown) == ([], [], 0)


def test_every_kind_is_tried() -> None:
    assert set(CHOSEN) == set(KINDS)

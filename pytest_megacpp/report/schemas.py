"""Owns JSON Schemas of `run.json` and of receipts, and the list of all that the package ships; must not know a file.

What is a dataclass in them is derived from it. `tests/report/test_schemas.py` renews the files in
`pytest_megacpp/schemas`, and checks against them what is written.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pytest_megacpp.judge.verdicts import Code, Consequence, Evidence, Outcome, Verdict
from pytest_megacpp.recording.events import LIMIT_NAMES, Limits
from pytest_megacpp.recording.json_schema import DIALECT, Schema, event_schema, object_schema, schema_of
from pytest_megacpp.recording.vocabulary import ForwardOrigin, Preset, Purpose, SeedMode, SeedState, SettingOrigin
from pytest_megacpp.report import receipt, run_json
from pytest_megacpp.report.money import Cost, Rate
from pytest_megacpp.report.run_json import Git, Ids, RunStatus

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number"}
JSON: Schema = {}


def _object(**properties: Schema) -> Schema:
    """With all of these fields; what isn't known is null in it."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _or_null(schema: Schema) -> Schema:
    return {"type": [schema["type"], "null"]} if set(schema) == {"type"} else {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _enum(members: type) -> Schema:
    return schema_of(members, {})


RANKS = _list(COUNT)


def run_schema() -> Schema:
    """Of `run.json`."""
    definitions: dict[str, Schema] = {}
    test = _object(
        nodeid=TEXT,
        outcome=_or_null(_enum(Outcome)),
        verdict=_or_null(_enum(Code)),
        receipt=_or_null(TEXT) | {"description": "relative to the run's directory; null where none was written"},
        expects=JSON | {"description": "the verdict that a fault drill expects"},
        cost=_whole(Cost, definitions),
    )
    return _document(
        "run.json",
        run_json.SCHEMA,
        definitions,
        run_id=TEXT,
        status=_enum(RunStatus),
        lane=TEXT,
        surface=TEXT,
        dry_run=FLAG,
        ranks=COUNT,
        started_at=TEXT,
        finished_at=_or_null(TEXT),
        tests=_list(test),
        counts=_object(selected=COUNT, **{str(outcome): COUNT for outcome in Outcome}),
        gate=JSON | {"description": "what a change-based gate decided; null without one"},
        unreported=_list(TEXT),
        bad_endings=_list(TEXT),
        **_circumstances(definitions),
        cost=_whole(Cost, definitions),
        rate=_whole(Rate, definitions),
        boxes=_list(TEXT) | {"description": "ids of the runs, one per box, of which this is the joint run; else none"},
        part_of=_or_null(TEXT) | {"description": "id of the joint run to which this box's run belongs"},
    )


def receipt_schema() -> Schema:
    """Of a receipt."""
    definitions: dict[str, Schema] = {}
    verdict = _verdict(definitions)
    skew = _named("skew", _object(first_forward_s=_or_null(SECONDS), worst_wait_s=_or_null(SECONDS)), definitions)
    attempt = _object(
        purpose=_enum(Purpose),
        preset=_or_null(_enum(Preset)),
        outcome=_enum(Outcome),
        verdict=verdict,
        limits=_or_null(_whole(Limits, definitions)),
        start_s=_or_null(SECONDS),
        end_s=_or_null(SECONDS),
        skew=skew,
        flight_record=_or_null(TEXT),
        ranks=_list(_named("attempt_rank", _object(**_measured(definitions)), definitions)),
    )
    return _document(
        "a receipt",
        receipt.SCHEMA,
        definitions,
        run_id=TEXT,
        nodeid=TEXT,
        outcome=_enum(Outcome),
        verdict=verdict,
        distributed_mode=_or_null(TEXT),
        preset=_or_null(_enum(Preset)),
        warmup=_or_null(TEXT) | {"description": "why the first attempt was a warm-up, or was none"},
        attempts=_list(attempt) | {"description": "empty where there was one"},
        world_size=_or_null(COUNT),
        backend=TEXT,
        dry_run=FLAG,
        limits=_object(**{name: _or_null(SECONDS) for name in LIMIT_NAMES}),
        durations_s=_map(SECONDS),
        ranks=_list(_named("rank", _rank(definitions), definitions)),
        skew=skew,
        flight_record=_or_null(TEXT),
        cost=_whole(Cost, definitions),
        lane=TEXT,
        surface=TEXT,
        started_at=TEXT,
        **_circumstances(definitions),
    )


SCHEMAS: Mapping[str, Callable[[], Schema]] = MappingProxyType(
    {"run.json": run_schema, "receipt.json": receipt_schema, "event.json": event_schema}
)
"""By their names in `pytest_megacpp/schemas`."""


def _document(title: str, schema: str, definitions: dict[str, Schema], **fields: Schema) -> Schema:
    whole = _object(schema={"const": schema}, **fields)
    return {"$schema": DIALECT, "title": title, **whole, "$defs": dict(sorted(definitions.items()))}


def _named(name: str, schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A reference to a schema, which is put into `definitions`."""
    definitions[name] = schema
    return {"$ref": f"#/$defs/{name}"}


def _whole(cls: type, definitions: dict[str, Schema]) -> Schema:
    """A dataclass of which every field is written."""
    made = object_schema(cls, definitions)
    return _named(cls.__name__, made | {"required": list(made["properties"])}, definitions)


def _verdict(definitions: dict[str, Schema]) -> Schema:
    made = _whole(Verdict, definitions)
    for part in (Evidence, Consequence):
        _whole(part, definitions)
    return made


def _circumstances(definitions: dict[str, Schema]) -> dict[str, Schema]:
    setting = _object(value=_or_null(TEXT), source=_enum(SettingOrigin), phase=_or_null(TEXT), reason=TEXT)
    return {
        "seed": _seed(definitions),
        "environment": _map(setting),
        "versions": _map(TEXT),
        "machine": JSON,
        "devices": _object(requested=TEXT, observed=_or_null(_list(TEXT)), details=JSON),
        "git": _whole(Git, definitions),
        "ids": _whole(Ids, definitions),
    }


def _seed(definitions: dict[str, Schema]) -> Schema:
    lacking = _named("lacking", _object(nodeid=TEXT, ranks=RANKS, keys=_list(TEXT)), definitions)
    return _object(
        mode=_or_null(_enum(SeedMode)),
        state=_or_null(_enum(SeedState)),
        id=_or_null(TEXT),
        key=_or_null(TEXT),
        run=_or_null(TEXT),
        coverage=_or_null(SECONDS),
        covered=_or_null(COUNT),
        wanted=_or_null(COUNT),
        bytes_start=_or_null(COUNT),
        missing=_or_null(_list(lacking)),
        detail=_or_null(TEXT),
        state_end=_or_null(_enum(SeedState)),
        coverage_end=_or_null(SECONDS),
        bytes_end=_or_null(COUNT),
        published=_or_null(TEXT),
        promoted=_or_null(FLAG),
        helped=_or_null(FLAG),
        missed=_or_null(_list(lacking)),
        detail_end=_or_null(TEXT),
    )


def _measured(definitions: dict[str, Schema]) -> dict[str, Schema]:
    """What is known of a rank in every attempt."""
    last = _named("collective", _object(group=TEXT, seq={"type": "integer"}, op=TEXT, done=FLAG), definitions)
    collectives = _object(entered=COUNT, completed=COUNT, last=_or_null(last))
    cache = _object(hits=_or_null(COUNT), misses=_or_null(COUNT))
    return {
        "rank": COUNT,
        "first_forward_s": _or_null(SECONDS),
        "compile_s": _or_null(SECONDS),
        "graphs": _or_null(COUNT),
        "cache": _named("cache", cache, definitions),
        "collectives": _named("collectives", collectives, definitions),
    }


def _rank(definitions: dict[str, Schema]) -> Schema:
    error = _object(
        type=TEXT, message=TEXT, traceback=TEXT, when=TEXT, file=_or_null(TEXT), line=_or_null({"type": "integer"})
    )
    dropped = _object(kernel=TEXT, dropped=JSON, limit_bytes=_or_null(COUNT), kept=JSON)
    return _object(
        **_measured(definitions),
        hash_seed=_or_null(TEXT),
        phases=_list(_object(name=TEXT, start_s=SECONDS, end_s=_or_null(SECONDS))),
        first_forwards=_list(_object(name=TEXT, seconds=SECONDS, origin=_enum(ForwardOrigin))),
        warmup=_or_null(_object(reason=TEXT, seconds=_or_null(SECONDS))),
        dropped_configs=_list(dropped),
        device=_or_null(_object(index=COUNT, name=TEXT, uuid=TEXT)),
        exit=_object(
            code=_or_null({"type": "integer"}),
            signal=_or_null(TEXT),
            at_s=_or_null(SECONDS),
            oom_killed=_or_null(FLAG),
            by_box=_or_null(FLAG),
        ),
        error=_or_null(error),
        stack=_or_null(TEXT),
        last_line=_or_null(TEXT),
        records=_map(JSON),
        bucket_reads=_list(_object(data=TEXT, path=TEXT, reads=COUNT)),
    )

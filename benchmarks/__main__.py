"""Owns the command line: which rows to measure, how often, where the figures go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from benchmarks.commands import Workshop
from benchmarks.measure import Variant, alternate
from benchmarks.rows import ROWS
from benchmarks.table import Json, Table, as_json, grid_head, grid_row, render

SCHEMA = "megacpp.benchmarks/1"
PACKAGES = ("pytest", "torch", "pytest-megacpp", "pytest-xdist", "pytest-timeout")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the named rows; 0 when every variant that could run gave figures."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as scratch:
        tables = _tables(options.row or list(ROWS), Workshop(Path(scratch)), options.table)
        if not tables:
            parser.error(f"no table is named like {options.table}")
        names = {variant.name for table in tables for variant in table.variants}
        if unknown := sorted(set(options.only or ()) - names):
            parser.error(f"no variant {', '.join(unknown)}; there are {', '.join(sorted(names))}")
        return _measure(_narrowed(tables, options.only), options.rounds, options.json)


def _measure(tables: Sequence[Table], rounds: int | None, target: Path | None) -> int:
    """Print each table as soon as it is there, and save what there is so far."""
    results: dict[str, Json] = {}
    report: dict[str, Json] = {"schema": SCHEMA, "machine": _machine(), "tables": results}
    failed, grid = False, list[str]()
    for table in tables:
        print(f"{table.name} …", file=sys.stderr)
        samples = alternate(table.variants, rounds or table.rounds, _progress)
        print(render(table, samples), flush=True)
        if table.truth is not None:
            grid += [grid_row(table, samples)] if grid else [grid_head(table), grid_row(table, samples)]
        results[table.name] = as_json(table, samples)
        _write(target, report)
        failed = failed or any(sample.outcome.failure for sample in samples)
    if grid:
        print("\n".join(grid))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours and the peers, in turns.")
    parser.add_argument("row", nargs="*", type=_row, help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--rounds", type=_positive, help="rounds of A B C … (default: 3; misreport 1, healthy 5)")
    parser.add_argument(
        "--only", action="append", metavar="VARIANT", help="no other variants than the base, repeatable"
    )
    parser.add_argument("--table", default="*", metavar="GLOB", help="no other tables, e.g. 'misreport-s*'")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures and every sample here")
    return parser


def _row(text: str) -> str:
    if text not in ROWS:
        raise argparse.ArgumentTypeError(f"no row {text!r}; there are {', '.join(ROWS)}")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _tables(rows: Sequence[str], workshop: Workshop, pattern: str) -> list[Table]:
    every = [table for row in rows for table in ROWS[row](workshop)]
    return [table for table in every if fnmatch(table.name, pattern)]


def _narrowed(tables: Sequence[Table], only: Sequence[str] | None) -> list[Table]:
    """The tables with none but the named variants; the base stays in, to compare with."""
    if only is None:
        return list(tables)
    return [replace(table, variants=_kept(table, {*only, table.base})) for table in tables]


def _kept(table: Table, names: set[str]) -> tuple[Variant, ...]:
    return tuple(variant for variant in table.variants if variant.name in names)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _machine() -> dict[str, Json]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": list(os.getloadavg()),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write(path: Path | None, report: dict[str, Json]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())

"""Runs any command under gVisor, as Modal runs a box.

    python -m tests.gvisor [--runsc PATH|all] [--keep DIR] -- pytest -m h200x8 --surface local --dry-run …

Written files survive below the current directory and below each `--keep`; all others vanish. The exit status is the
command's; with several builds the highest. `--fetch` gets the other builds that apt offers, and `all` runs each.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.gvisor import builds, running
from tests.gvisor.sandbox import Files, Job


def main(arguments: Sequence[str]) -> int:
    options, command = _parse(arguments)
    try:
        if options.fetch:
            builds.fetch()
        builds.check_machine()
        found = builds.found(options.runsc)
    except (builds.Unusable, OSError, subprocess.SubprocessError) as e:
        print(f"python -m tests.gvisor: {e}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    if not command:
        for build in found:
            print(f"{build.month}  {build.version}  {build.path}")
        return 0
    return max(_run(build, command, options.keep) for build in found)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        "python -m tests.gvisor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runsc", default="", metavar="PATH|all", help="which build; $RUNSC, else the one on the path")
    parser.add_argument("--keep", type=Path, action="append", default=[], metavar="DIR", help="share this directory")
    parser.add_argument("--fetch", action="store_true", help="unpack every version of runsc that apt offers")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --; none lists the builds")
    options = parser.parse_args(arguments)
    return options, options.command[1:] if options.command[:1] == ["--"] else options.command


def _run(build: builds.Build, command: Sequence[str], keep: Sequence[Path]) -> int:
    print(f"gvisor {build.month} ({build.path})", file=sys.stderr, flush=True)
    here = Path.cwd()
    files = Files(kept=[here, *(path.resolve(strict=True) for path in keep)])
    return running.run(build, Job(command, running.environment(), str(here)), files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

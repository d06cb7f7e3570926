"""Owns which builds of `runsc` this machine has, and how to get more of them; must not know what they run.

Builds differ in what their kernel lacks, so tests name them by month: Debian bookworm has 2022-12, its backports and
trixie 2024-07. Those that apt offers beside the installed one are unpacked below the checkout, never installed.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".runsc"
VARIABLE = "RUNSC"
ALL = "all"
HOW_TO_INSTALL = "install the package runsc (Debian, Ubuntu: apt-get install runsc), or set RUNSC to the program"


class Unusable(Exception):
    """This machine cannot run a sandbox; the text says what to do about it."""


@dataclass(frozen=True)
class Build:
    """One `runsc` program. `version` is its own word for it."""

    path: Path
    version: str

    @property
    def month(self) -> str:
        """`2022-12` of `0.0~20221219.0`, else the whole version."""
        found = re.search(r"(20\d\d)(\d\d)\d\d", self.version)
        return f"{found[1]}-{found[2]}" if found else self.version

    @classmethod
    def at(cls, path: Path) -> "Build":
        try:
            ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError) as e:
            raise Unusable(f"{path} is no working runsc ({e}): {HOW_TO_INSTALL}") from None
        return cls(path, version_in(ran.stdout))


def version_in(text: str) -> str:
    """The version in what `runsc --version` prints."""
    found = re.search(r"version (\S+)", text)
    if found is None:
        raise Unusable(f"this is not what runsc says of its version: {text!r}")
    return found[1]


def found(choice: str = "", environment: Mapping[str, str] = os.environ) -> list[Build]:
    """The builds that are wanted: `choice` or $RUNSC is a path or `all`; the installed one by default."""
    choice = choice or environment.get(VARIABLE, "")
    if choice not in ("", ALL):
        return [Build.at(Path(choice).resolve())]
    installed = shutil.which("runsc", path=environment.get("PATH"))
    paths = [Path(installed)] if installed else []
    unpacked = sorted(UNPACKED.glob("*/usr/bin/runsc"))
    builds = [Build.at(path) for path in (paths + unpacked if choice == ALL else paths or unpacked[:1])]
    if not builds:
        raise Unusable(f"there is no runsc: {HOW_TO_INSTALL}")
    return list({build.version: build for build in reversed(builds)}.values())[::-1]


def check_machine() -> None:
    """Raises where no build could work."""
    if os.geteuid() != 0:
        raise Unusable("runsc needs root to run a sandbox here: use sudo, or run in a container as root")


def fetch() -> list[Path]:
    """Unpacks every version of the package that apt offers, and returns those that are new."""
    offered = subprocess.run(["apt-cache", "madison", "runsc"], capture_output=True, text=True, timeout=60, check=True)
    return [_unpack(version) for version in versions_in(offered.stdout) if not (UNPACKED / version).exists()]


def versions_in(madison: str) -> Iterator[str]:
    """The versions in a table of `apt-cache madison`, once each."""
    rows = (line.split("|") for line in madison.splitlines())
    return iter(dict.fromkeys(row[1].strip() for row in rows if len(row) == 3 and row[2].strip().endswith("Packages")))


def _unpack(version: str) -> Path:
    with tempfile.TemporaryDirectory() as directory:
        as_ourselves = ("-o", "APT::Sandbox::User=root")  # apt's own user may not write here
        download = ["apt-get", "download", *as_ourselves, f"runsc={version}"]
        subprocess.run(download, cwd=directory, check=True, timeout=300, stdout=subprocess.DEVNULL)
        (package,) = Path(directory).glob("*.deb")
        (UNPACKED / version).mkdir(parents=True)
        subprocess.run(["dpkg", "-x", package, UNPACKED / version], check=True, timeout=60)
    return UNPACKED / version

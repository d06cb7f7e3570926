"""mypy for this system, then for desks on others: of the package only what such a desk may load. What starts and runs
boxes needs Linux, and says so with `sys.platform`, which mypy follows.

`python -m tests.types_of_desks`
"""

import subprocess
import sys
from pathlib import Path

from tests.platforms import OTHERS, desk_modules
from tests.test_layers import MODULES


def main() -> int:
    """The exit code: that of the first check that fails."""
    mypy = [sys.executable, "-m", "mypy"]
    root = Path(__file__).parents[1]
    for platform in ("linux", *OTHERS):
        files = [str(MODULES[name].relative_to(root)) for name in sorted(desk_modules(platform))]
        of_a_desk = [
            "--platform",
            platform,
            "--cache-dir",
            f".mypy_cache/{platform}",
            "--follow-imports",
            "silent",
            *files,
        ]
        print(f"mypy: {platform}", flush=True)
        if code := subprocess.call([*mypy, *(of_a_desk if platform != "linux" else [])], cwd=root):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Owns `python -m pytest_megacpp`, which is the `megacpp` command; must not know what that does."""

import sys

from pytest_megacpp.desk.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())

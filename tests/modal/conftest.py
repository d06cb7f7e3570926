"""These tests drive the client itself."""

import pytest

pytest.importorskip("modal", reason="the modal client isn't installed: pip install -e '.[test]'")

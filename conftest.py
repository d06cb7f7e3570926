"""The project's own tests start real pytest sessions."""

pytest_plugins = ["pytester"]

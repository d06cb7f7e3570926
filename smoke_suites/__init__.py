"""Suites that run on a lane: ``pytest -m h200x8 smoke_suites``.

torch is only ever imported inside tests, fixtures and helpers, so a desk without torch collects every suite.
"""

"""Distributed GPU smoke tests that tell you what happened.

PYTEST_DONT_REWRITE: a rank imports this before pytest can rewrite it, and no module here asserts for users.
"""

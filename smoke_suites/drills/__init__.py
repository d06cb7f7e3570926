"""Faults on purpose, each with the verdict it must get."""

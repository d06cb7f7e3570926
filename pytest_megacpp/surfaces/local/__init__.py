"""Boxes on this machine."""

"""Boxes in Modal sandboxes."""

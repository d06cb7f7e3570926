"""Where a box runs."""

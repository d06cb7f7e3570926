"""Where somebody types pytest: from options to reports."""

"""The process that the user starts pytest in: from options to reports."""

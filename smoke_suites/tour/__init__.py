"""Three faults of a training step, and what is said about them: ``pytest -m h200x8 -rP smoke_suites/tour``."""

"""One run: its plan, its files, from the start of the box to the last receipt."""

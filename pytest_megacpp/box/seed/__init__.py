"""Compile caches: the store of seeds, and what a run does with them."""

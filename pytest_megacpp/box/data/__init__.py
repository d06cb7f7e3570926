"""Data sets, copied once to where ranks read them."""

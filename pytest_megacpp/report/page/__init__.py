"""`timeline.html`: a run as one page, to be opened from disk."""

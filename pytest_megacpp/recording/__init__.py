"""What all parts speak: the facts of a run, how they become bytes and views."""

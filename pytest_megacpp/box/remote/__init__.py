"""A box far from its desk: how it starts, lives on a lease and is followed."""

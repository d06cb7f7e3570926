"""The processes of a world: what they are forked from, their stores, their connections to the box."""

"""A real gVisor under the lane: the builds of `runsc`, sandboxes of them, and the tests that run inside."""

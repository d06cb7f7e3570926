"""Looking at ranks from outside while a test runs: collectives, compile counters, stacks, CPU time."""

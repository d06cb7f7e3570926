"""The numbers of the design, measured side by side with the peers: ``python -m benchmarks``."""

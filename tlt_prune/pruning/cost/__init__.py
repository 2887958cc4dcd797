"""Parameters, MACs and latency of a model."""

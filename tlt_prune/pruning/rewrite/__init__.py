"""The smaller model, and the check that it computes the same."""

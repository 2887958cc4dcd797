"""Running a model that is pruned on data."""

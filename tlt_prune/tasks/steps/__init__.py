"""Steps of the scripts that are the same for every task."""

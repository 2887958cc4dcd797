"""Choosing channels by score under a budget."""

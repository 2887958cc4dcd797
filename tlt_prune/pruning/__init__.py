"""Choosing channels and rewriting models without them."""

"""Flax modules that take plain keyword arguments."""

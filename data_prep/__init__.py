"""Preparation: long videos to seekable records, once, so that training reads a random window in milliseconds."""

"""Somebody's numbers: read, matched, measured and reported."""

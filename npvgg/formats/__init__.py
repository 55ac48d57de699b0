"""Bytes of a file → named arrays, and back, strictly checked."""

"""Measure npvgg beside its rivals: `python -m bench --help`."""

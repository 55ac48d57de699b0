"""Whole files: into other files, what they are, whether a fold is right, whether two agree."""

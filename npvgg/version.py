"""The version number, on the ground floor: files say which npvgg wrote them."""

__version__ = "0.1.0"

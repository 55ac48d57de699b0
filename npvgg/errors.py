"""The errors of the house: each names the argument, what was expected and what was found.

All of them are `ValueError`s as well, so code that knows nothing of npvgg can still catch them.
Imports nothing.
"""


class NpvggError(ValueError):
    """Everything that npvgg raises on purpose."""


class ArgumentError(NpvggError):
    """A call was made with something it cannot serve: a name, a number, a shape, a dtype."""


class WeightsError(NpvggError):
    """A file or a dict of weights is not what it must be; nothing of it has been used."""


class ImageError(NpvggError):
    """An image cannot be read, or is not one that may be read."""

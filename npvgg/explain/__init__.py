"""Lessons: every step of a network in numbers and pictures, with your own weights.

    import npvgg, npvgg.explain

    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, reparameterize=False)
    lesson = npvgg.explain.fold(model, "stages.0.1")

A lesson holds its numbers as arrays; it prints itself, shows itself in a notebook, and gives
`as_text()`, `as_json()`, `as_html()` and `as_svg()`. `npvgg explain` is the same from the shell.
"""

from npvgg.explain.fold import fold
from npvgg.explain.identities import identities
from npvgg.explain.im2col import im2col
from npvgg.explain.lesson import Lesson
from npvgg.explain.mistakes import mistakes
from npvgg.explain.network import network
from npvgg.explain.photo import photo
from npvgg.explain.pixel import pixel
from npvgg.explain.quantize import quantize
from npvgg.explain.questions import questions
from npvgg.explain.training import training
from npvgg.explain.winograd import winograd

__all__ = [
    "Lesson", "fold", "identities", "im2col", "mistakes", "network", "photo", "pixel", "quantize",
    "questions", "training", "winograd",
]  # fmt: skip

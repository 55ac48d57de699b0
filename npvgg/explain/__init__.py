"""Lessons: every step of a network in numbers and pictures, with your own weights.

    import npvgg, npvgg.explain

    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, reparameterize=False)
    lesson = npvgg.explain.fold(model, "stages.0.1")

A lesson holds its numbers as arrays; it prints itself, shows itself in a notebook, and gives
`as_text()`, `as_json()`, `as_html()` and `as_svg()`. `npvgg explain` is the same from the shell.
"""

from npvgg.explain.lesson import Lesson
from npvgg.explain.lessons.fold import fold
from npvgg.explain.lessons.identities import identities
from npvgg.explain.lessons.im2col import im2col
from npvgg.explain.lessons.mistakes import mistakes
from npvgg.explain.lessons.network import network
from npvgg.explain.lessons.photo import photo
from npvgg.explain.lessons.pixel import pixel
from npvgg.explain.lessons.quantize import quantize
from npvgg.explain.lessons.questions import questions
from npvgg.explain.lessons.training import training
from npvgg.explain.lessons.winograd import winograd

__all__ = [
    "Lesson", "fold", "identities", "im2col", "mistakes", "network", "photo", "pixel", "quantize",
    "questions", "training", "winograd",
]  # fmt: skip

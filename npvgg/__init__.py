"""npvgg: RepVGG in pure NumPy and Numba."""

from npvgg import data
from npvgg.config import RepVGGConfig
from npvgg.create import create_model
from npvgg.errors import ArgumentError, ImageError, NpvggError, WeightsError
from npvgg.info import info
from npvgg.model import FeatureNet, RepVGG
from npvgg.ops import softmax, topk
from npvgg.pretrained import list_models
from npvgg.threads import set_num_threads

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "FeatureNet",
    "ImageError",
    "NpvggError",
    "RepVGG",
    "RepVGGConfig",
    "WeightsError",
    "create_model",
    "data",
    "info",
    "list_models",
    "set_num_threads",
    "softmax",
    "topk",
]

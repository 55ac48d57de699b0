"""npvgg: RepVGG in pure NumPy and Numba."""

from npvgg import data
from npvgg.config import RepVGGConfig
from npvgg.create import create_model
from npvgg.engines.threads import set_num_threads
from npvgg.errors import ArgumentError, ImageError, NpvggError, WeightsError
from npvgg.hub.pretrained import list_models
from npvgg.model import FeatureNet, RepVGG
from npvgg.ops import softmax, topk
from npvgg.tools.summary import info
from npvgg.version import __version__

__all__ = [
    "ArgumentError",
    "FeatureNet",
    "ImageError",
    "NpvggError",
    "RepVGG",
    "RepVGGConfig",
    "WeightsError",
    "__version__",
    "create_model",
    "data",
    "info",
    "list_models",
    "set_num_threads",
    "softmax",
    "topk",
]

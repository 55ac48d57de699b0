"""npvgg: RepVGG in pure NumPy and Numba."""

from npvgg import data
from npvgg.config import RepVGGConfig
from npvgg.create import create_model
from npvgg.engines.threads import set_num_threads
from npvgg.errors import AbsentError, ArgumentError, ImageError, NpvggError, WeightsError
from npvgg.hub.pretrained import get_pretrained_cfg, is_model, list_models, list_pretrained
from npvgg.model import FeatureNet, RepVGG
from npvgg.ops import softmax, topk
from npvgg.prediction import predict
from npvgg.summary import info
from npvgg.version import __version__

__all__ = [
    "AbsentError",
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
    "get_pretrained_cfg",
    "info",
    "is_model",
    "list_models",
    "list_pretrained",
    "predict",
    "set_num_threads",
    "softmax",
    "topk",
]

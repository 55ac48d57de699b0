"""npvgg: RepVGG in pure NumPy and Numba.

What is offered here is imported when it is first asked for (PEP 562): `import npvgg` costs nothing,
and the command line listens for signals before NumPy is there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from npvgg.version import __version__

if TYPE_CHECKING:
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

_HOMES = {
    "config": ("RepVGGConfig",),
    "create": ("create_model",),
    "engines.threads": ("set_num_threads",),
    "errors": ("AbsentError", "ArgumentError", "ImageError", "NpvggError", "WeightsError"),
    "hub.pretrained": ("get_pretrained_cfg", "is_model", "list_models", "list_pretrained"),
    "model": ("FeatureNet", "RepVGG"),
    "ops": ("softmax", "topk"),
    "prediction": ("predict",),
    "summary": ("info",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = (
    "attention", "batch", "config", "create", "data", "engines", "errors", "explain", "export",
    "features", "formats", "from_timm", "hub", "images", "model", "network", "ops", "pages",
    "pipeline", "prediction", "reparam", "rounding", "summary", "testing", "tools", "variants",
    "weights",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        globals()[name] = found = getattr(import_module(f"npvgg.{_HOME[name]}"), name)
        return found
    if name in _MODULES:
        return import_module(f"npvgg.{name}")
    raise AttributeError(f"module 'npvgg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})

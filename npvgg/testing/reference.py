"""The reference maths under one name: what `trace.run` takes its operations from."""

from npvgg.attention import attend
from npvgg.ops import activation, batch_norm, conv2d, global_pool, linear

__all__ = ["activation", "attend", "batch_norm", "conv2d", "global_pool", "linear"]

"""The processor that Numba compiles for, in LLVM's words."""

from __future__ import annotations

from llvmlite import binding
from numba import config


def processor() -> tuple[str, str]:
    """Return name and features, "+avx2,-avx512f …"; $NUMBA_CPU_NAME and the like have their say.

    Numba leaves AVX out where $NUMBA_ENABLE_AVX says so. If it no longer tells, LLVM does.
    """
    name, features = config.CPU_NAME, config.CPU_FEATURES
    if features is None:
        try:
            from numba.core.codegen import get_host_cpu_features
        except ImportError:
            features = binding.get_host_cpu_features().flatten()
        else:
            features = get_host_cpu_features()
    return name or binding.get_host_cpu_name(), features

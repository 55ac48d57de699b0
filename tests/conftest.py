"""What every test file may ask for."""

import os
from zlib import crc32

# Before NumPy comes. The products of small networks are small: BLAS's threads would wait for each
# other, spinning, most of the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

from npvgg.formats import checkpoint


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test's name alone: no test moves another's data."""
    return np.random.default_rng(crc32(request.node.name.encode()))


@pytest.fixture
def load(tmp_path):
    """Write bytes into a file, and load it as weights."""

    def load(data, **options):
        (tmp_path / "model.pth").write_bytes(data)
        return checkpoint.load_with_metadata(tmp_path / "model.pth", **options)

    return load

"""What every test file may ask for."""

from zlib import crc32

import numpy as np
import pytest


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test's name alone: no test moves another's data."""
    return np.random.default_rng(crc32(request.node.name.encode()))

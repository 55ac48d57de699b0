"""What the tests of PyTorch's files share."""

import numpy as np
import pytest
from torchwriter import stream_file, zip_file

from npvgg.errors import WeightsError

FORMATS = {"zip": zip_file, "stream": stream_file}
both = pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)

X, Y = np.arange(3.0), np.arange(4.0)


def refused(load, data, match, **options):
    with pytest.raises(WeightsError, match=rf"model\.pth: (?s:.*)(?:{match})"):
        load(data, **options)


def assert_same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        array = np.asarray(array)
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].flags.c_contiguous
        assert got[name].flags.aligned
        assert got[name].flags.writeable
        assert got[name].dtype.isnative
        np.testing.assert_array_equal(got[name], array, err_msg=name)

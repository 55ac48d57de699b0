"""For those who test an implementation of RepVGG, their own or npvgg's: the door of the kit.

A test of a port, for pytest:

    import numpy as np
    from npvgg.testing import assert_matches, conformance_pack

    def test_my_port():
        pack = conformance_pack("tiny_g2")  # or the path of a folder by `npvgg conformance`
        assert_matches(my_port, pack)

`my_port` takes the input, (N, C, H, W) float32, and gives the logits, or a dict with any tensors of
`pack.probes` under their names; it may as well be a dict of arrays, a file of them, a torch module,
an ONNX file or a model of npvgg's. If it is wrong, the test fails with a line per tensor that stops
at the first wrong one. `compare` gives the same as a `Report` and raises nothing.
"""

from npvgg.kit.bounds import error_bound
from npvgg.kit.compare import assert_matches, compare
from npvgg.kit.conformance import conformance_pack
from npvgg.kit.pack import Pack
from npvgg.kit.report import Report, Row
from npvgg.kit.trace import Probe, Step, layer_by_layer

__all__ = [
    "Pack",
    "Probe",
    "Report",
    "Row",
    "Step",
    "assert_matches",
    "compare",
    "conformance_pack",
    "error_bound",
    "layer_by_layer",
]

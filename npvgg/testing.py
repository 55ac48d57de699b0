"""For those who test an implementation of RepVGG, their own or npvgg's: the door of the kit.

    import numpy as np
    from npvgg.testing import conformance_pack

    def test_my_port():
        pack = conformance_pack("tiny", form="deploy")      # or Pack.read("folder")
        y = my_port(pack.tensor("input"), weights=pack.network("deploy"))
        error = np.abs(y.astype(np.float64) - pack.tensor("logits"))
        assert (error <= pack.bound("logits")).all()

`layer_by_layer(model, x)` gives every tensor of a run, `error_bound(model, x)` how far a correct
float32 implementation may be from each, `conformance_pack` both and what goes with them; written to
a folder it needs neither npvgg nor Python (`npvgg conformance` does that).
"""

from npvgg.kit.bounds import error_bound
from npvgg.kit.conformance import conformance_pack
from npvgg.kit.pack import Pack
from npvgg.kit.trace import Probe, Step, layer_by_layer

__all__ = ["Pack", "Probe", "Step", "conformance_pack", "error_bound", "layer_by_layer"]

"""The cross-check kit, for those who test an implementation of RepVGG, their own or npvgg's.

    from npvgg.testing import assert_matches, conformance_pack

    def test_my_port():
        pack = conformance_pack("tiny_g2")  # or Pack.read(a folder by `npvgg conformance`)
        assert_matches(lambda x: my_port(x, weights=pack.network("deploy")), pack)

The port takes the input, (N, C, H, W) float32, and gives the logits, or a dict with any tensors of
`pack.probes` under their names; in its place may stand a dict of arrays, a file of them, a torch
module, an ONNX file or a model of npvgg's. If it is wrong, the test fails with a line per tensor,
up to the first wrong one and what was done there. `compare` gives the same as a `Report`, and
`html_page(report)` as a page with maps of the errors.

`layer_by_layer(model, x)` gives every tensor of a run, `error_bound(model, x)` how far a correct
float32 implementation may be from each, `conformance_pack` both and what goes with them; written to
a folder it needs neither npvgg nor Python (`npvgg conformance` does that).

`trace` spells a network out as operations, `steady` computes them with the same bits everywhere,
`seeded` and `tiny` make weights and small networks; `bounds`, `packs`, `comparison` and `diagnosis`
are built on these, in that order. This folder may import everything but the command line. What must
not be broken: what it calls right and wrong does not depend on the engine that is tested.
"""

from npvgg.testing.bounds.walk import error_bound
from npvgg.testing.comparison.compare import assert_matches, compare
from npvgg.testing.comparison.html import page as html_page
from npvgg.testing.comparison.report import Report, Row
from npvgg.testing.diagnosis.diagnose import Finding, diagnose
from npvgg.testing.packs.conformance import conformance_pack
from npvgg.testing.packs.pack import Pack
from npvgg.testing.trace import Probe, Step, layer_by_layer

__all__ = [
    "Finding", "Pack", "Probe", "Report", "Row", "Step", "assert_matches", "compare",
    "conformance_pack", "diagnose", "error_bound", "html_page", "layer_by_layer",
]  # fmt: skip

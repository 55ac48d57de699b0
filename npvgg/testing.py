"""For those who test an implementation of RepVGG, their own or npvgg's: the door of the kit."""

from npvgg.kit.bounds import error_bound
from npvgg.kit.conformance import conformance_pack
from npvgg.kit.diagnosis import Finding, diagnose
from npvgg.kit.pack import Pack
from npvgg.kit.trace import Probe, Step, layer_by_layer

__all__ = [
    "Finding", "Pack", "Probe", "Step", "conformance_pack", "diagnose", "error_bound",
    "layer_by_layer",
]  # fmt: skip

"""The deploy network as ONNX, named like timm's modules: from a model, or from a file of weights.

    export_onnx(model, "a2.onnx", preprocess="uint8-nhwc")
    convert_to_onnx("RepVGG-A2-train.pth", "a2.onnx")

`graph` is an ONNX graph as data, `layers` writes the network's layers into it, `writer` the file.
The folder may import all that makes a model, not `testing` and the command line; of the package
onnx (extra `[onnx]`) it imports what it needs when it is needed. What must not be broken: the graph
is the reference engine's arithmetic, node for node, and every tensor in it bears timm's name.
"""

from npvgg.export.graph import OPSET
from npvgg.export.writer import PREPROCESSINGS, Exported, convert_to_onnx, export_onnx

__all__ = ["OPSET", "PREPROCESSINGS", "Exported", "convert_to_onnx", "export_onnx"]
